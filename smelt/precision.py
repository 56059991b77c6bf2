"""Reduced precision: what matrix products and convolutions round their operands to.

In: ``"f32"``, ``"bf16"`` or ``"f16"``, for a while. Out: operands of 16 bits; sums, and everything that is no product,
stay in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from smelt.autograd import mode
from smelt.errors import at_user_line
from smelt.ops.primitive import HALVES

PRECISIONS = ("f32", *HALVES)


def checked(owner: str, precision: Any) -> str:
    """Return ``precision``, or raise when it is none."""
    if precision not in PRECISIONS:
        expected = ", ".join(map(repr, PRECISIONS))
        raise ValueError(at_user_line(f"{owner}: precision: expected one of {expected}, received {precision!r}"))
    return precision


@contextmanager
def autocast(precision: str) -> Iterator[None]:
    """Round the operands of matrix products and convolutions, and of their gradients, to 16 bits.

    Products of rounded operands are added up in float32. Everything else (parameters, normalization, softmax, losses,
    optimizers) is float32 as before. ``"bf16"`` has float32's range and 8 significant bits; ``"f16"`` has 11, but
    numbers above 65504 become infinite and those below 6e-8 zero, so that losses must be scaled.

    Parameters
    ----------
    precision : {"f32", "bf16", "f16"}
        ``"f32"`` rounds nothing.

    Raises
    ------
    ValueError
        When the name is none of these.

    Examples
    --------
    >>> import smelt
    >>> x = smelt.tensor([[1.0, 1.00390625]])
    >>> with smelt.autocast("bf16"):
    ...     y = x @ x.T
    >>> y.item(), y.dtype.name
    (2.0, 'float32')
    """
    before, mode.half = mode.half, HALVES.get(checked("autocast", precision))
    try:
        yield
    finally:
        mode.half = before


def current() -> str:
    """Return the precision that :func:`autocast` asked for in this thread."""
    return next((name for name, dtype in HALVES.items() if dtype == mode.half), "f32")
