"""What an operator is called with: the inputs and attributes of one node in; tensors, numbers and defaults out.

A value is a :class:`~smelt.tensor.Tensor`, or a NumPy array where it is known without running the network: a constant,
or a shape. In a shape the batch's size may stand as the object it is while a step is traced.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from smelt.graph.graph import Node
from smelt.graph.trace import BatchSize, current_tracer
from smelt.tensor import Tensor

Value = Tensor | np.ndarray
MAX_KNOWN = 1 << 20
"""Most elements of an array that is computed from constants or shapes."""


class Unsupported(ValueError):
    """Says what a node asks for that Smelt cannot do, and what it could."""


class DependsOnData(Unsupported):
    """Says that a shape or the like is computed by the network itself."""


class Arguments:
    """The inputs, attributes and version of one node.

    Parameters
    ----------
    values : sequence of Value or None
        Its inputs; None where an optional one is left out.
    attributes : dict
        As in the file.
    version : int
        Of the operator set.
    outputs : sequence of bool
        Which of its outputs somebody asked for.
    training : bool
        Whether the network is in training mode.
    kept : set of int
        Which inputs are weights of the network, and not values in it.
    """

    def __init__(
        self,
        values: Sequence[Value | None],
        attributes: dict[str, Any],
        version: int,
        outputs: Sequence[bool] = (True,),
        training: bool = False,
        kept: Collection[int] = (),
    ) -> None:
        self.values, self.attributes, self.version = list(values), attributes, version
        self.outputs, self.training, self._kept = list(outputs), training, kept

    def __len__(self) -> int:
        return len(self.values)

    def has(self, i: int) -> bool:
        """Return whether input ``i`` was given."""
        return i < len(self.values) and self.values[i] is not None

    def kept(self, i: int) -> bool:
        """Return whether input ``i`` is a parameter or buffer of the network."""
        return i in self._kept

    def wants(self, i: int) -> bool:
        """Return whether anybody asked for output ``i``."""
        return i < len(self.outputs) and self.outputs[i]

    # --- inputs ---------------------------------------------------------------------------------------------------

    def value(self, i: int) -> Value:
        """Return input ``i`` as it is."""
        if not self.has(i):
            raise Unsupported(f"input {i} is missing")
        value = self.values[i]
        assert value is not None
        return value

    def tensor(self, i: int = 0) -> Tensor:
        """Return input ``i`` as a tensor."""
        value = self.value(i)
        return value if isinstance(value, Tensor) else as_tensor(value)

    def optional(self, i: int) -> Tensor | None:
        """Return input ``i`` as a tensor, or None when it was left out."""
        return self.tensor(i) if self.has(i) else None

    def tensors(self) -> list[Tensor]:
        """Return all inputs as tensors."""
        return [self.tensor(i) for i in range(len(self.values))]

    def known(self, i: int) -> np.ndarray:
        """Return input ``i``, which must be known without running the network.

        Raises
        ------
        Unsupported
            When it is computed from the network's inputs and these are symbols.
        """
        value = self.value(i)
        if isinstance(value, np.ndarray):
            return value
        tracer = current_tracer()
        if isinstance(value._value, Node) or (tracer is not None and id(value) in tracer.current):
            raise DependsOnData(f"input {i} is computed from data, expected a constant or a shape")
        return value.numpy()

    def ints(self, i: int) -> list[Any]:
        """Return the integers of input ``i``, which must be known; a batch's size stays what it is."""
        array = self.known(i)
        if array.dtype.kind not in "iuO" or array.ndim > 1:
            raise Unsupported(f"input {i} is {array.dtype}{list(array.shape)}, expected a list of integers")
        return [v if array.dtype.kind == "O" else int(v) for v in array.reshape(-1).tolist()]

    # --- attributes -----------------------------------------------------------------------------------------------

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute; it must be of the kind of its default, where there is one."""
        value = self.attributes.get(name, default)
        kinds = {float: (float,), int: (int,), str: (str,), list: (list,)}.get(type(default))
        if kinds is not None and not isinstance(value, kinds):
            raise Unsupported(f"attribute {name} is {_short(value)}, expected {_A[kinds[0]]}")
        return value

    def integers(self, name: str, default: Sequence[int] | None = None) -> list[int] | None:
        """Return an attribute that is a list of integers, or the default."""
        value = self.attributes.get(name, default)
        if value is not None and not (isinstance(value, (list, tuple)) and all(type(v) is int for v in value)):
            raise Unsupported(f"attribute {name} is {_short(value)}, expected a list of integers")
        return None if value is None else list(value)

    def given(self, name: str, i: int) -> list[Any] | None:
        """Return integers that are an attribute in old versions and input ``i`` in new ones, or None for neither."""
        if name in self.attributes:
            return self.integers(name)
        return self.ints(i) if self.has(i) else None


_A = {float: "a number", int: "an integer", str: "a text", list: "a list"}


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def as_tensor(array: np.ndarray) -> Tensor:
    """Return a known array as a tensor; a batch's size in it becomes a number, which ties the step to it."""
    if array.dtype.kind == "O":
        array = np.array([int(v) for v in array.reshape(-1)], np.int64).reshape(array.shape)
    return Tensor(array)


def as_values(shape: Sequence[Any]) -> np.ndarray:
    """Return sizes as an array: of int64, or of objects where the batch's size is among them."""
    if all(type(d) is int for d in shape):
        return np.array(shape, np.int64)
    out = np.empty(len(shape), object)
    for i, d in enumerate(shape):
        out[i] = d
    return out


def follows_batch(sizes: Sequence[Any]) -> bool:
    """Return whether one of the sizes is that of the batch of a step that is being traced."""
    return any(isinstance(d, BatchSize) for d in sizes)


def room(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of something to be computed from constants.

    Raises
    ------
    Unsupported
        When it is too large to be meant.
    """
    size = 1
    for d in shape:
        size *= max(int(d), 1)
        if d < 0 or size > MAX_KNOWN:
            shown = _short(tuple(int(d) for d in shape))
            raise Unsupported(f"a constant of shape {shown}, expected at most {MAX_KNOWN:,} elements")
    return tuple(int(d) for d in shape)


def axis_of(axis: int, rank: int) -> int:
    """Return an axis counted from the front."""
    if not -rank <= axis < max(rank, 1):
        raise Unsupported(f"axis {axis} of {rank} axes")
    return axis % rank if rank else 0


def axes_of(axes: Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Return sorted axes counted from the front; None means all."""
    if axes is None:
        return tuple(range(rank))
    out = sorted({axis_of(int(a), rank) for a in axes})
    if len(out) != len(axes):
        raise Unsupported(f"axes {_short(list(axes))} name one twice")
    return tuple(out)
