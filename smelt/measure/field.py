"""Receptive fields: a graph in; how many pixels of its input one element of each value can depend on, out.

Every axis of a value is kept as factors, outermost first, each with the pixels of the input that one step along it
moves: so merged and split axes, strides and dilation are followed exactly. Padding counts, as in the literature: a
field may be larger than the image (Araujo, Norris and Sim, "Computing receptive fields of convolutional neural
networks", 2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from smelt.graph.graph import Graph, Node
from smelt.ops.elementwise import Elementwise

Field = tuple[int, ...]
_WINDOWS = {"conv2d", "max_pool2d", "sum_pool2d"}


@dataclass(frozen=True)
class _Factor:
    count: int
    jumps: Field  # pixels that one step moves, along each spatial axis


Axis = tuple[_Factor, ...]


@dataclass(frozen=True)
class _Seen:
    """What one element of a value sees (``field``), and how that moves along the value's axes."""

    axes: tuple[Axis, ...]
    field: Field

    def over(self, axes: tuple[int, ...]) -> Field:
        """Return the field of everything along some axes."""
        out = list(self.field)
        for factor in (f for a in axes for f in self.axes[a]):
            for i, jump in enumerate(factor.jumps):
                out[i] += (factor.count - 1) * abs(jump)
        return tuple(out)


def receptive_fields(graph: Graph) -> dict[Node, Field]:
    """Return the receptive field of every node along the spatial axes of the graph's first input, (N, C, ...).

    Returns
    -------
    dict of Node to tuple of int
        Pixels along each spatial axis; an input without spatial axes gives ().
    """
    if not graph.inputs:
        return {}
    rank = max(len(graph.inputs[0].shape) - 2, 0)
    seen: dict[Node, _Seen] = {}
    for node in [*graph.inputs, *graph.nodes()]:
        if node is graph.inputs[0]:
            axes = tuple(
                (_Factor(d, tuple(int(i == axis - 2) for i in range(rank))),) for axis, d in enumerate(node.shape)
            )
            seen[node] = _Seen(axes, (1,) * rank)
        elif node not in seen:
            seen[node] = _step(node, [seen[i] for i in node.inputs], rank)
    return {n: s.field for n, s in seen.items()}


def _still(d: int, rank: int) -> Axis:
    return (_Factor(d, (0,) * rank),)


def _largest(fields: list[Field], rank: int) -> Field:
    return tuple(max((f[i] for f in fields), default=0) for i in range(rank))


def _step(node: Node, inputs: list[_Seen], rank: int) -> _Seen:
    """Return what a node sees, from what its inputs see."""
    still = tuple(_still(d, rank) for d in node.shape)
    if not inputs:
        return _Seen(still, (0,) * rank)
    x = inputs[0]
    a = node.attrs
    match node.opname:
        case "reshape":
            axes = _regroup(x.axes, node.shape, rank)
            return _Seen(axes, x.field) if axes else _Seen(still, x.over(tuple(range(len(x.axes)))))
        case "permute":
            return _Seen(tuple(x.axes[i] for i in a["axes"]), x.field)
        case "slice":
            cut = zip(x.axes, a["step"], node.shape, strict=True)
            return _Seen(tuple(_stepped(axis, step, d) for axis, step, d in cut), x.field)
        case "place":
            return _Seen(tuple(_stepped(axis, 1, d) for axis, d in zip(x.axes, node.shape, strict=True)), x.field)
        case "sum" | "max" | "argmax":
            kept = tuple(axis for i, axis in enumerate(x.axes) if i not in a["axes"])
            return _Seen(kept, x.over(a["axes"]))
        case "matmul":
            y = inputs[1]
            field = _largest([x.over((len(x.axes) - 1,)), y.over((len(y.axes) - 2,))], rank)
            lead = _joined(node.shape[:-2], [s.axes[:-2] for s in inputs], rank)
            return _Seen((*lead, x.axes[-2], y.axes[-1]), field)
    if node.opname in _WINDOWS:
        return _window(node, x, rank)
    if isinstance(node.op, Elementwise) or node.opname in ("cast", "concat", "broadcast_to"):
        axes = _joined(node.shape, [s.axes for s in inputs], rank)
        return _Seen(axes, _largest([s.field for s in inputs], rank))
    return _Seen(still, _largest([s.over(tuple(range(len(s.axes)))) for s in inputs], rank))


def _joined(shape: tuple[int, ...], operands: list[tuple[Axis, ...]], rank: int) -> tuple[Axis, ...]:
    """Return the axes of a broadcast: each as in the first operand that moves along it."""
    out = []
    for i, d in enumerate(shape):
        found = _still(d, rank)
        for axes in operands:
            at = i - (len(shape) - len(axes))
            if at >= 0 and any(any(f.jumps) for f in axes[at]):
                found = _stepped(axes[at], 1, d)
                break
        out.append(found)
    return tuple(out)


def _stepped(axis: Axis, step: int, count: int) -> Axis:
    """Return an axis of which every ``step``-th element is taken, ``count`` in all."""
    if len(axis) == 1:
        return (_Factor(count, tuple(j * step for j in axis[0].jumps)),)
    return axis if math.prod(f.count for f in axis) == count else (_Factor(count, axis[-1].jumps),)


def _window(node: Node, x: _Seen, rank: int) -> _Seen:
    """Return what windows over the last two axes see; a convolution also sums over the channels."""
    a = node.attrs
    kernel = node.inputs[1].shape[2:] if node.opname == "conv2d" else a["kernel"]
    dilation = a.get("dilation", (1, 1))
    field = list(x.over((1,)) if node.opname == "conv2d" else x.field)
    axes = [x.axes[0], x.axes[1] if node.opname != "conv2d" else _still(node.shape[1], rank)]
    for axis in (2, 3):
        last = x.axes[axis][-1]
        for i, jump in enumerate(last.jumps):
            field[i] += (kernel[axis - 2] - 1) * dilation[axis - 2] * abs(jump)
        axes.append((_Factor(node.shape[axis], tuple(j * a["stride"][axis - 2] for j in last.jumps)),))
    return _Seen(tuple(axes), tuple(field))


def _regroup(axes: tuple[Axis, ...], shape: tuple[int, ...], rank: int) -> tuple[Axis, ...] | None:
    """Return the axes of a reshape, splitting factors where it cuts them; None where it cuts them unevenly."""
    left = [f for axis in axes for f in axis if f.count > 1]
    out: list[Axis] = []
    for d in shape:
        mine: list[_Factor] = []
        size = 1
        while size < d:
            if not left or d % size:
                return None
            factor, need = left.pop(0), d // size
            if factor.count > need:
                if factor.count % need:
                    return None
                inner = factor.count // need
                left.insert(0, _Factor(inner, factor.jumps))
                factor = _Factor(need, tuple(j * inner for j in factor.jumps))
            mine.append(factor)
            size *= factor.count
        if size != d:
            return None
        out.append(tuple(mine) or _still(d, rank))
    return tuple(out)
