"""Functions that make tensors or join several: zeros, arange, concat, stack, where, maximum, minimum.

In: shapes, numbers and tensors. Out: tensors; at once, or as nodes of the graph being traced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from smelt import ops
from smelt.errors import ShapeError, at_user_line
from smelt.graph.trace import BatchSize
from smelt.ops.shapes import normalize_axis
from smelt.tensor import ArrayLike, Tensor, as_tensor, promote


def zeros(shape: Sequence[int] | int, dtype: Any = "float32") -> Tensor:
    """Return a tensor of zeros."""
    return full(shape, 0, dtype)


def ones(shape: Sequence[int] | int, dtype: Any = "float32") -> Tensor:
    """Return a tensor of ones."""
    return full(shape, 1, dtype)


def full(shape: Sequence[int] | int, value: float, dtype: Any = "float32") -> Tensor:
    """Return a tensor filled with ``value``."""
    if isinstance(shape, Sequence) and any(isinstance(d, BatchSize) for d in shape):
        return Tensor(np.asarray(value, dtype)).broadcast_to(shape)
    return Tensor(np.full(shape, value, dtype))


def arange(stop: int, dtype: Any = "int64") -> Tensor:
    """Return 0, 1, ... ``stop`` - 1."""
    return Tensor(np.arange(stop, dtype=dtype))


def concat(tensors: Sequence[ArrayLike], axis: int = 0) -> Tensor:
    """Return tensors joined along ``axis``."""
    parts = [as_tensor(t) for t in tensors]
    if not parts:
        raise ShapeError(at_user_line("concat: expected at least one tensor"))
    return ops.concat(*parts, axis=normalize_axis("concat", axis, parts[0].ndim))


def stack(tensors: Sequence[ArrayLike], axis: int = 0) -> Tensor:
    """Return tensors joined along a new axis."""
    return concat([as_tensor(t).unsqueeze(axis) for t in tensors], axis)


def where(condition: ArrayLike, a: ArrayLike, b: ArrayLike) -> Tensor:
    """Return elements of ``a`` where ``condition`` holds, else of ``b``."""
    left, right = promote(a, b) if isinstance(a, Tensor) else promote(b, a)[::-1]
    return ops.where(as_tensor(condition), left, right)


def maximum(a: ArrayLike, b: ArrayLike) -> Tensor:
    """Return the larger of each pair of elements."""
    return ops.maximum(*promote(a, b))


def minimum(a: ArrayLike, b: ArrayLike) -> Tensor:
    """Return the smaller of each pair of elements."""
    return ops.minimum(*promote(a, b))
