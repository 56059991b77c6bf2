"""Reductions over axes: a tensor in; sums, means, extremes or positions out."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from smelt import ops
from smelt.functions import concat
from smelt.graph.trace import plain
from smelt.onnx.reader.arguments import Arguments, Unsupported, axes_of, axis_of
from smelt.onnx.reader.operators.entry import Entry
from smelt.tensor import Tensor


def _reduce(function: Callable[..., Tensor], before: Callable[[Tensor], Tensor] | None = None) -> Entry:
    def run(c: Arguments) -> Tensor:
        x = c.tensor()
        axes = c.given("axes", 1)
        if not axes and c.attribute("noop_with_empty_axes", 0):
            return x if before is None else before(x)
        x = x if before is None else before(x)
        return function(x, axes_of(axes or None, x.ndim), bool(c.attribute("keepdims", 1)))

    return Entry(run)


def _extreme(sign: int) -> Callable[..., Tensor]:
    def reduce(x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
        if all(plain(x.shape[a]) for a in axes):
            return x.max(axes, keepdims) if sign > 0 else x.min(axes, keepdims)
        worst = -math.inf if x.dtype.kind == "f" else 0 if x.dtype.kind == "b" else np.iinfo(x.dtype).min
        if sign < 0:
            worst = math.inf if x.dtype.kind == "f" else 1 if x.dtype.kind == "b" else np.iinfo(x.dtype).max
        kept = tuple(1 if i in axes else d for i, d in enumerate(x.shape) if keepdims or i not in axes)
        return Tensor(np.array(worst, x.dtype)).broadcast_to(kept)

    return reduce


_largest, _smallest = _extreme(1), _extreme(-1)


def _sum(x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    return x.sum(axes, keepdims).astype(x.dtype)


def _mean(x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    if x.dtype.kind == "f":
        return x.mean(axes, keepdims)
    raise Unsupported(f"the mean of {x.dtype}, expected floating-point elements")


def _prod_known(c: Arguments) -> np.ndarray:
    x = c.known(0)
    axes = axes_of(c.given("axes", 1) or None, x.ndim)
    return np.asarray(np.prod(x, axis=axes, keepdims=bool(c.attribute("keepdims", 1))))


def _product(x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    """Return the product over axes, each halved until one element is left."""
    for axis in axes:
        before = (slice(None),) * axis
        size = int(x.shape[axis])
        if size == 0:
            shape = tuple(1 if i == axis else d for i, d in enumerate(x.shape))
            x, size = Tensor(np.array(1, x.dtype)).broadcast_to(shape), 1
        while size > 1:
            half = size // 2
            first, second = x[(*before, slice(0, half))], x[(*before, slice(half, 2 * half))]
            rest = [x[(*before, slice(2 * half, size))]] if size % 2 else []
            x, size = concat([first * second, *rest], axis), half + size % 2
    return x if keepdims else x.reshape(tuple(d for i, d in enumerate(x.shape) if i not in axes))


def _position(sign: int) -> Callable[[Arguments], Tensor]:
    def run(c: Arguments) -> Tensor:
        x = c.tensor()
        axis = axis_of(c.attribute("axis", 0), x.ndim)
        x = x if sign > 0 else x._mirrored()
        keepdims = bool(c.attribute("keepdims", 1))
        if not c.attribute("select_last_index", 0):
            return x.argmax(axis, keepdims)
        size = int(x.shape[axis])
        turned = x[(slice(None),) * axis + (slice(None, None, -1),)]
        return size - 1 - turned.argmax(axis, keepdims)

    return run


def _square(x: Tensor) -> Tensor:
    return x * x


def _log_sum_exp(x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    top = _largest(x.detach(), axes, True)
    out = (x - top).exp().sum(axes, keepdims=True).log() + top
    return out if keepdims else out.reshape(tuple(d for i, d in enumerate(x.shape) if i not in axes))


OPERATORS: dict[str, Entry] = {
    "ReduceSum": _reduce(_sum),
    "ReduceMean": _reduce(_mean),
    "ReduceMax": _reduce(_largest),
    "ReduceMin": _reduce(_smallest),
    "ReduceL1": _reduce(_sum, ops.abs),
    "ReduceL2": _reduce(lambda x, axes, keep: _sum(x * x, axes, keep).sqrt()),
    "ReduceSumSquare": _reduce(_sum, _square),
    "ReduceLogSum": _reduce(lambda x, axes, keep: _sum(x, axes, keep).log()),
    "ReduceLogSumExp": _reduce(_log_sum_exp),
    "ReduceProd": Entry(_reduce(_product).run, _prod_known),
    "ArgMax": Entry(_position(1)),
    "ArgMin": Entry(_position(-1)),
}
