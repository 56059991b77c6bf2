"""Primitives that move elements without computing: reshape, permute, broadcast, slice, place, concatenate.

In: one tensor (concat: several). Out: the same elements under other indices; ``place`` fills the rest.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from smelt.errors import ShapeError
from smelt.ops.primitive import Primitive, Rows, Sample, Spec
from smelt.ops.shapes import broadcast_shapes, reshape_rows

FIXED_SLICE = "a slice, pad or concatenation cuts the batch axis"


class Reshape(Primitive):
    """Give the same elements, in C order, another ``shape``."""

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        (x,) = specs
        shape = attrs["shape"]
        if int(np.prod(shape, dtype=np.int64)) != x.size:
            raise ShapeError(f"reshape: {x.shape} has {x.size} elements, {shape} does not")
        rows, exact = reshape_rows(x, shape)
        return Spec(shape, x.dtype, rows, exact)

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        return arrays[0].reshape(attrs["shape"])

    def gradient(self, index: int, grad: Any, out: Any, inputs: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        return grad.reshape(inputs[0].shape)


reshape = Reshape(
    "reshape",
    (
        Sample(((4, 6),), {"shape": (2, 12)}),
        Sample(((2, 3, 5),), {"shape": (30,)}),
        Sample(((2, 3, 5),), {"shape": (6, 1, 5)}),
        Sample(((0, 3),), {"shape": (3, 0)}),
        Sample(((1,),), {"shape": ()}),
        Sample(((1, 1),), {"shape": (1, 1, 1)}),
    ),
)


class Permute(Primitive):
    """Reorder the axes: axis ``i`` of the result is axis ``axes[i]`` of the input."""

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        (x,) = specs
        axes = attrs["axes"]
        if sorted(axes) != list(range(len(x.shape))):
            raise ShapeError(f"permute: axes {axes} are not a permutation of the {len(x.shape)} axes of {x.shape}")
        rows = Rows(axes.index(x.rows.axis), x.rows.per) if x.rows else None
        return Spec(tuple(x.shape[a] for a in axes), x.dtype, rows)

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        return arrays[0].transpose(attrs["axes"])

    def gradient(self, index: int, grad: Any, out: Any, inputs: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        return permute(grad, axes=tuple(int(a) for a in np.argsort(attrs["axes"])))


permute = Permute(
    "permute",
    (
        Sample(((3, 5),), {"axes": (1, 0)}),
        Sample(((2, 3, 4, 17),), {"axes": (0, 2, 3, 1)}),
        Sample(((2, 17, 3, 4),), {"axes": (3, 1, 0, 2)}),
        Sample(((0, 3),), {"axes": (1, 0)}),
        Sample(((1, 1, 1),), {"axes": (2, 0, 1)}),
        Sample(((3, 5),), {"axes": (1, 0)}, dtypes={0: "int64"}),
    ),
)


class BroadcastTo(Primitive):
    """Repeat axes of size 1 (or missing in front) up to ``shape``."""

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        (x,) = specs
        shape = attrs["shape"]
        if broadcast_shapes("broadcast_to", x.shape, shape) != shape:
            raise ShapeError(f"broadcast_to: {x.shape} does not broadcast to {shape}")
        lead = len(shape) - len(x.shape)
        moved = Rows(x.rows.axis + lead, x.rows.per) if x.rows else None
        asked = Rows(*attrs["rows"]) if attrs.get("rows") else None
        if asked and moved is None and asked.axis >= lead and x.shape[asked.axis - lead] != 1:
            return Spec(shape, x.dtype, None, f"an operand of fixed shape {x.shape} meets the batch axis")
        if moved and x.shape[moved.axis - lead] != shape[moved.axis]:
            return Spec(shape, x.dtype, None, "broadcast_to: a batch of one is repeated")
        if asked and moved and asked != moved:
            return Spec(shape, x.dtype, None, "broadcast_to: the batch axis falls on another one")
        return Spec(shape, x.dtype, moved or asked)

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        return np.broadcast_to(arrays[0], attrs["shape"])

    def gradient(self, index: int, grad: Any, out: Any, inputs: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        return grad.sum_to(inputs[0].shape)


broadcast_to = BroadcastTo(
    "broadcast_to",
    (
        Sample(((3, 1),), {"shape": (3, 5)}),
        Sample(((),), {"shape": (2, 3)}),
        Sample(((1, 4),), {"shape": (2, 3, 4)}),
        Sample(((1,),), {"shape": (0,)}),
        Sample(((1, 1),), {"shape": (1, 1, 1)}),
        Sample(((5, 1, 7),), {"shape": (5, 3, 7)}),
    ),
)


class Slice(Primitive):
    """Take ``size`` elements of each axis from ``start`` in steps of ``step`` (which may be negative)."""

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        (x,) = specs
        start, step, size = attrs["start"], attrs["step"], attrs["size"]
        for d, a, s, n in zip(x.shape, start, step, size, strict=True):
            if n and not (0 <= a < d and 0 <= a + (n - 1) * s < d):
                raise ShapeError(f"slice: start {start}, step {step}, size {size} leave the shape {x.shape}")
        rows, exact = x.rows, ""
        if rows and (start[rows.axis], step[rows.axis], size[rows.axis]) != (0, 1, x.shape[rows.axis]):
            rows, exact = None, FIXED_SLICE
        return Spec(tuple(size), x.dtype, rows, exact)

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        (x,) = arrays
        return x[_indices(attrs["start"], attrs["step"], attrs["size"])]

    def gradient(self, index: int, grad: Any, out: Any, inputs: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        return place(grad, shape=inputs[0].shape, start=attrs["start"], step=attrs["step"], fill=0.0)


def _indices(start: tuple[int, ...], step: tuple[int, ...], size: tuple[int, ...]) -> tuple[slice, ...]:
    out = []
    for a, s, n in zip(start, step, size, strict=True):
        stop = a + n * s
        out.append(slice(a, stop if stop >= 0 else None, s) if n else slice(0, 0))
    return tuple(out)


slice_ = Slice(
    "slice",
    (
        Sample(((6, 9),), {"start": (1, 2), "step": (1, 1), "size": (3, 5)}),
        Sample(((6, 9),), {"start": (5, 0), "step": (-2, 3), "size": (3, 3)}),
        Sample(((40,),), {"start": (3,), "step": (1,), "size": (33,)}),
        Sample(((4, 3),), {"start": (2, 0), "step": (1, 1), "size": (0, 3)}),
        Sample(((1,),), {"start": (0,), "step": (-1,), "size": (1,)}),
        Sample(((3, 7, 9),), {"start": (2, 6, 8), "step": (-1, -2, -3), "size": (3, 4, 3)}),
    ),
)


class Place(Primitive):
    """Put the input into a tensor of ``shape`` filled with ``fill``: the transpose of ``slice``, and padding."""

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        (x,) = specs
        shape, start, step = attrs["shape"], attrs["start"], attrs["step"]
        for d, a, s, n in zip(shape, start, step, x.shape, strict=True):
            if n and not (0 <= a < d and 0 <= a + (n - 1) * s < d):
                raise ShapeError(f"place: {x.shape} at {start} in steps of {step} does not fit into {shape}")
        rows, exact = x.rows, ""
        if rows and (start[rows.axis], step[rows.axis], shape[rows.axis]) != (0, 1, x.shape[rows.axis]):
            rows, exact = None, FIXED_SLICE
        return Spec(tuple(shape), x.dtype, rows, exact)

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        (x,) = arrays
        out = np.full(attrs["shape"], attrs["fill"], x.dtype)
        out[_indices(attrs["start"], attrs["step"], x.shape)] = x
        return out

    def gradient(self, index: int, grad: Any, out: Any, inputs: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        return slice_(grad, start=attrs["start"], step=attrs["step"], size=inputs[0].shape)


place = Place(
    "place",
    (
        Sample(((3, 5),), {"shape": (6, 9), "start": (1, 2), "step": (1, 1), "fill": 0.0}),
        Sample(((3, 3),), {"shape": (6, 9), "start": (5, 0), "step": (-2, 3), "fill": 1.5}),
        Sample(((2, 3, 18),), {"shape": (2, 5, 20), "start": (0, 1, 1), "step": (1, 1, 1), "fill": -1.0}),
        Sample(((0, 3),), {"shape": (2, 3), "start": (0, 0), "step": (1, 1), "fill": 0.0}),
        Sample(((1,),), {"shape": (1,), "start": (0,), "step": (1,), "fill": 0.0}),
        Sample(((3, 4),), {"shape": (7, 9), "start": (6, 8), "step": (-3, -2), "fill": 0.5}),
    ),
)


class Concat(Primitive):
    """Join tensors along ``axis``; all other axes agree."""

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        axis = attrs["axis"]
        first = specs[0]
        for s in specs[1:]:
            same = len(s.shape) == len(first.shape) and all(
                a == b for i, (a, b) in enumerate(zip(s.shape, first.shape, strict=True)) if i != axis
            )
            if not same or s.dtype != first.dtype:
                shown = " and ".join(str(s) for s in specs)
                raise ShapeError(f"concat: {shown} differ outside of axis {axis} or in dtype")
        shape = list(first.shape)
        shape[axis] = sum(s.shape[axis] for s in specs)
        rows: Rows | None = first.rows
        exact = ""
        if any(s.rows != rows for s in specs) or (rows and rows.axis == axis):
            rows, exact = None, FIXED_SLICE
        return Spec(tuple(shape), first.dtype, rows, exact)

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        return np.concatenate(arrays, axis=attrs["axis"])

    def gradient(self, index: int, grad: Any, out: Any, inputs: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        axis, rank = attrs["axis"], len(grad.shape)
        start = [0] * rank
        start[axis] = sum(t.shape[axis] for t in inputs[:index])
        return slice_(grad, start=tuple(start), step=(1,) * rank, size=inputs[index].shape)


concat = Concat(
    "concat",
    (
        Sample(((2, 3), (2, 4)), {"axis": 1}),
        Sample(((2, 3, 2), (1, 3, 2), (4, 3, 2)), {"axis": 0}),
        Sample(((2, 0), (2, 17)), {"axis": 1}),
        Sample(((1,), (1,)), {"axis": 0}),
        Sample(((3, 5),), {"axis": 1}),
    ),
)


class Iota(Primitive):
    """Return ``shape`` filled with the index along ``axis``; it has no inputs."""

    differentiable = False

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        rows = Rows(*attrs["rows"]) if attrs.get("rows") else None
        return Spec(attrs["shape"], np.dtype(attrs["dtype"]), rows)

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        shape, axis = attrs["shape"], attrs["axis"]
        line = np.arange(shape[axis], dtype=attrs["dtype"])
        return np.broadcast_to(line.reshape((-1,) + (1,) * (len(shape) - 1 - axis)), shape)


iota = Iota(
    "iota",
    (
        Sample((), {"shape": (5,), "axis": 0, "dtype": "int64"}),
        Sample((), {"shape": (3, 19), "axis": 1, "dtype": "float32"}),
        Sample((), {"shape": (3, 4), "axis": 0, "dtype": "int32"}),
        Sample((), {"shape": (1,), "axis": 0, "dtype": "int64"}),
        Sample((), {"shape": (3, 0), "axis": 1, "dtype": "int64"}),
        Sample((), {"shape": (2, 5, 3), "axis": 1, "dtype": "float64"}),
    ),
)
