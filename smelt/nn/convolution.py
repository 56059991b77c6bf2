"""Convolution layers: images (N, C, H, W) or sequences (N, C, L) in; the same with other channels out."""

from __future__ import annotations

import math

from smelt.nn import functional as F
from smelt.nn import init
from smelt.nn.arguments import flag, integer, pair, sides, wrong
from smelt.nn.module import Module
from smelt.tensor import Parameter, Tensor

Pair = tuple[int, int]


def _channels(owner: str, in_channels: int, out_channels: int, groups: int) -> tuple[int, int, int]:
    ins = integer(owner, "in_channels", in_channels)
    outs = integer(owner, "out_channels", out_channels)
    n = integer(owner, "groups", groups)
    if ins % n or outs % n:
        raise wrong(owner, "groups", f"a divisor of in_channels={ins} and out_channels={outs}", groups)
    return ins, outs, n


class Conv2d(Module):
    """Convolve images with ``out_channels`` learned kernels: (N, C, H, W) -> (N, out_channels, H', W').

    Weights and bias are drawn from ±1/√(kh · kw · C / groups). ``groups=in_channels`` makes it depthwise.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input and the output.
    kernel_size : int or pair
        Rows and columns of the kernels.
    stride : int or pair, default 1
        Step between windows.
    padding : int, pair, four ints, "same" or "valid", default 0
        Zeros around the image; four are top, bottom, left and right. "same" gives ⌈H / stride⌉ rows: for any
        stride, as in TensorFlow.
    dilation : int or pair, default 1
        Step between the elements of a kernel.
    groups : int, default 1
        Into how many independent convolutions the channels are split.
    bias : bool, default True
        Whether something is added.

    Attributes
    ----------
    weight : Parameter
        float32 (out_channels, in_channels / groups, kh, kw).
    bias : Parameter or None
        float32 (out_channels,).

    Raises
    ------
    ValueError
        When an argument has a wrong value.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.Conv2d(3, 8, 3, stride=2, padding="same")(smelt.ones((2, 3, 32, 32))).shape
    (2, 8, 16, 16)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | tuple[int, ...] | str = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        self.in_channels, self.out_channels, self.groups = _channels("Conv2d", in_channels, out_channels, groups)
        self.kernel_size = pair("Conv2d", "kernel_size", kernel_size)
        self.stride = pair("Conv2d", "stride", stride)
        self.padding: tuple[int, ...] | str
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise wrong("Conv2d", "padding", "integers ≥ 0, 'same' or 'valid'", padding)
            self.padding = padding
        else:
            self.padding = sides("Conv2d", "padding", padding)
        self.dilation = pair("Conv2d", "dilation", dilation)
        has_bias = flag("Conv2d", "bias", bias)
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        fan_in = math.prod(shape[1:])
        self.weight = init.fan_in_uniform(shape, fan_in)
        self.bias: Parameter | None = init.fan_in_uniform(shape[:1], fan_in) if has_bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, out_channels, H', W') of (N, in_channels, H, W)."""
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Conv1d(Module):
    """Convolve sequences with ``out_channels`` learned kernels: (N, C, L) -> (N, out_channels, L').

    Weights and bias are drawn from ±1/√(k · C / groups).

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input and the output.
    kernel_size : int
        Length of the kernels.
    stride, dilation, groups : int, default 1
        As in :class:`Conv2d`.
    padding : int, "same" or "valid", default 0
        As in :class:`Conv2d`.
    bias : bool, default True
        Whether something is added.

    Attributes
    ----------
    weight : Parameter
        float32 (out_channels, in_channels / groups, k).
    bias : Parameter or None
        float32 (out_channels,).

    Raises
    ------
    ValueError
        When an argument has a wrong value.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.Conv1d(4, 8, 3, padding=1)(smelt.ones((2, 4, 50))).shape
    (2, 8, 50)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | str = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        self.in_channels, self.out_channels, self.groups = _channels("Conv1d", in_channels, out_channels, groups)
        self.kernel_size = integer("Conv1d", "kernel_size", kernel_size)
        self.stride = integer("Conv1d", "stride", stride)
        self.padding: int | str
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise wrong("Conv1d", "padding", "an integer ≥ 0, 'same' or 'valid'", padding)
            self.padding = padding
        else:
            self.padding = integer("Conv1d", "padding", padding, low=0)
        self.dilation = integer("Conv1d", "dilation", dilation)
        has_bias = flag("Conv1d", "bias", bias)
        shape = (self.out_channels, self.in_channels // self.groups, self.kernel_size)
        fan_in = math.prod(shape[1:])
        self.weight = init.fan_in_uniform(shape, fan_in)
        self.bias: Parameter | None = init.fan_in_uniform(shape[:1], fan_in) if has_bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, out_channels, L') of (N, in_channels, L)."""
        return F.conv1d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
