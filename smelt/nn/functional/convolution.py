"""Linear maps and convolutions as functions: tensors and weights in; tensors, differentiable in both, out."""

from __future__ import annotations

from typing import Any

from smelt import ops
from smelt.errors import ShapeError, at_user_line
from smelt.nn.arguments import integer, pair, sides, wrong
from smelt.tensor import Tensor, matmul

Pair = tuple[int, int]
Padding = int | tuple[int, ...] | str


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.T + bias``.

    Parameters
    ----------
    x : Tensor
        (..., in), floating-point.
    weight : Tensor
        (out, in).
    bias : Tensor, optional
        (out,).

    Returns
    -------
    Tensor
        (..., out).

    Raises
    ------
    ShapeError
        When the shapes do not fit.

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.linear(smelt.tensor([[1.0, 2.0]]), smelt.tensor([[3.0, 4.0]]), smelt.tensor([0.5])).tolist()
    [[11.5]]
    """
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ShapeError(
            at_user_line(f"linear: expected x (..., in) and weight (out, in), received {x.shape} and {weight.shape}")
        )
    out = matmul(x, weight.T)
    return out if bias is None else out + bias


def same_padding(size: int, kernel: int, stride: int = 1, dilation: int = 1) -> Pair:
    """Return the padding (before, after) for which the output's length is ⌈size / stride⌉, as in TensorFlow.

    An odd total leaves the extra zero after. With stride 1 it is PyTorch's ``padding="same"``.

    Examples
    --------
    >>> same_padding(32, kernel=3, stride=2)
    (0, 1)
    """
    total = max((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return total // 2, total - total // 2


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: Padding = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Return the 2-D convolution (cross-correlation) of images with kernels.

    Parameters
    ----------
    x : Tensor
        (N, C, H, W), floating-point.
    weight : Tensor
        (out, C / groups, kh, kw).
    bias : Tensor, optional
        (out,).
    stride, dilation : int or pair, default 1
        For rows and columns.
    padding : int, pair, four ints, "same" or "valid", default 0
        Zeros around the image; four are top, bottom, left and right. "same" gives ⌈H / stride⌉ rows, with any
        stride: see :func:`same_padding`.
    groups : int, default 1
        Into how many independent convolutions the channels are split; C for a depthwise convolution.

    Returns
    -------
    Tensor
        (N, out, H', W').

    Raises
    ------
    ShapeError
        When the shapes do not fit, or no window fits into the image.
    ValueError
        When an option has a wrong value.

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.conv2d(smelt.ones((1, 1, 3, 3)), smelt.ones((1, 1, 2, 2))).tolist()
    [[[[4.0, 4.0], [4.0, 4.0]]]]
    """
    if x.ndim != 4 or weight.ndim != 4:
        raise ShapeError(
            at_user_line(
                f"conv2d: expected x (N, C, H, W) and weight (out, C/groups, kh, kw), received {x.shape} "
                f"and {weight.shape}"
            )
        )
    strides, dilations = pair("conv2d", "stride", stride), pair("conv2d", "dilation", dilation)
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise wrong("conv2d", "padding", "integers ≥ 0, 'same' or 'valid'", padding)
        zip4 = zip(x.shape[2:], weight.shape[2:], strides, dilations, strict=True)
        pads = tuple(same_padding(*a) if padding == "same" else (0, 0) for a in zip4)
    else:
        given = sides("conv2d", "padding", padding)
        pads = (given[:2], given[2:]) if len(given) == 4 else tuple((p, p) for p in given)
    out = ops.conv2d(
        x,
        weight,
        stride=strides,
        padding=pads,
        dilation=dilations,
        groups=integer("conv2d", "groups", groups),
    )
    return out if bias is None else out + bias.reshape(-1, 1, 1)


def conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int | str = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Tensor:
    """Return the 1-D convolution of sequences with kernels: :func:`conv2d` on one row.

    Parameters
    ----------
    x : Tensor
        (N, C, L), floating-point.
    weight : Tensor
        (out, C / groups, k).
    bias : Tensor, optional
        (out,).
    stride, dilation, groups : int, default 1
        As in :func:`conv2d`.
    padding : int, "same" or "valid", default 0
        As in :func:`conv2d`.

    Returns
    -------
    Tensor
        (N, out, L').

    Raises
    ------
    ShapeError, ValueError
        As :func:`conv2d`.

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.conv1d(smelt.tensor([[[1.0, 2.0, 4.0]]]), smelt.tensor([[[1.0, -1.0]]])).tolist()
    [[[-1.0, -2.0]]]
    """
    if x.ndim != 3 or weight.ndim != 3:
        raise ShapeError(
            at_user_line(
                f"conv1d: expected x (N, C, L) and weight (out, C/groups, k), received {x.shape} and {weight.shape}"
            )
        )
    pads: Any = padding if isinstance(padding, str) else (0, integer("conv1d", "padding", padding, low=0))
    out = conv2d(
        x.unsqueeze(2),
        weight.unsqueeze(2),
        bias,
        stride=(1, integer("conv1d", "stride", stride)),
        padding=pads,
        dilation=(1, integer("conv1d", "dilation", dilation)),
        groups=groups,
    )
    return out.squeeze(2)
