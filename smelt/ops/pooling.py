"""Pooling over sliding windows of NCHW images: maximum, its winner's index, sum, and their gradients.

In: images and a window (``kernel``, ``stride``, ``padding`` as pairs). Out: one value per window. Average pooling
is ``sum_pool2d`` divided by the window's size. Padding never wins a maximum and adds nothing to a sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from smelt.errors import ShapeError
from smelt.ops.contraction import Padding, Pair, _padded, add_windows, window_sizes, windows
from smelt.ops.primitive import Primitive, Sample, Shape, Spec, is_floating

_ONE: Pair = (1, 1)


def _infer(name: str, x: Spec, attrs: dict[str, Any], dtype: np.dtype) -> Spec:
    kernel, padding = attrs["kernel"], attrs["padding"]
    if len(x.shape) != 4:
        raise ShapeError(f"{name}: expected images NCHW, received shape {x.shape}")
    if not is_floating(x.dtype):
        raise ShapeError(f"{name}: expected floating-point images, received {x}")
    if any(max(p) >= k for p, k in zip(padding, kernel, strict=True)):
        raise ShapeError(f"{name}: padding {padding} must be smaller than the window {kernel}")
    hw = window_sizes(name, x.shape[2:], kernel, attrs["stride"], _ONE, padding)
    exact = f"{name}: the batch is not the first axis" if x.rows and x.rows.axis != 0 else ""
    return Spec((*x.shape[:2], *hw), dtype, None if exact else x.rows, exact)


def _comparisons(out: Spec, attrs: dict[str, Any]) -> int:
    """Return how often elements of a window are compared, or added, over all windows."""
    kh, kw = attrs["kernel"]
    return out.size * (kh * kw - 1)


def _cols(x: np.ndarray, attrs: dict[str, Any], fill: float) -> np.ndarray:
    return windows(_padded(x, attrs["padding"], fill), attrs["kernel"], attrs["stride"], _ONE)


class MaxPool2d(Primitive):
    """Largest element of each window."""

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        return _infer(self.name, specs[0], attrs, specs[0].dtype)

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        return _cols(arrays[0], attrs, -np.inf).max(axis=(4, 5))

    def gradient(self, index: int, grad: Any, out: Any, inputs: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        winner = max_pool2d_index(inputs[0], **attrs)
        return max_pool2d_grad(grad, winner, size=inputs[0].shape[2:], **attrs)

    def flops(self, specs: tuple[Spec, ...], out: Spec, attrs: dict[str, Any]) -> int:
        return _comparisons(out, attrs)


class MaxPool2dIndex(Primitive):
    """Position (kh-major, 0 to 254) of the first maximum in each window, as uint8."""

    differentiable = False

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        kh, kw = attrs["kernel"]
        if kh * kw > 255:
            raise ShapeError(f"{self.name}: a window of {kh} x {kw} has more than 255 elements")
        return _infer(self.name, specs[0], attrs, np.dtype(np.uint8))

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        cols = _cols(arrays[0], attrs, -np.inf)
        return cols.reshape(*cols.shape[:4], cols.shape[4] * cols.shape[5]).argmax(axis=-1).astype(np.uint8)

    def flops(self, specs: tuple[Spec, ...], out: Spec, attrs: dict[str, Any]) -> int:
        return _comparisons(out, attrs)


class MaxPool2dGrad(Primitive):
    """Send each window's gradient to its winner: (grad, index) -> images of spatial ``size``."""

    differentiable = False

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        g = specs[0]
        return Spec((*g.shape[:2], *attrs["size"]), g.dtype, g.rows)

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        grad, winner = arrays
        kh, kw = attrs["kernel"]
        here = winner[..., None, None] == np.arange(kh * kw, dtype=np.uint8).reshape(kh, kw)
        cols = np.where(here, grad[..., None, None], 0).astype(grad.dtype)
        shape = (*grad.shape[:2], *attrs["size"])
        return np.ascontiguousarray(add_windows(cols, shape, attrs["stride"], _ONE, attrs["padding"]))

    def flops(self, specs: tuple[Spec, ...], out: Spec, attrs: dict[str, Any]) -> int:
        return specs[0].size


class SumPool2d(Primitive):
    """Sum of each window."""

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        return _infer(self.name, specs[0], attrs, specs[0].dtype)

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        return _cols(arrays[0], attrs, 0.0).sum(axis=(4, 5), dtype=arrays[0].dtype)

    def gradient(self, index: int, grad: Any, out: Any, inputs: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        return sum_pool2d_grad(grad, size=inputs[0].shape[2:], **attrs)

    def flops(self, specs: tuple[Spec, ...], out: Spec, attrs: dict[str, Any]) -> int:
        return _comparisons(out, attrs)


class SumPool2dGrad(Primitive):
    """Send each window's gradient to all of its elements: grad -> images of spatial ``size``."""

    differentiable = False

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        g = specs[0]
        return Spec((*g.shape[:2], *attrs["size"]), g.dtype, g.rows)

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        (grad,) = arrays
        cols = np.broadcast_to(grad[..., None, None], (*grad.shape, *attrs["kernel"]))
        shape = (*grad.shape[:2], *attrs["size"])
        return np.ascontiguousarray(add_windows(cols, shape, attrs["stride"], _ONE, attrs["padding"]))

    def flops(self, specs: tuple[Spec, ...], out: Spec, attrs: dict[str, Any]) -> int:
        return specs[0].size * attrs["kernel"][0] * attrs["kernel"][1]


def _pool(kernel: Pair, stride: Pair, padding: Padding = ((0, 0), (0, 0))) -> dict[str, Any]:
    return {"kernel": kernel, "stride": stride, "padding": padding}


_POOLS: tuple[tuple[Shape, dict[str, Any]], ...] = (
    ((2, 3, 8, 6), _pool((2, 2), (2, 2))),
    ((1, 17, 7, 7), _pool((2, 2), (2, 2))),
    ((2, 3, 7, 8), _pool((3, 2), (2, 1), ((1, 1), (0, 1)))),
    ((1, 2, 6, 6), _pool((3, 3), (1, 1), ((1, 1), (1, 1)))),
    ((1, 2, 7, 9), _pool((2, 2), (3, 3))),
    ((0, 2, 4, 4), _pool((2, 2), (2, 2))),
    ((1, 1, 1, 1), _pool((1, 1), (1, 1))),
)


def _pooled(x: Shape, a: dict[str, Any]) -> Shape:
    return (*x[:2], *window_sizes("pool", x[2:], a["kernel"], a["stride"], _ONE, a["padding"]))


max_pool2d = MaxPool2d("max_pool2d", tuple(Sample((x,), a) for x, a in _POOLS))
max_pool2d_index = MaxPool2dIndex("max_pool2d_index", tuple(Sample((x,), a) for x, a in _POOLS))
max_pool2d_grad = MaxPool2dGrad(
    "max_pool2d_grad",
    tuple(
        Sample(
            (_pooled(x, a),) * 2,
            {"size": x[2:], **a},
            dtypes={1: "uint8"},
            below=a["kernel"][0] * a["kernel"][1],
        )
        for x, a in _POOLS
    ),
)
sum_pool2d = SumPool2d("sum_pool2d", tuple(Sample((x,), a) for x, a in _POOLS))
sum_pool2d_grad = SumPool2dGrad(
    "sum_pool2d_grad", tuple(Sample((_pooled(x, a),), {"size": x[2:], **a}) for x, a in _POOLS)
)
