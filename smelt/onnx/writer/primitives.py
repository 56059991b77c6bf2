"""Primitives as ONNX operations: one entry per primitive that ONNX has words for.

In: a node of the traced graph and the names of its operands. Out: the name of its result. ``PRIMITIVES`` is the table;
what is not in it cannot be exported.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from smelt.graph.graph import Node
from smelt.onnx.writer.emitter import Emitter, element_type

Writer = Callable[[Emitter, Node, list[str]], str]
FAR = (1 << 63) - 1


class Inexpressible(Exception):
    """Says why one call of a primitive has no ONNX form."""


def _same(kind: str) -> Writer:
    return lambda e, node, x: e.op(kind, *x)


def _not_equal(e: Emitter, node: Node, x: list[str]) -> str:
    return e.op("Not", e.op("Equal", *x))


def _isfinite(e: Emitter, node: Node, x: list[str]) -> str:
    return e.op("Not", e.op("Or", e.op("IsNaN", *x), e.op("IsInf", *x)))


def _log1p(e: Emitter, node: Node, x: list[str]) -> str:
    return e.op("Log", e.op("Add", x[0], e.constant(1.0, node.dtype)))


def _cast(e: Emitter, node: Node, x: list[str]) -> str:
    return e.op("Cast", *x, to=element_type(node.dtype))


def pads(padding: tuple[tuple[int, int], ...]) -> list[int]:
    """Return ((before, after), ...) as ONNX's list: all that come before, then all that come after."""
    return [p[0] for p in padding] + [p[1] for p in padding]


def _conv2d(e: Emitter, node: Node, x: list[str]) -> str:
    a = node.attrs
    return e.op(
        "Conv",
        *x,
        kernel_shape=node.inputs[1].shape[2:],
        strides=a["stride"],
        pads=pads(a["padding"]),
        dilations=a["dilation"],
        group=a["groups"],
    )


def _max_pool(e: Emitter, node: Node, x: list[str]) -> str:
    a = node.attrs
    return e.op("MaxPool", *x, kernel_shape=a["kernel"], strides=a["stride"], pads=pads(a["padding"]))


def _sum_pool(e: Emitter, node: Node, x: list[str]) -> str:
    a = node.attrs
    window = {"kernel_shape": a["kernel"], "strides": a["stride"], "pads": pads(a["padding"])}
    mean = e.op("AveragePool", *x, count_include_pad=1, **window)
    return e.op("Mul", mean, e.constant(math.prod(a["kernel"]), node.dtype))


def _reduce(kind: str) -> Writer:
    def write(e: Emitter, node: Node, x: list[str]) -> str:
        return e.op(kind, x[0], e.ints(node.attrs["axes"], "axes"), keepdims=0, noop_with_empty_axes=1)

    return write


def _argmax(e: Emitter, node: Node, x: list[str]) -> str:
    source, axes = node.inputs[0].spec, node.attrs["axes"]
    if len(axes) != 1:
        if axes != tuple(range(axes[0], axes[0] + len(axes))):
            raise Inexpressible(f"argmax over axes {axes}, which are not adjacent")
        if source.rows is not None and source.rows.axis in axes:
            raise Inexpressible("argmax over the batch and other axes")
        kept = [*source.shape[: axes[0]], math.prod(source.shape[a] for a in axes), *source.shape[axes[-1] + 1 :]]
        if source.rows is not None:
            kept[source.rows.axis - (len(axes) - 1) * (source.rows.axis > axes[-1])] = -1
        x = [e.op("Reshape", x[0], e.ints(kept, "shape"))]
    return e.op("ArgMax", *x, axis=axes[0], keepdims=0)


def _count(e: Emitter, node: Node, x: list[str]) -> str:
    source, axes = node.inputs[0].spec, node.attrs["axes"]
    fixed = math.prod(source.shape[a] for a in axes if source.rows is None or a != source.rows.axis)
    if source.rows is None or source.rows.axis not in axes:
        return e.constant(fixed, node.dtype)
    rows = e.op("Squeeze", e.batch(source.rows.per * fixed))
    return e.op("Cast", rows, to=element_type(node.dtype))


def _reshape(e: Emitter, node: Node, x: list[str]) -> str:
    shape = list(node.shape)
    if node.spec.rows is not None:
        shape[node.spec.rows.axis] = -1
    return e.op("Reshape", x[0], e.ints(shape, "shape"), allowzero=1 if 0 in shape else None)


