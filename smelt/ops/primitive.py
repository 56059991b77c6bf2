"""What a primitive operation is: its shape rule, NumPy evaluation, gradient and MAC count.

In: one subclass (or one row of a table) per operation. Out: a callable that runs at once on NumPy values, or
appends a node to the graph being traced. Everything else in Smelt looks primitives up in ``REGISTRY``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from smelt.tensor import Tensor

Shape = tuple[int, ...]
DTypes = ("float32", "float64", "int32", "int64", "uint32", "int8", "uint8", "bool")


@dataclass(frozen=True, slots=True)
class Rows:
    """The axis of a traced value that follows the batch: ``per`` entries of ``axis`` for every sample."""

    axis: int
    per: int = 1


@dataclass(frozen=True, slots=True)
class Spec:
    """Shape and dtype of a value, and how it follows the batch while a step is traced.

    ``exact`` is empty, or says why the value is right only for the very batch size it was traced with.
    """

    shape: Shape
    dtype: np.dtype
    rows: Rows | None = None
    exact: str = ""

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __str__(self) -> str:
        return f"{short_dtype(self.dtype)}[{', '.join(map(str, self.shape))}]"


_SHORT = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u"}
FLOAT32 = np.dtype(np.float32)
HALVES = {"bf16": np.dtype(ml_dtypes.bfloat16), "f16": np.dtype(np.float16)}
"""The 16-bit types that operands of contractions may be rounded to, by the name users give them."""


def is_half(dtype: np.dtype) -> bool:
    """Return whether ``dtype`` is one of the 16-bit floating-point types."""
    return dtype in HALVES.values()


def is_floating(dtype: np.dtype) -> bool:
    """Return whether ``dtype`` holds floating-point numbers; NumPy does not count bfloat16 among them."""
    return dtype.kind == "f" or is_half(dtype)


def widened(array: np.ndarray) -> np.ndarray:
    """Return a 16-bit array in float32, any other as it is."""
    return array.astype(FLOAT32) if is_half(array.dtype) else array


@functools.cache
def short_dtype(dtype: np.dtype) -> str:
    """Return ``f32``, ``bf16``, ``i64``, ``u8``, ``bool`` for the NumPy dtype."""
    if dtype == np.bool_:
        return "bool"
    kind = dtype.name.rstrip("0123456789")
    return _SHORT[kind] + dtype.name[len(kind) :]


@dataclass(frozen=True)
class Sample:
    """One row of the shared test matrix: input shapes, attributes and how inputs are drawn.

    ``low`` and ``high`` bound floating-point inputs. ``dtypes`` gives the dtype of the others; integers are drawn
    from 0 to ``below`` - 1.
    """

    shapes: tuple[Shape, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    dtypes: dict[int, str] = field(default_factory=dict)
    low: float = -2.0
    high: float = 2.0
    below: int = 5


REGISTRY: dict[str, Primitive] = {}
"""Every primitive by name, in the order of definition."""

_dispatch: list[Callable[..., Any]] = []  # set once by smelt.tensor, which knows eager and traced values


class Primitive:
    """An operation on tensors, defined in one place.

    Subclasses give :meth:`infer` and :meth:`evaluate`, and where they have a derivative, :meth:`gradient`. Calling
    the instance with tensors runs it or traces it.
    """

    differentiable = True

    def __init__(self, name: str, samples: tuple[Sample, ...] = ()) -> None:
        if name in REGISTRY:
            raise ValueError(f"primitive {name!r} is defined twice")
        self.name = name
        self._samples = samples
        REGISTRY[name] = self

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        """Return the result's shape and dtype; raise :class:`~smelt.errors.ShapeError` when there is none."""
        raise NotImplementedError

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        """Compute the result with NumPy: the oracle of every compiled form."""
        raise NotImplementedError

    def gradient(
        self, index: int, grad: Tensor, out: Tensor, inputs: tuple[Tensor, ...], attrs: dict[str, Any]
    ) -> Tensor | None:
        """Return the gradient with respect to input ``index``, written with primitives; None where it has none."""
        return None

    def vjp(
        self, grad: Tensor, out: Tensor, inputs: tuple[Tensor, ...], attrs: dict[str, Any]
    ) -> Sequence[Tensor | None]:
        """Return the gradient with respect to every input; None where it has none, or nothing asks for it."""
        return [self.gradient(i, grad, out, inputs, attrs) if x.requires_grad else None for i, x in enumerate(inputs)]

    def macs(self, specs: tuple[Spec, ...], out: Spec, attrs: dict[str, Any]) -> int:
        """Return the multiply-accumulates of one evaluation (0 for everything but contractions)."""
        return 0

    def flops(self, specs: tuple[Spec, ...], out: Spec, attrs: dict[str, Any]) -> int:
        """Return the floating-point operations of one evaluation: two for each multiply-accumulate, and the rest.

        An addition, comparison or function (``exp`` as well as ``relu``) of one element is one operation; moving,
        converting and integer arithmetic are none.
        """
        return 2 * self.macs(specs, out, attrs)

    def samples(self) -> Iterator[Sample]:
        """Yield the rows of the test matrix this primitive is checked on."""
        yield from self._samples

    def __call__(self, *inputs: Any, **attrs: Any) -> Tensor:
        """Apply to tensors: at once, or as a node of the graph being traced."""
        return _dispatch[0](self, inputs, attrs)

    def __repr__(self) -> str:
        return f"<primitive {self.name}>"
