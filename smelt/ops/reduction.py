"""Reductions: sum, max and argmax over axes, and the count of elements a mean divides by.

In: a tensor and the axes to reduce. Out: a tensor without those axes (``keepdims`` is a reshape, done by callers).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from smelt.errors import ShapeError
from smelt.ops.elementwise import eq, where
from smelt.ops.primitive import Primitive, Rows, Sample, Spec
from smelt.ops.shapes import normalize_axes


def kept_shape(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """Return ``shape`` with the reduced axes at size 1."""
    return tuple(1 if i in axes else d for i, d in enumerate(shape))


class Reduction(Primitive):
    """Reduce ``axes`` (normalized: sorted, counted from the front)."""

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        (x,) = specs
        axes = attrs["axes"]
        if normalize_axes(self.name, axes, len(x.shape)) != axes:
            raise ShapeError(f"{self.name}: axes {axes} must be sorted and counted from the front")
        shape = tuple(d for i, d in enumerate(x.shape) if i not in axes)
        if self.name == "sum" and x.dtype.kind == "b":
            raise ShapeError(f"sum: expected a numeric tensor, received {x}")
        if self.name != "sum" and any(x.shape[a] == 0 for a in axes):
            raise ShapeError(f"{self.name}: nothing to take the maximum of along axes {axes} of shape {x.shape}")
        rows = None
        if x.rows and x.rows.axis not in axes:
            rows = Rows(x.rows.axis - sum(a < x.rows.axis for a in axes), x.rows.per)
        return Spec(shape, self._dtype(x.dtype), rows)

    def _dtype(self, dtype: np.dtype) -> np.dtype:
        return dtype

    def flops(self, specs: tuple[Spec, ...], out: Spec, attrs: dict[str, Any]) -> int:
        (x,) = specs
        return max(x.size - out.size, 0) if x.dtype.kind == "f" else 0


class Sum(Reduction):
    """Sum over ``axes``."""

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        return np.asarray(np.sum(arrays[0], axis=attrs["axes"], dtype=arrays[0].dtype))

    def gradient(self, index: int, grad: Any, out: Any, inputs: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        shape = inputs[0].shape
        return grad.reshape(kept_shape(shape, attrs["axes"])).broadcast_to(shape)


class Max(Reduction):
    """Maximum over ``axes``; ties share the gradient equally (as PyTorch's ``amax``)."""

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        return np.asarray(np.max(arrays[0], axis=attrs["axes"]))

    def gradient(self, index: int, grad: Any, out: Any, inputs: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        (x,) = inputs
        kept = kept_shape(x.shape, attrs["axes"])
        hit = where(eq(x, out.reshape(kept)), 1.0, 0.0).astype(x.dtype)
        ties = sum_(hit, axes=attrs["axes"]).reshape(kept)
        return hit * (grad.reshape(kept) / ties)


class ArgMax(Reduction):
    """Index of the first maximum over one or several adjacent ``axes``, counted in C order."""

    differentiable = False

    def _dtype(self, dtype: np.dtype) -> np.dtype:
        return np.dtype(np.int64)

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        (x,) = arrays
        axes = attrs["axes"]
        kept = tuple(i for i in range(x.ndim) if i not in axes)
        flat = x.transpose(kept + axes).reshape(*(x.shape[i] for i in kept), int(np.prod([x.shape[i] for i in axes])))
        return np.asarray(np.argmax(flat, axis=-1))


_SHAPES = (
    Sample(((4, 7),), {"axes": (0,)}),
    Sample(((4, 7),), {"axes": (1,)}),
    Sample(((4, 37),), {"axes": (1,)}),
    Sample(((5, 33),), {"axes": (0, 1)}),
    Sample(((2, 3, 4, 5),), {"axes": (0, 2, 3)}),
    Sample(((2, 3, 4, 17),), {"axes": (1, 2)}),
    Sample(((3, 1, 2),), {"axes": (1,)}),
    Sample(((1,),), {"axes": (0,)}),
    Sample(((0, 5),), {"axes": (1,)}),
    Sample(((5, 7),), {"axes": (1,)}, dtypes={0: "int64"}),
    Sample(((5, 7),), {"axes": (1,)}, dtypes={0: "uint8"}),
)
_BOOLS = Sample(((37, 3),), {"axes": (1,)}, dtypes={0: "bool"})
sum_ = Sum("sum", (*_SHAPES, Sample(((0, 5),), {"axes": (0,)}), Sample(((3, 4),), {"axes": ()})))
max_ = Max("max", (*_SHAPES, _BOOLS))
argmax = ArgMax("argmax", (*_SHAPES, _BOOLS))


class Count(Primitive):
    """Number of elements in ``axes`` of the input as a float scalar: the batch's true rows while one is ragged."""

    differentiable = False

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        return Spec((), np.dtype(attrs["dtype"]))

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        n = int(np.prod([arrays[0].shape[a] for a in attrs["axes"]], dtype=np.int64))
        return np.asarray(n, attrs["dtype"])


count = Count(
    "count",
    (
        Sample(((4, 7),), {"axes": (0,), "dtype": "float32"}),
        Sample(((4, 7),), {"axes": (0, 1), "dtype": "float64"}),
        Sample(((1,),), {"axes": (0,), "dtype": "float32"}),
        Sample(((0, 5),), {"axes": (0,), "dtype": "float32"}),
    ),
)
