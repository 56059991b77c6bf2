"""Normalization layers: activations in; the same, with mean 0 and variance 1 over some of the axes, out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from smelt.errors import ShapeError, at_user_line
from smelt.nn import functional as F
from smelt.nn import init
from smelt.nn.arguments import flag, integer, number, sizes, wrong
from smelt.nn.module import Module
from smelt.tensor import Parameter, Tensor


class _BatchNorm(Module):
    _ranks: ClassVar[tuple[int, ...]]
    _form: ClassVar[str]

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True) -> None:
        owner = type(self).__name__
        self.num_features = integer(owner, "num_features", num_features)
        self.eps = number(owner, "eps", eps, 0.0)
        self.momentum = number(owner, "momentum", momentum, 0.0, 1.0)
        self.affine = flag(owner, "affine", affine)
        shape = (self.num_features,)
        self.weight: Parameter | None = init.filled(shape, 1.0) if self.affine else None
        self.bias: Parameter | None = init.filled(shape, 0.0) if self.affine else None
        self.running_mean = init.buffer(shape, 0.0)
        self.running_var = init.buffer(shape, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalized ``x``; in training, move the running statistics."""
        if x.ndim not in self._ranks or x.shape[1] != self.num_features:
            expected = self._form.format(self.num_features)
            raise ShapeError(at_user_line(f"{type(self).__name__}: expected {expected}, received {x.shape}"))
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )


class BatchNorm1d(_BatchNorm):
    """Normalize each feature over the batch: (N, C) or (N, C, L) -> the same.

    In training by the batch's statistics, otherwise by running ones: see
    :func:`smelt.nn.functional.batch_norm`. Ioffe and Szegedy, "Batch normalization" (2015).

    Parameters
    ----------
    num_features : int
        C.
    eps : float, default 1e-5
        Added to the variance.
    momentum : float, default 0.1
        Share of the batch in the running statistics.
    affine : bool, default True
        Whether a learned ``weight`` multiplies and a ``bias`` is added.

    Attributes
    ----------
    weight, bias : Parameter or None
        float32 (C,), at first 1 and 0.
    running_mean, running_var : Tensor
        float32 (C,), at first 0 and 1.

    Raises
    ------
    ValueError
        When an argument has a wrong value.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> layer = nn.BatchNorm1d(1, eps=0.0)
    >>> layer(smelt.tensor([[1.0], [3.0]])).tolist()
    [[-1.0], [1.0]]
    >>> round(layer.running_mean.item(), 4)
    0.2
    """

    _ranks = (2, 3)
    _form = "(N, {0}) or (N, {0}, L)"


class BatchNorm2d(_BatchNorm):
    """Normalize each channel over the batch and all positions: (N, C, H, W) -> the same.

    In training by the batch's statistics, otherwise by running ones: see
    :func:`smelt.nn.functional.batch_norm`. Ioffe and Szegedy, "Batch normalization" (2015).

    Parameters
    ----------
    num_features, eps, momentum, affine
        As in :class:`BatchNorm1d`.

    Attributes
    ----------
    weight, bias, running_mean, running_var
        As in :class:`BatchNorm1d`.

    Raises
    ------
    ValueError
        When an argument has a wrong value.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.BatchNorm2d(3)(smelt.ones((2, 3, 4, 4))).shape
    (2, 3, 4, 4)
    """

    _ranks = (4,)
    _form = "(N, {0}, H, W)"


class LayerNorm(Module):
    """Normalize each sample over its last axes: (..., *normalized_shape) -> the same.

    Ba, Kiros and Hinton, "Layer normalization" (2016).

    Parameters
    ----------
    normalized_shape : int or sequence of int
        Sizes of the axes that are normalized together.
    eps : float, default 1e-5
        Added to the variance.
    elementwise_affine : bool, default True
        Whether a learned ``weight`` multiplies and, with ``bias``, something is added.
    bias : bool, default True
        Whether there is a bias, if ``elementwise_affine``.

    Attributes
    ----------
    weight, bias : Parameter or None
        float32 of ``normalized_shape``, at first 1 and 0.

    Raises
    ------
    ValueError
        When an argument has a wrong value.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.LayerNorm(2, eps=0.0)(smelt.tensor([[1.0, 3.0]])).tolist()
    [[-1.0, 1.0]]
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        self.normalized_shape = sizes("LayerNorm", "normalized_shape", normalized_shape)
        self.eps = number("LayerNorm", "eps", eps, 0.0)
        self.elementwise_affine = flag("LayerNorm", "elementwise_affine", elementwise_affine)
        has_bias = flag("LayerNorm", "bias", bias) and self.elementwise_affine
        shape = self.normalized_shape
        self.weight: Parameter | None = init.filled(shape, 1.0) if self.elementwise_affine else None
        self.bias: Parameter | None = init.filled(shape, 0.0) if has_bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalized ``x``."""
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class GroupNorm(Module):
    """Normalize each sample over groups of channels and all positions: (N, C, ...) -> the same.

    Wu and He, "Group normalization" (2018).

    Parameters
    ----------
    num_groups, num_channels : int
        The channels, and into how many groups they are split evenly.
    eps : float, default 1e-5
        Added to the variance.
    affine : bool, default True
        Whether a learned ``weight`` multiplies and a ``bias`` is added.

    Attributes
    ----------
    weight, bias : Parameter or None
        float32 (num_channels,), at first 1 and 0.

    Raises
    ------
    ValueError
        When an argument has a wrong value.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.GroupNorm(2, 4, eps=0.0)(smelt.tensor([[1.0, 3.0, 5.0, 9.0]])).tolist()
    [[-1.0, 1.0, -1.0, 1.0]]
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True) -> None:
        self.num_channels = integer("GroupNorm", "num_channels", num_channels)
        self.num_groups = integer("GroupNorm", "num_groups", num_groups)
        if self.num_channels % self.num_groups:
            raise wrong("GroupNorm", "num_groups", f"a divisor of num_channels={self.num_channels}", num_groups)
        self.eps = number("GroupNorm", "eps", eps, 0.0)
        self.affine = flag("GroupNorm", "affine", affine)
        shape = (self.num_channels,)
        self.weight: Parameter | None = init.filled(shape, 1.0) if self.affine else None
        self.bias: Parameter | None = init.filled(shape, 0.0) if self.affine else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalized ``x``."""
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            raise ShapeError(at_user_line(f"GroupNorm: expected (N, {self.num_channels}, ...), received {x.shape}"))
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
