"""Pooling layers: images (N, C, H, W) or sequences (N, C, L) in; one value per window or channel out."""

from __future__ import annotations

from smelt.nn import functional as F
from smelt.nn.arguments import flag, integer, pair, wrong
from smelt.nn.module import Module
from smelt.tensor import Tensor

Pair = tuple[int, int]


class _Pool2d(Module):
    def __init__(self, kernel_size: int | Pair, stride: int | Pair | None = None, padding: int | Pair = 0) -> None:
        owner = type(self).__name__
        self.kernel_size = pair(owner, "kernel_size", kernel_size)
        self.stride = self.kernel_size if stride is None else pair(owner, "stride", stride)
        self.padding = pair(owner, "padding", padding, low=0)
        if any(p >= k for p, k in zip(self.padding, self.kernel_size, strict=True)):
            raise wrong(owner, "padding", f"less than kernel_size={self.kernel_size}", padding)


class _Pool1d(Module):
    def __init__(self, kernel_size: int, stride: int | None = None, padding: int = 0) -> None:
        owner = type(self).__name__
        self.kernel_size = integer(owner, "kernel_size", kernel_size)
        self.stride = self.kernel_size if stride is None else integer(owner, "stride", stride)
        self.padding = integer(owner, "padding", padding, low=0)
        if self.padding >= self.kernel_size:
            raise wrong(owner, "padding", f"less than kernel_size={self.kernel_size}", padding)


class MaxPool2d(_Pool2d):
    """Largest element of each window: (N, C, H, W) -> (N, C, H', W').

    Parameters
    ----------
    kernel_size : int or pair
        Rows and columns of a window.
    stride : int or pair, optional
        The kernel's size by default.
    padding : int or pair, default 0
        Less than the kernel's size; it never wins.

    Raises
    ------
    ValueError
        When an argument has a wrong value.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.MaxPool2d(2)(smelt.ones((1, 3, 9, 8))).shape
    (1, 3, 4, 4)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H', W') of (N, C, H, W)."""
        return F.max_pool2d(x, self.kernel_size, self.stride, self.padding)


class AvgPool2d(_Pool2d):
    """Mean of each window: (N, C, H, W) -> (N, C, H', W').

    Parameters
    ----------
    kernel_size, stride, padding
        As in :class:`MaxPool2d`.
    count_include_pad : bool, default True
        Whether padding counts as zeros; else the mean is over the image's own elements.

    Raises
    ------
    ValueError
        When an argument has a wrong value.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.AvgPool2d((25, 5))(smelt.ones((1, 64, 25, 5))).shape
    (1, 64, 1, 1)
    """

    def __init__(
        self,
        kernel_size: int | Pair,
        stride: int | Pair | None = None,
        padding: int | Pair = 0,
        *,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding)
        self.count_include_pad = flag("AvgPool2d", "count_include_pad", count_include_pad)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H', W') of (N, C, H, W)."""
        return F.avg_pool2d(x, self.kernel_size, self.stride, self.padding, count_include_pad=self.count_include_pad)


class MaxPool1d(_Pool1d):
    """Largest element of each window: (N, C, L) -> (N, C, L').

    Parameters
    ----------
    kernel_size : int
        Length of a window.
    stride : int, optional
        The kernel's size by default.
    padding : int, default 0
        Less than the kernel's size; it never wins.

    Raises
    ------
    ValueError
        When an argument has a wrong value.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.MaxPool1d(2)(smelt.tensor([[[1.0, 3.0, 2.0, 0.0]]])).tolist()
    [[[3.0, 2.0]]]
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, L') of (N, C, L)."""
        return F.max_pool1d(x, self.kernel_size, self.stride, self.padding)


class AvgPool1d(_Pool1d):
    """Mean of each window: (N, C, L) -> (N, C, L').

    Parameters
    ----------
    kernel_size, stride, padding
        As in :class:`MaxPool1d`.
    count_include_pad : bool, default True
        Whether padding counts as zeros; else the mean is over the sequence's own elements.

    Raises
    ------
    ValueError
        When an argument has a wrong value.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.AvgPool1d(2)(smelt.tensor([[[1.0, 3.0, 2.0, 0.0]]])).tolist()
    [[[2.0, 1.0]]]
    """

    def __init__(
        self, kernel_size: int, stride: int | None = None, padding: int = 0, *, count_include_pad: bool = True
    ) -> None:
        super().__init__(kernel_size, stride, padding)
        self.count_include_pad = flag("AvgPool1d", "count_include_pad", count_include_pad)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, L') of (N, C, L)."""
        return F.avg_pool1d(x, self.kernel_size, self.stride, self.padding, count_include_pad=self.count_include_pad)


class GlobalAvgPool2d(Module):
    """Mean of each channel: (N, C, H, W) -> (N, C).

    Lin, Chen and Yan, "Network in network" (2013).

    Parameters
    ----------
    keepdims : bool, default False
        Whether the result is (N, C, 1, 1), as PyTorch's ``AdaptiveAvgPool2d(1)``.

    Raises
    ------
    ValueError
        When ``keepdims`` is not True or False.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.GlobalAvgPool2d()(smelt.ones((2, 3, 4, 4))).shape
    (2, 3)
    """

    def __init__(self, keepdims: bool = False) -> None:
        self.keepdims = flag("GlobalAvgPool2d", "keepdims", keepdims)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C) of (N, C, H, W)."""
        return F.global_avg_pool2d(x, self.keepdims)


class GlobalMaxPool2d(Module):
    """Largest element of each channel: (N, C, H, W) -> (N, C).

    Parameters
    ----------
    keepdims : bool, default False
        Whether the result is (N, C, 1, 1), as PyTorch's ``AdaptiveMaxPool2d(1)``.

    Raises
    ------
    ValueError
        When ``keepdims`` is not True or False.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.GlobalMaxPool2d(keepdims=True)(smelt.ones((2, 3, 4, 4))).shape
    (2, 3, 1, 1)
    """

    def __init__(self, keepdims: bool = False) -> None:
        self.keepdims = flag("GlobalMaxPool2d", "keepdims", keepdims)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C) of (N, C, H, W)."""
        return F.global_max_pool2d(x, self.keepdims)
