"""Random numbers: one seed in; uniform tensors for dropout, and a NumPy generator for initial weights, out.

What is drawn while a network runs comes from a :class:`Generator`, whose whole state is a tensor of four
words, so that a compiled step carries it along. Initial weights are drawn on the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from smelt import ops
from smelt.errors import TraceError, at_user_line
from smelt.graph.trace import current_tracer
from smelt.tensor import Tensor

_WORD = 0xFFFFFFFF


class Generator:
    """A stream of random numbers: draw ``i`` is a function of the seed and ``i`` alone.

    The numbers are Threefry-2x32 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): the
    same on every machine and for any number of threads.

    Parameters
    ----------
    seed : int, default 0
        From 0 to 2**64 − 1.

    Attributes
    ----------
    state : Tensor
        uint32[4]: the key (the seed's low and high word) and the counter of draws.

    Examples
    --------
    >>> from smelt.random import Generator
    >>> a, b = Generator(7), Generator(7)
    >>> bool((a.uniform((3,)) == b.uniform((3,))).numpy().all())
    True
    """

    def __init__(self, seed: int = 0) -> None:
        self.state = Tensor(_words(seed), name="random_state")

    def seed(self, seed: int) -> None:
        """Start the stream of ``seed`` from its beginning, in place.

        Raises
        ------
        ValueError
            When ``seed`` is not an integer from 0 to 2**64 − 1.
        TraceError
            Inside a compiled function.
        """
        words = _words(seed)
        _refuse_tracing("seed")
        self.state.assign(words)

    def uniform(self, shape: Sequence[int], dtype: str = "float32") -> Tensor:
        """Return numbers drawn uniformly from [0, 1), and move on to the next draw.

        Parameters
        ----------
        shape : sequence of int
            Shape of the result; the batch size of a traced tensor's ``shape`` may be part of it.
        dtype : {"float32", "float64"}, default "float32"
            There are 24 random bits in either.

        Examples
        --------
        >>> from smelt.random import Generator
        >>> Generator(0).uniform((2, 3)).shape
        (2, 3)
        """
        out = ops.random_uniform(self.state, shape=tuple(shape), dtype=dtype)
        self.state.assign(ops.advance_random(self.state))
        return out


def _words(seed: int) -> np.ndarray:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 1 << 64:
        raise ValueError(at_user_line(f"seed: expected an integer from 0 to 2**64 - 1, received {seed!r}"))
    n = int(seed)
    return np.array([n & _WORD, n >> 32, 0, 0], np.uint32)


def _refuse_tracing(what: str) -> None:
    if current_tracer() is not None:
        raise TraceError(
            at_user_line(f"{what} inside a compiled function would happen once, while tracing: call it outside")
        )


def _philox(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([int(seed), 0x5EED], np.uint64)))


default = Generator(0)
"""The stream of everything that is drawn while a network runs."""

_weights = _philox(0)


def seed(n: int) -> None:
    """Restart all of Smelt's random numbers: initial weights and dropout.

    Parameters
    ----------
    n : int
        From 0 to 2**64 − 1. A process that never calls this has seed 0.

    Raises
    ------
    ValueError
        When ``n`` is something else.
    TraceError
        Inside a compiled function.

    Examples
    --------
    >>> from smelt import nn, random
    >>> random.seed(3)
    >>> first = nn.Linear(2, 2).weight.numpy().copy()
    >>> random.seed(3)
    >>> bool((nn.Linear(2, 2).weight.numpy() == first).all())
    True
    """
    global _weights
    default.seed(n)
    _weights = _philox(n)


def uniform(shape: Sequence[int], dtype: str = "float32") -> Tensor:
    """Return numbers drawn uniformly from [0, 1) from the default stream; see :meth:`Generator.uniform`.

    Examples
    --------
    >>> from smelt import random
    >>> u = random.uniform((1000,)).numpy()
    >>> bool(0 <= u.min() and u.max() < 1)
    True
    """
    return default.uniform(shape, dtype)


def weights() -> np.random.Generator:
    """Return the NumPy generator that initial weights are drawn from."""
    _refuse_tracing("drawing initial weights")
    return _weights


def get_state() -> dict[str, np.ndarray]:
    """Return the state of all random numbers as arrays, for :func:`set_state`.

    Returns
    -------
    dict of numpy.ndarray
        ``"default"``: uint32[4]; ``"weights"``: uint64[13].

    Examples
    --------
    >>> from smelt import random
    >>> state = random.get_state()
    >>> u = random.uniform((4,)).tolist()
    >>> random.set_state(state)
    >>> random.uniform((4,)).tolist() == u
    True
    """
    s: Any = _weights.bit_generator.state
    tail = [s["buffer_pos"], s["has_uint32"], s["uinteger"]]
    words = [*s["state"]["counter"], *s["state"]["key"], *s["buffer"], *tail]
    return {"default": default.state.numpy().copy(), "weights": np.array(words, np.uint64)}


def set_state(state: Mapping[str, np.ndarray]) -> None:
    """Continue from a state that :func:`get_state` returned, to the bit.

    Raises
    ------
    ValueError
        When ``state`` has other keys, shapes or dtypes; nothing is changed then.
    TraceError
        Inside a compiled function.
    """
    global _weights
    _refuse_tracing("set_state")
    expected = {"default": ((4,), np.uint32), "weights": ((13,), np.uint64)}
    arrays = {k: np.asarray(v) for k, v in state.items()}
    if {k: (a.shape, a.dtype) for k, a in arrays.items()} != expected:
        received = {k: f"{a.dtype}{list(a.shape)}" for k, a in arrays.items()}
        raise ValueError(f"random state: expected default uint32[4] and weights uint64[13], received {received}")
    words = arrays["weights"]
    if words[10] > 4 or words[11] > 1 or words[12] > _WORD:
        raise ValueError(f"random state: weights end in {words[10:].tolist()}, which is no generator's position")
    fresh = _philox(0)
    fresh.bit_generator.state = {
        "bit_generator": "Philox",
        "state": {"counter": words[:4].copy(), "key": words[4:6].copy()},
        "buffer": words[6:10].copy(),
        "buffer_pos": int(words[10]),
        "has_uint32": int(words[11]),
        "uinteger": int(words[12]),
    }
    default.state.assign(arrays["default"])
    _weights = fresh
