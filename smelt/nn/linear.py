"""Fully connected layers, and the layers that only reshape."""

from __future__ import annotations

from smelt.nn import functional as F
from smelt.nn import init
from smelt.nn.arguments import flag, integer
from smelt.nn.module import Module
from smelt.tensor import Parameter, Tensor


class Linear(Module):
    """``x @ weight.T + bias``: (..., in_features) -> (..., out_features).

    Weights and bias are drawn from ±1/√in_features.

    Parameters
    ----------
    in_features, out_features : int
        Sizes of the last axis.
    bias : bool, default True
        Whether something is added.

    Attributes
    ----------
    weight : Parameter
        float32 (out_features, in_features).
    bias : Parameter or None
        float32 (out_features,).

    Raises
    ------
    ValueError
        When an argument has a wrong value.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.Linear(20, 30)(smelt.ones((128, 20))).shape
    (128, 30)
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        self.in_features = integer("Linear", "in_features", in_features)
        self.out_features = integer("Linear", "out_features", out_features)
        has_bias = flag("Linear", "bias", bias)
        self.weight = init.fan_in_uniform((self.out_features, self.in_features), self.in_features)
        self.bias: Parameter | None = init.fan_in_uniform((self.out_features,), self.in_features) if has_bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out_features) of (..., in_features)."""
        return F.linear(x, self.weight, self.bias)


class Flatten(Module):
    """Merge axis ``start_dim`` and all later ones: (N, C, H, W) -> (N, C·H·W).

    Parameters
    ----------
    start_dim : int, default 1
        At least 0.

    Raises
    ------
    ValueError
        When ``start_dim`` is something else.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.Flatten()(smelt.ones((2, 3, 4, 5))).shape
    (2, 60)
    """

    def __init__(self, start_dim: int = 1) -> None:
        self.start_dim = integer("Flatten", "start_dim", start_dim, low=0)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with its last axes merged."""
        return x.flatten(self.start_dim)


class Identity(Module):
    """Return what it is given.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.Identity()(smelt.tensor([1.0])).tolist()
    [1.0]
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``."""
        return x
