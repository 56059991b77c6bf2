"""Convolutions by Winograd's products: F(2 x 2, 3 x 3), 16 for 4 results where there were 36, and F(2, 3) and F(2, 5)
along lines, 4 or 6 for 2 results and each line of taps where there were 6 or 10.

In: images, and kernels that were transformed. Out: the convolution (Lavin & Gray, "Fast Algorithms for Convolutional
Neural Networks", 2016). The compiler makes these operations of ``conv2d``; users do not. Products are added up over
the channels before they are transformed back: in two dimensions that pays with many channels, along lines with one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from smelt.ops.contraction import windows
from smelt.ops.primitive import Primitive, Spec

# Rows of the transforms of 4 pixels, of 3 taps, and of 4 products into 2 results.
IMAGE = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], np.float32)
KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
RESULT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]], np.float32)
TILE, PATCH = 2, 4  # pixels of results, and of the image, along each axis
# The same along lines by the taps of a line, from the values of the polynomials at 0, 1, -1 (2, -2), and infinity.
LINE_IMAGE = {
    3: IMAGE,
    5: np.array(
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ],
        np.float32,
    ),
}
# That of kernels is whole numbers, and then a factor for each row.
LINE_KERNEL = {
    3: np.array([[1, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 1]], np.float32),
    5: np.array(
        [[1, 0, 0, 0, 0], [1, 1, 1, 1, 1], [1, -1, 1, -1, 1], [1, 2, 4, 8, 16], [1, -2, 4, -8, 16], [0, 0, 0, 0, 1]],
        np.float32,
    ),
}
LINE_FACTOR = {3: (1, 1 / 2, 1 / 2, 1), 5: (1 / 4, -1 / 6, -1 / 6, 1 / 24, 1 / 24, 1)}
LINE_RESULT = {3: RESULT, 5: np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 1]], np.float32)}


class WinogradWeights(Primitive):
    """Transform kernels (out, in, 3, 3) into (4, 4, in, out).

    With ``flip``, into those of the gradient of the images: the taps in the opposite order, and (4, 4, out, in).
    """

    def __init__(self) -> None:
        self.name, self._samples = "winograd_weights", ()

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        """Return the spec of the transformed kernels."""
        o, i, *_ = specs[0].shape
        return Spec((PATCH, PATCH, *((o, i) if attrs["flip"] else (i, o))), specs[0].dtype)

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        """Compute the transform with NumPy."""
        (w,) = arrays
        w = w[:, :, ::-1, ::-1] if attrs["flip"] else w.swapaxes(0, 1)
        kernel = KERNEL.astype(w.dtype)
        return np.ascontiguousarray((kernel @ w @ kernel.T).transpose(2, 3, 0, 1))


class Conv2dWinograd(Primitive):
    """Convolve NCHW images, of an even result, with transformed kernels (4, 4, in, out), at stride 1.

    Attributes: ``padding`` ((top, bottom), (left, right)).
    """

    def __init__(self) -> None:
        self.name, self._samples = "conv2d_winograd", ()

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        """Return the spec of the result."""
        x, u = specs
        h, w = (d + sum(p) - 2 for d, p in zip(x.shape[2:], attrs["padding"], strict=True))
        return Spec((x.shape[0], u.shape[3], h, w), x.dtype, x.rows)

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        """Compute the convolution with NumPy, by the same products."""
        x, u = arrays
        image, result = IMAGE.astype(x.dtype), RESULT.astype(x.dtype)
        x = np.pad(x, ((0, 0), (0, 0), *attrs["padding"]))
        patches = windows(x, (PATCH, PATCH), (TILE, TILE), (1, 1))
        n, c, th, tw, *_ = patches.shape
        v = (image @ patches @ image.T).transpose(4, 5, 0, 2, 3, 1).reshape(PATCH, PATCH, n * th * tw, c)
        m = np.matmul(v, u).reshape(PATCH, PATCH, n, th, tw, -1).transpose(2, 5, 3, 4, 0, 1)
        y = result @ m @ result.T
        return np.ascontiguousarray(y.transpose(0, 1, 2, 4, 3, 5)).reshape(n, -1, th * TILE, tw * TILE)

    def macs(self, specs: tuple[Spec, ...], out: Spec, attrs: dict[str, Any]) -> int:
        """Return the multiply-accumulates of the convolution as it is written, by which networks are compared."""
        return out.size * specs[0].shape[1] * 9


class WinogradLineWeights(Primitive):
    """Transform the lines of kernels (out, in, kh, kw) into (kh, kw + 1, in, out)."""

    def __init__(self) -> None:
        self.name, self._samples = "winograd_line_weights", ()

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        """Return the spec of the transformed kernels."""
        o, i, kh, kw = specs[0].shape
        return Spec((kh, kw + 1, i, o), specs[0].dtype)

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        """Compute the transform with NumPy."""
        (w,) = arrays
        kernel, factors = LINE_KERNEL[w.shape[3]].astype(w.dtype), np.array(LINE_FACTOR[w.shape[3]], w.dtype)
        return np.ascontiguousarray(((w @ kernel.T) * factors).transpose(2, 3, 1, 0))


class Conv2dWinogradLines(Primitive):
    """Convolve NCHW images, of an even result, with kernels whose lines are transformed, at stride 1.

    Attributes: ``padding`` ((top, bottom), (left, right)).
    """

    def __init__(self) -> None:
        self.name, self._samples = "conv2d_winograd_lines", ()

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        """Return the spec of the result."""
        x, (kh, patch, _, o) = specs[0], specs[1].shape
        padded = (d + sum(p) for d, p in zip(x.shape[2:], attrs["padding"], strict=True))
        h, w = (d - k + 1 for d, k in zip(padded, (kh, patch - 1), strict=True))
        return Spec((x.shape[0], o, h, w), x.dtype, x.rows)

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        """Compute the convolution with NumPy, by the same products."""
        x, u = arrays
        kh, patch = u.shape[:2]
        image, result = (m[patch - 1].astype(x.dtype) for m in (LINE_IMAGE, LINE_RESULT))
        x = np.pad(x, ((0, 0), (0, 0), *attrs["padding"]))
        lines = windows(x, (kh, patch), (1, TILE), (1, 1)) @ image.T  # n, c, h, w / 2, kh, patch
        m = np.einsum("nchwkf,kfco->nohwf", lines, u, optimize=True)
        return np.ascontiguousarray(m @ result.T).reshape(*m.shape[:3], -1).astype(x.dtype, copy=False)

    def macs(self, specs: tuple[Spec, ...], out: Spec, attrs: dict[str, Any]) -> int:
        """Return the multiply-accumulates of the convolution as it is written, by which networks are compared."""
        kh, patch, i, _ = specs[1].shape
        return out.size * i * kh * (patch - 1)


winograd_weights = WinogradWeights()
winograd_line_weights = WinogradLineWeights()
conv2d_winograd_lines = Conv2dWinogradLines()
conv2d_winograd = Conv2dWinograd()
WEIGHTS = {winograd_weights.name, winograd_line_weights.name}
CONVOLUTIONS = {conv2d_winograd.name, conv2d_winograd_lines.name}
