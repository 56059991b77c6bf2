"""The arguments of a compiled function: nested structures taken apart into arrays and what must stay the same.

In: tuples, lists and dicts of arrays, tensors and constants. Out: their structure, comparable from call to call, and
the arrays in a fixed order; and back.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from smelt.tensor import Parameter, Tensor


class Leaf:
    """Stands where an array was taken out of the arguments."""

    def __repr__(self) -> str:
        return "array"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Leaf)

    __hash__ = object.__hash__


LEAF = Leaf()


def take(value: Any, arrays: list[Any]) -> Any:
    """Return the structure of ``value`` with arrays replaced by a mark, appending the arrays."""
    if isinstance(value, Parameter):
        return Same(value)
    if isinstance(value, (Tensor, np.ndarray)):
        arrays.append(value)
        return LEAF
    if isinstance(value, (tuple, list)):
        return _sequence(value, [take(v, arrays) for v in value])
    if isinstance(value, dict):
        return _Dict((k, take(v, arrays)) for k, v in value.items())
    return Number(value) if isinstance(value, (int, float, np.generic)) else Same(value)


def _sequence(like: Any, values: list[Any]) -> Any:
    """Return values in a tuple, list or named tuple."""
    return type(like)(*values) if hasattr(like, "_fields") else type(like)(values)


class _Dict(dict):
    """A dict whose order counts: arrays are taken out of it in that order."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Dict) and list(self.items()) == list(other.items())

    __hash__ = None


class Same:
    """Compares an argument that is not data: text and None by value, the rest by identity."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Same):
            return False
        return other.value is self.value or (isinstance(self.value, str) and other.value == self.value)

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return repr(self.value) if isinstance(self.value, (str, type(None))) else type(self.value).__name__


class Number(Same):
    """Compares a constant by type and digits: 1, 1.0 and True differ, and 0.0 and -0.0; NaN is itself."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Number) or type(other.value) is not type(self.value):
            return False
        return other.value is self.value or repr(other.value) == repr(self.value)

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return repr(self.value)


def give(structure: Any, arrays: Any) -> Any:
    """Put arrays (an iterator) back into a structure."""
    if structure is LEAF:
        return next(arrays)
    if isinstance(structure, Same):
        return structure.value
    if isinstance(structure, (tuple, list)):
        return _sequence(structure, [give(v, arrays) for v in structure])
    if isinstance(structure, dict):
        return {k: give(v, arrays) for k, v in structure.items()}
    return structure
