"""The short way into a compiled function, for calls like the last one: a closure that checks little and runs.

In: positional arguments of the shapes and dtypes seen last. Out: the results, or ``NOT_ALIKE`` when the call is
of another kind, or anything that guards look at has changed since they were last checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from smelt.autograd import mode
from smelt.graph.trace import _local as tracing
from smelt.graph.trace import changes
from smelt.runtime.arguments import LEAF, Leaf, Number, Same
from smelt.tensor import Tensor

NOT_ALIKE = object()


def shortcut(
    run: Callable[[list[np.ndarray], int], Any],
    args: tuple[Any, ...],
    structure: tuple[Any, ...],
    rows: int,
    seen: int,
) -> Callable[[tuple[Any, ...]], Any] | None:
    """Return the short way for arguments like these, or None when they are nested.

    Parameters
    ----------
    run : callable
        Takes the arrays and the rows of the batch, returns the results.
    args : tuple
        The positional arguments of a call that just passed all checks; there were no others.
    structure : tuple
        What :func:`smelt.runtime.arguments.take` made of them.
    rows : int
        Of their batch.
    seen : int
        The number of :data:`smelt.graph.trace.changes` before its guards were checked.
    """
    if any(type(s) not in (Leaf, Same, Number) for s in structure):
        return None
    grad, half, count = mode.grad, mode.half, len(args)
    specs = [(a.shape, a.dtype, None) if s is LEAF else (None, None, a) for a, s in zip(args, structure, strict=True)]
    array, tensor = np.ndarray, Tensor

    def many(args: tuple[Any, ...]) -> Any:
        if len(args) != count or changes.number != seen or tracing.tracer is not None:
            return NOT_ALIKE
        if mode.grad is not grad or mode.half is not half:
            return NOT_ALIKE
        arrays = []
        for a, (shape, dtype, constant) in zip(args, specs, strict=True):
            if shape is None:
                if a is not constant:
                    return NOT_ALIKE
                continue
            if type(a) is tensor:
                a = a._value
            if type(a) is not array or a.dtype is not dtype or a.shape != shape or not a.flags.c_contiguous:
                return NOT_ALIKE
            arrays.append(a)
        return run(arrays, rows)

    if count != 1 or structure[0] is not LEAF:
        return many
    only_shape, only_dtype, _ = specs[0]

    def one(args: tuple[Any, ...]) -> Any:
        if len(args) != 1:
            return NOT_ALIKE
        a = args[0]
        if type(a) is tensor:
            a = a._value
        if (
            type(a) is not array
            or a.dtype is not only_dtype
            or a.shape != only_shape
            or not a.flags.c_contiguous
            or changes.number != seen
            or mode.grad is not grad
            or mode.half is not half
            or tracing.tracer is not None
        ):
            return NOT_ALIKE
        return run([a], rows)

    return one
