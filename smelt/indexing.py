"""Basic indexing: integers, slices, None and ``...``, resolved against a shape.

In: what stands between the brackets, and a shape. Out: the attributes of the ``slice`` primitive and the axes of the
result. Negative steps count from the end, as in NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from smelt.errors import ShapeError, at_user_line

Ints = tuple[int, ...]


@dataclass(frozen=True)
class Selection:
    """Per axis of the operand where to start, the step and how many; per axis of the result which axis, or None."""

    start: Ints
    step: Ints
    size: Ints
    axes: tuple[int | None, ...]


def resolve(index: Any, shape: Ints) -> Selection:
    """Return what ``x[index]`` selects of a tensor of ``shape``; raise ShapeError when it cannot."""
    items = _complete(index, shape)
    start: list[int] = []
    step: list[int] = []
    size: list[int] = []
    axes: list[int | None] = []
    for item in items:
        if item is None:
            axes.append(None)
            continue
        axis = len(size)
        length = shape[axis]
        if isinstance(item, slice):
            if item.step == 0:
                raise ShapeError(at_user_line("indexing: a slice's step cannot be 0"))
            first, stop, stride = item.indices(length)
            count = len(range(first, stop, stride))
            axes.append(axis)
        else:
            first, stride, count = int(item), 1, 1
            if not -length <= first < length:
                text = f"indexing: index {first} is out of range for axis {axis} of {shape}"
                raise ShapeError(at_user_line(text))
            first %= length
        start.append(first if count else 0)
        step.append(stride)
        size.append(count)
    return Selection(tuple(start), tuple(step), tuple(size), tuple(axes))


def _complete(index: Any, shape: Ints) -> list[Any]:
    """Return one entry per axis (and one per None), with ``...`` written out."""
    items = list(index) if isinstance(index, tuple) else [index]
    for item in items:
        known = item is None or item is Ellipsis or isinstance(item, (slice, int, np.integer))
        if not known or isinstance(item, bool):
            text = f"indexing: expected integers, slices, None or ..., received {type(item).__name__}"
            raise ShapeError(at_user_line(text))
    used = sum(i is not None and i is not Ellipsis for i in items)
    if used > len(shape):
        raise ShapeError(at_user_line(f"indexing: {used} indices for {len(shape)} axes of {shape}"))
    if sum(i is Ellipsis for i in items) > 1:
        raise ShapeError(at_user_line("indexing: more than one ..."))
    if not any(i is Ellipsis for i in items):
        items.append(Ellipsis)
    at = next(k for k, i in enumerate(items) if i is Ellipsis)
    items[at : at + 1] = [slice(None)] * (len(shape) - used)
    return items
