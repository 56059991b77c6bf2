"""Pooling as functions: images or sequences in; one value per window, or per channel, out."""

from __future__ import annotations

import numpy as np

from smelt import ops
from smelt.errors import ShapeError, at_user_line
from smelt.nn.arguments import flag, integer, pair
from smelt.tensor import Tensor

Pair = tuple[int, int]


def max_pool2d(x: Tensor, kernel_size: int | Pair, stride: int | Pair | None = None, padding: int | Pair = 0) -> Tensor:
    """Return the largest element of each window; padding never wins.

    Parameters
    ----------
    x : Tensor
        (N, C, H, W), floating-point.
    kernel_size : int or pair
        Rows and columns of a window; at most 255 elements where a gradient is wanted.
    stride : int or pair, optional
        The kernel's size by default.
    padding : int or pair, default 0
        Less than the kernel's size.

    Returns
    -------
    Tensor
        (N, C, H', W'); a last window that does not fit is left out.

    Raises
    ------
    ShapeError
        When no window fits, or ``x`` has another number of axes.
    ValueError
        When an option has a wrong value.

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.max_pool2d(smelt.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), 2).tolist()
    [[[[4.0]]]]
    """
    kernel, strides, (ph, pw) = _window("max_pool2d", kernel_size, stride, padding)
    return ops.max_pool2d(x, kernel=kernel, stride=strides, padding=((ph, ph), (pw, pw)))


def avg_pool2d(
    x: Tensor,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    *,
    count_include_pad: bool = True,
) -> Tensor:
    """Return the mean of each window.

    Parameters
    ----------
    x, kernel_size, stride, padding
        As in :func:`max_pool2d`.
    count_include_pad : bool, default True
        Whether padding counts as zeros; else the mean is over the image's own elements.

    Returns
    -------
    Tensor
        (N, C, H', W').

    Raises
    ------
    ShapeError, ValueError
        As :func:`max_pool2d`.

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.avg_pool2d(smelt.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), 2).tolist()
    [[[[2.5]]]]
    """
    kernel, strides, (ph, pw) = _window("avg_pool2d", kernel_size, stride, padding)
    total = ops.sum_pool2d(x, kernel=kernel, stride=strides, padding=((ph, ph), (pw, pw)))
    if flag("avg_pool2d", "count_include_pad", count_include_pad) or (ph, pw) == (0, 0):
        return total / float(kernel[0] * kernel[1])
    counts = [_elements(*a) for a in zip(x.shape[2:], total.shape[2:], kernel, strides, (ph, pw), strict=True)]
    return total / Tensor(np.outer(*counts).astype(x.dtype))


def max_pool1d(x: Tensor, kernel_size: int, stride: int | None = None, padding: int = 0) -> Tensor:
    """Return the largest element of each window of sequences (N, C, L); see :func:`max_pool2d`.

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.max_pool1d(smelt.tensor([[[1.0, 3.0, 2.0, 0.0]]]), 2).tolist()
    [[[3.0, 2.0]]]
    """
    k, s, p = _row("max_pool1d", x, kernel_size, stride, padding)
    return max_pool2d(x.unsqueeze(2), (1, k), (1, s), (0, p)).squeeze(2)


def avg_pool1d(
    x: Tensor,
    kernel_size: int,
    stride: int | None = None,
    padding: int = 0,
    *,
    count_include_pad: bool = True,
) -> Tensor:
    """Return the mean of each window of sequences (N, C, L); see :func:`avg_pool2d`.

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.avg_pool1d(smelt.tensor([[[1.0, 3.0, 2.0, 0.0]]]), 2).tolist()
    [[[2.0, 1.0]]]
    """
    k, s, p = _row("avg_pool1d", x, kernel_size, stride, padding)
    out = avg_pool2d(x.unsqueeze(2), (1, k), (1, s), (0, p), count_include_pad=count_include_pad)
    return out.squeeze(2)


def global_avg_pool2d(x: Tensor, keepdims: bool = False) -> Tensor:
    """Return the mean of each channel: (N, C, H, W) -> (N, C), or (N, C, 1, 1) with ``keepdims``.

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.global_avg_pool2d(smelt.ones((2, 3, 4, 4))).shape
    (2, 3)
    """
    return _images("global_avg_pool2d", x).mean((2, 3), keepdims)


def global_max_pool2d(x: Tensor, keepdims: bool = False) -> Tensor:
    """Return the largest element of each channel: (N, C, H, W) -> (N, C), or (N, C, 1, 1) with ``keepdims``.

    Equal maxima share the gradient.

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.global_max_pool2d(smelt.ones((2, 3, 4, 4)), keepdims=True).shape
    (2, 3, 1, 1)
    """
    return _images("global_max_pool2d", x).max((2, 3), keepdims)


def _images(name: str, x: Tensor) -> Tensor:
    if x.ndim != 4:
        raise ShapeError(at_user_line(f"{name}: expected (N, C, H, W), received {x.shape}"))
    return x


def _window(name: str, kernel: int | Pair, stride: int | Pair | None, padding: int | Pair) -> tuple[Pair, Pair, Pair]:
    k = pair(name, "kernel_size", kernel)
    s = k if stride is None else pair(name, "stride", stride)
    return k, s, pair(name, "padding", padding, low=0)


def _row(name: str, x: Tensor, kernel: int, stride: int | None, padding: int) -> tuple[int, int, int]:
    if x.ndim != 3:
        raise ShapeError(at_user_line(f"{name}: expected (N, C, L), received {x.shape}"))
    k = integer(name, "kernel_size", kernel)
    s = k if stride is None else integer(name, "stride", stride)
    return k, s, integer(name, "padding", padding, low=0)


def _elements(size: int, windows: int, kernel: int, stride: int, pad: int) -> np.ndarray:
    start = np.arange(windows) * stride - pad
    return np.minimum(start + kernel, size) - np.maximum(start, 0)