def _broadcast(e: Emitter, node: Node, x: list[str]) -> str:
    rows = node.spec.rows
    if rows is None or node.inputs[0].spec.rows is None:
        return e.op("Expand", x[0], e.sizes(node.spec))
    shape = list(node.shape)
    shape[rows.axis] = 1  # Expand broadcasts both ways: the operand's own size stays
    return e.op("Expand", x[0], e.ints(shape, "shape"))


def _slice(e: Emitter, node: Node, x: list[str]) -> str:
    shape, a = node.inputs[0].shape, node.attrs
    cut = [i for i, d in enumerate(shape) if (a["start"][i], a["step"][i], a["size"][i]) != (0, 1, d)]
    if not cut:
        return e.op("Identity", *x)
    starts, ends, steps = [], [], []
    for i in cut:
        start, step, size = a["start"][i], a["step"][i], a["size"][i]
        end = start + size * step
        starts.append(start)
        ends.append(end if end >= 0 else -FAR)
        steps.append(step)
    return e.op("Slice", x[0], *(e.ints(v, n) for v, n in ((starts, "starts"), (ends, "ends"), (cut, "axes"))),
                *([e.ints(steps, "steps")] if set(steps) != {1} else []))  # fmt: skip


def _place(e: Emitter, node: Node, x: list[str]) -> str:
    inner, a = node.inputs[0].shape, node.attrs
    if any(step != 1 and d > 1 for step, d in zip(a["step"], inner, strict=True)) or 0 in inner:
        raise Inexpressible("elements placed at a distance from each other")
    after = [n - s - d for n, s, d in zip(a["shape"], a["start"], inner, strict=True)]
    return e.op("Pad", x[0], e.ints([*a["start"], *after], "pads"), e.constant(a["fill"], node.dtype))


def _iota(e: Emitter, node: Node, x: list[str]) -> str:
    spec, axis = node.spec, node.attrs["axis"]
    if spec.rows is not None and spec.rows.axis == axis:
        zero, one = e.constant(0, "int64"), e.constant(1, "int64")
        line = e.op("Range", zero, e.op("Squeeze", e.batch(spec.rows.per)), one)
        line = e.op("Cast", line, to=element_type(spec.dtype))
    else:
        line = e.constant(np.arange(spec.shape[axis]), spec.dtype)
    after = len(spec.shape) - 1 - axis
    if after:
        line = e.op("Unsqueeze", line, e.ints(range(1, after + 1), "axes"))
    return e.op("Expand", line, e.sizes(spec))


PRIMITIVES: dict[str, Writer] = {
    **{
        name: _same(kind)
        for name, kind in {
            "add": "Add",
            "sub": "Sub",
            "mul": "Mul",
            "div": "Div",
            "pow": "Pow",
            "neg": "Neg",
            "abs": "Abs",
            "sign": "Sign",
            "floor": "Floor",
            "round": "Round",
            "exp": "Exp",
            "log": "Log",
            "sqrt": "Sqrt",
            "tanh": "Tanh",
            "sigmoid": "Sigmoid",
            "erf": "Erf",
            "relu": "Relu",
            "maximum": "Max",
            "minimum": "Min",
            "where": "Where",
            "eq": "Equal",
            "lt": "Less",
            "le": "LessOrEqual",
            "logical_and": "And",
            "logical_or": "Or",
            "logical_not": "Not",
            "matmul": "MatMul",
        }.items()
    },
    "ne": _not_equal,
    "isfinite": _isfinite,
    "log1p": _log1p,
    "cast": _cast,
    "conv2d": _conv2d,
    "max_pool2d": _max_pool,
    "sum_pool2d": _sum_pool,
    "sum": _reduce("ReduceSum"),
    "max": _reduce("ReduceMax"),
    "argmax": _argmax,
    "count": _count,
    "reshape": _reshape,
    "permute": lambda e, node, x: e.op("Transpose", *x, perm=node.attrs["axes"]),
    "broadcast_to": _broadcast,
    "slice": _slice,
    "place": _place,
    "concat": lambda e, node, x: e.op("Concat", *x, axis=node.attrs["axis"]),
    "iota": _iota,
}


def write_primitive(e: Emitter, node: Node) -> str:
    """Append a node of the traced graph; return the name of its value.

    Raises
    ------
    Inexpressible
        When ONNX has no words for it.
    """
    writer = PRIMITIVES.get(node.opname)
    if writer is None:
        raise Inexpressible(_WHY.get(node.opname, "ONNX has no operation for it"))
    return writer(e, node, [e.value(i) for i in node.inputs])


_WHY: dict[str, Any] = {
    "random_uniform": "its numbers depend on Smelt's generator, of which ONNX knows nothing",
    "advance_random": "its numbers depend on Smelt's generator, of which ONNX knows nothing",
}
