"""Checks of constructor arguments: any value in; its one canonical form, or one clear line, out.

They are strict (True is no integer, 2.0 is none either), because the same constructors rebuild networks from
files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from smelt.errors import at_user_line

LARGEST = 2**31 - 1


def wrong(owner: str, name: str, expected: str, received: Any) -> ValueError:
    """Return the error ``owner: name: expected ..., received ...``."""
    shown = repr(received)
    if len(shown) > 80:
        shown = f"{shown[:77]}..."
    return ValueError(at_user_line(f"{owner}: {name}: expected {expected}, received {shown}"))


def integer(owner: str, name: str, value: Any, low: int = 1, high: int = LARGEST) -> int:
    """Return ``value`` as an int from ``low`` to ``high``."""
    ok = isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))
    if not ok or not low <= value <= high:
        limit = f"an integer ≥ {low}" if high == LARGEST else f"an integer from {low} to {high}"
        raise wrong(owner, name, limit, value)
    return int(value)


def pair(owner: str, name: str, value: Any, low: int = 1) -> tuple[int, int]:
    """Return an integer, or two of them, as (rows, columns)."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise wrong(owner, name, "an integer or a pair of them", value)
        return integer(owner, name, value[0], low), integer(owner, name, value[1], low)
    n = integer(owner, name, value, low)
    return n, n


def sides(owner: str, name: str, value: Any) -> tuple[int, ...]:
    """Return an integer or pair ≥ 0 as (rows, columns), or four integers as they are: top, bottom, left, right."""
    if isinstance(value, (tuple, list)) and len(value) == 4:
        return tuple(integer(owner, name, v, 0) for v in value)
    return pair(owner, name, value, low=0)


def sizes(owner: str, name: str, value: Any, most: int = 8) -> tuple[int, ...]:
    """Return an integer, or one to ``most`` of them, as a tuple."""
    items = value if isinstance(value, (tuple, list)) else (value,)
    if not 1 <= len(items) <= most:
        raise wrong(owner, name, f"1 to {most} integers", value)
    return tuple(integer(owner, name, v) for v in items)


def number(owner: str, name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """Return ``value`` as a finite float from ``low`` to ``high``."""
    ok = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, (bool, np.bool_))
    if not ok or not math.isfinite(value) or not low <= value <= high:
        limits = [f"≥ {low:g}"] * (low > -math.inf) + [f"≤ {high:g}"] * (high < math.inf)
        raise wrong(owner, name, " ".join(["a finite number", " and ".join(limits)]).strip(), value)
    return float(value)


def flag(owner: str, name: str, value: Any) -> bool:
    """Return ``value``, which must be True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise wrong(owner, name, "True or False", value)
    return bool(value)


def choice(owner: str, name: str, value: Any, options: Sequence[str]) -> str:
    """Return ``value``, which must be one of ``options``."""
    if not isinstance(value, str) or value not in options:
        raise wrong(owner, name, " or ".join(repr(o) for o in options), value)
    return value
