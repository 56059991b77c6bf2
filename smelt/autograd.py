"""Gradients: what is recorded of every operation, and the walk back over the records.

In: a tensor and the gradient of a result with respect to it. Out: gradients in ``grad`` of the tensors that require
them. The rules are the primitives' own; whether they run at once or are traced is decided where they are applied.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from smelt.graph.trace import in_layer
from smelt.ops.primitive import Primitive

if TYPE_CHECKING:
    from smelt.tensor import Tensor


class Mode(threading.local):
    """What this thread does with operations besides running them."""

    grad = True
    observe: Callable[[Tensor, Primitive, tuple[Tensor, ...]], None] | None = None  # sees every eager result
    half: np.dtype | None = None  # what contractions round their operands to; see smelt.precision
    differentiating: Record | None = None  # what ``backward`` is at, while results are observed


mode = Mode()


@contextmanager
def no_grad() -> Iterator[None]:
    """Run operations without recording them for ``backward``.

    Examples
    --------
    >>> import smelt
    >>> w = smelt.Parameter([1.0, 2.0])
    >>> with smelt.no_grad():
    ...     y = w * 2
    >>> y.requires_grad
    False
    """
    before, mode.grad = mode.grad, False
    try:
        yield
    finally:
        mode.grad = before


def grad_enabled() -> bool:
    """Return whether operations are being recorded for ``backward``."""
    return mode.grad


class Record:
    """How a tensor was made, for ``backward``."""

    __slots__ = ("attrs", "inputs", "line", "op")

    def __init__(self, op: Primitive, inputs: tuple[Tensor, ...], attrs: dict[str, Any]) -> None:
        self.op, self.inputs, self.attrs = op, inputs, attrs
        self.line = ""


def walk_back(root: Tensor, seed: Tensor) -> None:
    """Add gradients to every tensor ``root`` was computed from, given ``seed``, the gradient of ``root``."""
    order: list[Tensor] = []
    seen: set[int] = set()
    stack: list[tuple[Tensor, bool]] = [(root, False)]
    while stack:
        t, expanded = stack.pop()
        if expanded:
            order.append(t)
            continue
        if id(t) in seen:
            continue
        seen.add(id(t))
        stack.append((t, True))
        if t._record is not None:
            stack.extend((i, False) for i in t._record.inputs if i.requires_grad and id(i) not in seen)
    grads: dict[int, Tensor] = {id(root): seed}
    for t in reversed(order):
        g = grads.pop(id(t), None)
        if g is None:
            continue
        record = t._record
        if record is None:
            before = t.grad
            t.grad = g if before is None else before + g
            continue
        if mode.observe is not None:
            mode.differentiating = record
        with in_layer(getattr(t._value, "layer", "")):  # a node's
            parts = record.op.vjp(g, t, record.inputs, record.attrs)
            for source, part in zip(record.inputs, parts, strict=True):
                if part is not None:
                    have = grads.get(id(source))
                    grads[id(source)] = part if have is None else have + part
