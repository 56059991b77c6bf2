"""One row of the table of operators.

In: functions of :class:`~smelt.onnx.reader.arguments.Arguments`. Out: what the reader needs to know of an operator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from smelt.onnx.reader.arguments import Arguments, Value

Result = Value | tuple[Value | None, ...]


@dataclass(frozen=True)
class Entry:
    """An operator.

    ``run`` computes it on tensors. ``known``, where there is one, computes it on arrays of integers and bools: shapes,
    axes and the like. Weights given as inputs are trained but for ``fixed``, which are constants, and ``buffers``,
    which are kept.
    """

    run: Callable[[Arguments], Result]
    known: Callable[[Arguments], Result] | None = None
    fixed: frozenset[int] = frozenset()
    buffers: frozenset[int] = frozenset()
