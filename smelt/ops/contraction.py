"""Contractions: matrix product, 2-D convolution and the convolution's two gradients.

In: operands of one floating dtype; images are NCHW, kernels (out, in/groups, kh, kw). Out: the product, in the same
dtype, or in float32 when the operands are of 16 bits. These stay primitives down to the lowering, where one
micro-kernel generator serves them all.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from smelt.errors import ShapeError
from smelt.ops.elementwise import cast
from smelt.ops.primitive import FLOAT32, Primitive, Rows, Sample, Shape, Spec, is_floating, is_half, widened
from smelt.ops.shapes import broadcast_shapes

CONTRACTIONS = ("matmul", "conv2d", "conv2d_input_grad", "conv2d_weight_grad")
Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


def _product(dtype: np.dtype) -> np.dtype:
    return FLOAT32 if is_half(dtype) else dtype


def _alike(x: Any, like: Any) -> Any:
    """Return a gradient in the dtype of the operand it meets."""
    return x if x.dtype == like.dtype else cast(x, dtype=like.dtype.name)


class MatMul(Primitive):
    """``a @ b`` over the last two axes, leading axes broadcast: (..., m, k) @ (..., k, n) -> (..., m, n)."""

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        a, b = specs
        if len(a.shape) < 2 or len(b.shape) < 2 or a.shape[-1] != b.shape[-2]:
            raise ShapeError(f"matmul: {a.shape} @ {b.shape}: expected (..., m, k) @ (..., k, n) with the same k")
        if a.dtype != b.dtype or not is_floating(a.dtype):
            raise ShapeError(f"matmul: expected two tensors of one floating dtype, received {a} and {b}")
        lead = broadcast_shapes("matmul", a.shape[:-2], b.shape[:-2])
        shape = (*lead, a.shape[-2], b.shape[-1])
        rows, exact = self._rows(a, b, len(shape))
        return Spec(shape, _product(a.dtype), rows, exact)

    @staticmethod
    def _rows(a: Spec, b: Spec, rank: int) -> tuple[Rows | None, str]:
        at = {}
        for name, s in (("a", a), ("b", b)):
            if s.rows:
                at[name] = s.rows.axis - len(s.shape)
        if not at:
            return None, ""
        contracted = (at.get("a") == -1, at.get("b") == -2)
        if any(contracted):
            ok = all(contracted) and a.rows and b.rows and a.rows.per == b.rows.per
            return None, "" if ok else "matmul contracts the batch axis with a fixed one"
        if "a" in at and at["a"] == -2:
            return (None, "matmul: both operands carry the batch") if "b" in at else (Rows(rank - 2, a.rows.per), "")  # type: ignore[union-attr]
        if "b" in at and at["b"] == -1:
            return (None, "matmul: both operands carry the batch") if "a" in at else (Rows(rank - 1, b.rows.per), "")  # type: ignore[union-attr]
        if "a" in at and "b" in at and (at["a"] != at["b"] or a.rows.per != b.rows.per):  # type: ignore[union-attr]
            return None, "matmul: the batch axes of the operands differ"
        name, axis = next(iter(at.items()))
        other = b if name == "a" else a
        if len(at) == 1 and len(other.shape) >= -axis and other.shape[axis] != 1:
            return None, "matmul: an operand of fixed shape meets the batch axis"
        return Rows(rank + axis, (a.rows or b.rows).per), ""  # type: ignore[union-attr]

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        return np.matmul(*map(widened, arrays))

    def gradient(self, index: int, grad: Any, out: Any, inputs: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        a, b = inputs
        grad = _alike(grad, a)
        g = grad @ b.mT if index == 0 else a.mT @ grad
        return g.sum_to(inputs[index].shape)

    def macs(self, specs: tuple[Spec, ...], out: Spec, attrs: dict[str, Any]) -> int:
        return out.size * specs[0].shape[-1]


matmul = MatMul(
    "matmul",
    (
        Sample(((3, 5), (5, 4))),
        Sample(((1, 1), (1, 1))),
        Sample(((13, 7), (7, 37))),
        Sample(((2, 3, 5), (5, 4))),
        Sample(((2, 1, 3, 5), (4, 5, 2))),
        Sample(((0, 5), (5, 4))),
        Sample(((3, 0), (0, 4))),
    ),
)


def out_size(size: int, kernel: int, stride: int, dilation: int, pad: Pair) -> int:
    """Return the output length of a window sliding over ``size`` (may be ≤ 0 when nothing fits)."""
    return (size + pad[0] + pad[1] - dilation * (kernel - 1) - 1) // stride + 1


def windows(x: np.ndarray, kernel: Pair, stride: Pair, dilation: Pair) -> np.ndarray:
    """Return the view (n, c, oh, ow, kh, kw) of every window of an already padded NCHW array."""
    n, c, h, w = x.shape
    oh = out_size(h, kernel[0], stride[0], dilation[0], (0, 0))
    ow = out_size(w, kernel[1], stride[1], dilation[1], (0, 0))
    sn, sc, sh, sw = x.strides
    strides = (sn, sc, sh * stride[0], sw * stride[1], sh * dilation[0], sw * dilation[1])
    return np.lib.stride_tricks.as_strided(x, (n, c, oh, ow, *kernel), strides, writeable=False)


def _padded(x: np.ndarray, padding: Padding, fill: float = 0.0) -> np.ndarray:
    if padding == ((0, 0), (0, 0)):
        return x
    return np.pad(x, ((0, 0), (0, 0), *padding), constant_values=fill)


def add_windows(cols: np.ndarray, shape: Shape, stride: Pair, dilation: Pair, padding: Padding) -> np.ndarray:
    """Return the NCHW array of ``shape`` into which window values (n, c, oh, ow, kh, kw) were summed."""
    (top, bottom), (left, right) = padding
    n, c, h, w = shape
    out = np.zeros((n, c, h + top + bottom, w + left + right), cols.dtype)
    _, _, oh, ow, kh, kw = cols.shape
    for i in range(kh):
        for j in range(kw):
            y, x = i * dilation[0], j * dilation[1]
            out[:, :, y : y + oh * stride[0] : stride[0], x : x + ow * stride[1] : stride[1]] += cols[..., i, j]
    return out[:, :, top : top + h, left : left + w]


class Conv2d(Primitive):
    """Convolve NCHW images with kernels (out, in/groups, kh, kw); no bias.

    Attributes: ``stride``, ``dilation`` (pairs), ``padding`` ((top, bottom), (left, right)), ``groups``.
    """

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        x, w = specs
        groups = attrs["groups"]
        if len(x.shape) != 4 or len(w.shape) != 4:
            raise ShapeError(f"conv2d: expected images NCHW and kernels OIHW, received {x.shape} and {w.shape}")
        if x.shape[1] != w.shape[1] * groups or w.shape[0] % groups:
            raise ShapeError(
                f"conv2d: images {x.shape} have {x.shape[1]} channels, kernels {w.shape} with groups={groups} "
                f"expect {w.shape[1] * groups}"
            )
        if x.dtype != w.dtype or not is_floating(x.dtype):
            raise ShapeError(f"conv2d: expected two tensors of one floating dtype, received {x} and {w}")
        hw = window_sizes("conv2d", x.shape[2:], w.shape[2:], attrs["stride"], attrs["dilation"], attrs["padding"])
        exact = "conv2d: kernels follow the batch" if w.rows or (x.rows and x.rows.axis != 0) else ""
        return Spec((x.shape[0], w.shape[0], *hw), _product(x.dtype), None if exact else x.rows, exact)

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        x, w = map(widened, arrays)
        g = attrs["groups"]
        cols = windows(_padded(x, attrs["padding"]), w.shape[2:], attrs["stride"], attrs["dilation"])
        n, c, oh, ow, kh, kw = cols.shape
        left = cols.reshape(n, g, c // g, oh, ow, kh, kw).transpose(1, 0, 3, 4, 2, 5, 6)
        left = left.reshape(g, n * oh * ow, c // g * kh * kw)
        right = w.reshape(g, w.shape[0] // g, c // g * kh * kw).transpose(0, 2, 1)
        out = np.matmul(left, right).reshape(g, n, oh, ow, w.shape[0] // g)
        return np.ascontiguousarray(out.transpose(1, 0, 4, 2, 3)).reshape(n, w.shape[0], oh, ow)

    def gradient(self, index: int, grad: Any, out: Any, inputs: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        x, w = inputs
        grad = _alike(grad, x)
        if index == 0:
            return conv2d_input_grad(grad, w, size=x.shape[2:], **attrs)
        return conv2d_weight_grad(x, grad, kernel=w.shape[2:], **attrs)

    def macs(self, specs: tuple[Spec, ...], out: Spec, attrs: dict[str, Any]) -> int:
        w = specs[1]
        return out.size * w.shape[1] * w.shape[2] * w.shape[3]


def window_sizes(name: str, size: Shape, kernel: Shape, stride: Pair, dilation: Pair, padding: Padding) -> Pair:
    """Return (oh, ow), or raise when no window fits."""
    h, w = (out_size(s, k, t, d, p) for s, k, t, d, p in zip(size, kernel, stride, dilation, padding, strict=True))
    if h <= 0 or w <= 0:
        raise ShapeError(f"{name}: a window of {kernel} (dilation {dilation}) does not fit into {size} + {padding}")
    return h, w


class Conv2dInputGrad(Primitive):
    """Gradient of ``conv2d`` with respect to its images: (grad, kernels) -> images of spatial ``size``."""

    differentiable = False

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        g, w = specs
        return Spec((g.shape[0], w.shape[1] * attrs["groups"], *attrs["size"]), _product(g.dtype), g.rows)

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        grad, w = map(widened, arrays)
        g = attrs["groups"]
        n, o, oh, ow = grad.shape
        _, i, kh, kw = w.shape
        left = grad.reshape(n, g, o // g, oh * ow).transpose(1, 0, 3, 2).reshape(g, n * oh * ow, o // g)
        cols = np.matmul(left, w.reshape(g, o // g, i * kh * kw)).reshape(g, n, oh, ow, i, kh, kw)
        cols = cols.transpose(1, 0, 4, 2, 3, 5, 6).reshape(n, g * i, oh, ow, kh, kw)
        shape = (n, g * i, *attrs["size"])
        return np.ascontiguousarray(add_windows(cols, shape, attrs["stride"], attrs["dilation"], attrs["padding"]))

    def macs(self, specs: tuple[Spec, ...], out: Spec, attrs: dict[str, Any]) -> int:
        g, w = specs
        return g.size * w.shape[1] * w.shape[2] * w.shape[3]


class Conv2dWeightGrad(Primitive):
    """Gradient of ``conv2d`` with respect to its kernels: (images, grad) -> kernels of spatial ``kernel``."""

    differentiable = False

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        x, g = specs
        exact = "" if (x.rows is None) == (g.rows is None) else "conv2d: only one of images and gradient is a batch"
        return Spec((g.shape[1], x.shape[1] // attrs["groups"], *attrs["kernel"]), _product(x.dtype), None, exact)

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        x, grad = map(widened, arrays)
        g = attrs["groups"]
        cols = windows(_padded(x, attrs["padding"]), attrs["kernel"], attrs["stride"], attrs["dilation"])
        n, o, oh, ow = grad.shape
        cols = cols[:, :, :oh, :ow]
        c, (kh, kw) = x.shape[1], attrs["kernel"]
        right = cols.reshape(n, g, c // g, oh, ow, kh, kw).transpose(1, 0, 3, 4, 2, 5, 6)
        right = right.reshape(g, n * oh * ow, c // g * kh * kw)
        left = grad.reshape(n, g, o // g, oh * ow).transpose(1, 2, 0, 3).reshape(g, o // g, n * oh * ow)
        return np.matmul(left, right).reshape(o, c // g, kh, kw)

    def macs(self, specs: tuple[Spec, ...], out: Spec, attrs: dict[str, Any]) -> int:
        return specs[1].size * out.shape[1] * out.shape[2] * out.shape[3]


def _conv(stride: Pair = (1, 1), pad: Padding = ((0, 0), (0, 0)), dilation: Pair = (1, 1), groups: int = 1) -> dict:
    return {"stride": stride, "padding": pad, "dilation": dilation, "groups": groups}


_CONVS: tuple[tuple[Shape, Shape, dict[str, Any]], ...] = (  # images, kernels, attributes
    ((2, 1, 8, 9), (3, 1, 3, 3), _conv(pad=((1, 1), (1, 1)))),
    ((2, 5, 7, 6), (18, 5, 3, 2), _conv(stride=(2, 1))),
    ((1, 4, 9, 8), (6, 2, 3, 3), _conv(stride=(2, 2), pad=((1, 0), (1, 2)), groups=2)),
    ((2, 17, 6, 6), (17, 1, 3, 3), _conv(pad=((1, 1), (1, 1)), groups=17)),
    ((2, 3, 9, 9), (4, 3, 3, 3), _conv(pad=((2, 2), (2, 2)), dilation=(2, 2))),
    ((1, 3, 11, 5), (2, 3, 4, 1), _conv(stride=(3, 2), pad=((1, 0), (0, 0)))),
    ((2, 6, 5, 5), (4, 6, 1, 1), _conv(stride=(2, 2))),
    ((0, 2, 5, 5), (4, 2, 3, 3), _conv()),
    ((1, 1, 1, 1), (1, 1, 1, 1), _conv()),
)


def _grad_shape(x: Shape, w: Shape, a: dict[str, Any]) -> Shape:
    hw = window_sizes("conv2d", x[2:], w[2:], a["stride"], a["dilation"], a["padding"])
    return (x[0], w[0], *hw)


conv2d = Conv2d("conv2d", tuple(Sample((x, w), a) for x, w, a in _CONVS))
conv2d_input_grad = Conv2dInputGrad(
    "conv2d_input_grad", tuple(Sample((_grad_shape(x, w, a), w), {"size": x[2:], **a}) for x, w, a in _CONVS)
)
conv2d_weight_grad = Conv2dWeightGrad(
    "conv2d_weight_grad",
    tuple(Sample((x, _grad_shape(x, w, a)), {"kernel": w[2:], **a}) for x, w, a in _CONVS),
)
