"""Loss scaling: gradients of a float16 step are kept away from zero by multiplying the loss.

In: a loss, then an optimizer whose parameters hold the gradients of the scaled loss. Out: an update by the unscaled
gradients, or none when they overflowed; the scale adapts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from smelt import ops
from smelt.autograd import no_grad
from smelt.errors import at_user_line
from smelt.functions import maximum, where
from smelt.nn.arguments import integer, number
from smelt.optim.optimizer import Optimizer
from smelt.tensor import Tensor

LEAST = 2.0**-24


class LossScaler:
    """Dynamic loss scaling (Micikevicius et al., "Mixed precision training", 2018).

    The loss is multiplied by ``scale`` before ``backward``, the gradients are divided by it before the update. When a
    gradient is not finite, the update is left out and the scale shrinks; after ``interval`` updates in a row it grows.
    All of it is traced into a compiled step: nothing returns to Python to decide.

    Parameters
    ----------
    scale : float, default 65536
        The first scale; a power of two divides out exactly.
    growth : float, default 2
        What the scale is multiplied by after ``interval`` good steps; at least 1.
    backoff : float, default 0.5
        What it is multiplied by after a bad one; less than 1. The scale never falls below 2**-24.
    interval : int, default 2000
        Good steps between two growths.

    Raises
    ------
    ValueError
        When an argument has a wrong value.

    Examples
    --------
    >>> import numpy as np, smelt
    >>> from smelt import optim
    >>> w = smelt.Parameter([[1.0]])
    >>> optimizer, scaler = optim.SGD([w], lr=0.25), optim.LossScaler()
    >>> @smelt.compile(precision="f16")
    ... def step(x):
    ...     loss = (x @ w).sum()
    ...     scaler.scaled(loss).backward()
    ...     scaler.step(optimizer)
    ...     return loss
    >>> x = np.ones((1, 1), np.float32)
    >>> step(x).item(), w.item(), scaler.scale  # a gradient of 65536 is infinite in float16: no update
    (1.0, 1.0, 32768.0)
    >>> step(x).item(), w.item(), scaler.scale
    (1.0, 0.75, 32768.0)
    """

    def __init__(self, scale: float = 65536.0, growth: float = 2.0, backoff: float = 0.5, interval: int = 2000) -> None:
        owner = type(self).__name__
        first = number(owner, "scale", scale, LEAST)
        self.growth = number(owner, "growth", growth, 1.0)
        self.backoff = number(owner, "backoff", backoff, 0.0)
        if not 0.0 < self.backoff < 1.0:
            raise ValueError(
                at_user_line(f"{owner}: backoff: expected more than 0 and less than 1, received {backoff}")
            )
        self.interval = integer(owner, "interval", interval)
        self._scale = Tensor(np.asarray(first, np.float32), name="scale")
        self._good = Tensor(np.asarray(0.0, np.float32), name="good")

    @property
    def scale(self) -> float:
        """What the next loss is multiplied by."""
        return float(self._scale.item())

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss times the scale, to call ``backward`` on."""
        return loss * self._scale

    def step(self, optimizer: Optimizer, when: Tensor | None = None) -> None:
        """Unscale the gradients and let the optimizer step, unless one of them is not finite; then adapt the scale.

        Parameters
        ----------
        optimizer : Optimizer
            Whose parameters hold gradients of the scaled loss.
        when : Tensor, optional
            A bool scalar; where it is False nothing is updated, nor is the scale.
        """
        finite = self.unscale(optimizer)
        with no_grad():
            optimizer.step(when=finite if when is None else finite & when)
        self.update(finite, when)

    def unscale(self, optimizer: Optimizer) -> Tensor:
        """Divide the gradients by the scale; return whether all of them are finite, as a bool scalar.

        For those who clip gradients before the update: ``unscale``, clip, ``optimizer.step(when=...)``, ``update``.
        """
        with no_grad():
            inverse = 1.0 / self._scale
            largest: Tensor | None = None
            for p in optimizer.params:
                if p.grad is not None:
                    p.grad = p.grad * inverse.astype(p.dtype)
                    size = p.grad.abs().max().astype("float32")
                    largest = size if largest is None else maximum(largest, size)
            return Tensor(np.asarray(True)) if largest is None else ops.isfinite(largest)

    def update(self, finite: Tensor, when: Tensor | None = None) -> None:
        """Shrink the scale after a step that was not ``finite``; count those that were, and grow it in time."""
        with no_grad():
            good = self._good + 1.0
            grown = good >= float(self.interval)
            kept = where(grown, self._scale * self.growth, self._scale)
            scale = where(finite, kept, maximum(self._scale * self.backoff, LEAST))
            good = where(finite & ~grown, good, 0.0)
            self._scale.assign(scale if when is None else where(when, scale, self._scale))
            self._good.assign(good if when is None else where(when, good, self._good))

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of the scale and of the number of good steps since it last changed.

        Examples
        --------
        >>> from smelt import optim
        >>> sorted(optim.LossScaler().state_dict())
        ['good', 'scale']
        """
        return {"scale": self._scale.numpy().copy(), "good": self._good.numpy().copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned.

        Raises
        ------
        ValueError
            When it is not what :meth:`state_dict` returns; nothing is changed then.
        """
        if set(state) != {"scale", "good"} or any(np.shape(v) != () for v in state.values()):
            raise ValueError(
                at_user_line(f"LossScaler.load_state_dict: expected scale and good, received {list(state)}")
            )
        self._scale.assign(np.asarray(state["scale"], np.float32))
        self._good.assign(np.asarray(state["good"], np.float32))
