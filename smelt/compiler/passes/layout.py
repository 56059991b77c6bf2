"""Layout: how the elements of a value lie in a buffer.

In: shapes, strides and orders of axes (outermost first). Out: :class:`Storage`, also of views.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smelt.compiler.loops import Buffer
from smelt.graph.graph import Node
from smelt.ops.primitive import Shape

Order = tuple[int, ...]
NHWC: Order = (0, 2, 3, 1)
HWIO: Order = (2, 3, 1, 0)
HWOI: Order = (2, 3, 0, 1)


@dataclass(frozen=True)
class Storage:
    """Where a value lies: element strides and offset within a buffer.

    Along the axis ``pair``, two neighbours lie side by side, and the stride is from one such pair to the next. With
    ``panel``, (width, stride), the innermost axis is cut into panels of ``width``: in each lie the elements of all
    other axes, and ``stride`` is from one panel to the next.
    """

    buffer: Buffer
    strides: tuple[int, ...]
    offset: int = 0
    pair: int | None = None
    panel: tuple[int, int] | None = None


def dense(shape: Shape, order: Order) -> tuple[int, ...]:
    """Return the strides of a dense array whose axes lie in ``order``, outermost first."""
    strides = [0] * len(shape)
    step = 1
    for axis in reversed(order):
        strides[axis] = step
        step *= max(shape[axis], 1)
    return tuple(strides)


def order_of(shape: Shape, strides: Sequence[int]) -> Order:
    """Return the axes from the outermost to the innermost by stride."""
    return tuple(sorted(range(len(shape)), key=lambda a: (-strides[a] if shape[a] > 1 else 0, a)))


def reshape_strides(shape: Shape, strides: tuple[int, ...], to: Shape) -> tuple[int, ...] | None:
    """Return the strides of a reshaped view, or None when the elements would have to move."""
    if 0 in shape:
        return dense(to, tuple(range(len(to))))
    merged: list[list[int]] = []  # [size, stride] of runs that lie densely
    for d, s in zip(shape, strides, strict=True):
        if d == 1:
            continue
        if merged and merged[-1][1] == d * s:
            merged[-1] = [merged[-1][0] * d, s]
        else:
            merged.append([d, s])
    out = [0] * len(to)
    i = len(merged) - 1
    left = merged[i][0] if merged else 1
    for axis in range(len(to) - 1, -1, -1):
        if to[axis] == 1:
            continue
        while left == 1 and i > 0:
            i -= 1
            left = merged[i][0]
        if not merged or left % to[axis]:
            return None
        out[axis] = merged[i][1] * (merged[i][0] // left)
        left //= to[axis]
    return tuple(out)


def view_storage(node: Node, base: Storage) -> Storage | None:
    """Return the storage of a view of ``base``, or None when a reshape has to move elements."""
    (x,) = node.inputs
    a = node.attrs
    match node.opname:
        case "permute":
            return Storage(base.buffer, tuple(base.strides[i] for i in a["axes"]), base.offset)
        case "broadcast_to":
            extra = len(node.shape) - len(x.shape)
            kept = tuple(0 if d == 1 else s for d, s in zip(x.shape, base.strides, strict=True))
            return Storage(base.buffer, (0,) * extra + kept, base.offset)
        case "slice":
            offset = base.offset + sum(i * s for i, s in zip(a["start"], base.strides, strict=True))
            return Storage(base.buffer, tuple(t * s for t, s in zip(a["step"], base.strides, strict=True)), offset)
    strides = reshape_strides(x.shape, base.strides, node.shape)
    return None if strides is None else Storage(base.buffer, strides, base.offset)
