"""Activations and dropout as functions: a floating-point tensor in; one of the same shape out.

Where a function has a kink the derivative there is PyTorch's.
"""

from __future__ import annotations

import math

from smelt import ops, random
from smelt.functions import minimum, where
from smelt.nn.arguments import choice, number
from smelt.tensor import Tensor


def relu(x: Tensor) -> Tensor:
    """Return max(x, 0).

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.relu(smelt.tensor([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    return x.relu()


def relu6(x: Tensor) -> Tensor:
    """Return min(max(x, 0), 6): Krizhevsky, "Convolutional deep belief networks on CIFAR-10" (2010).

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.relu6(smelt.tensor([-1.0, 2.0, 8.0])).tolist()
    [0.0, 2.0, 6.0]
    """
    return minimum(6.0, x.relu())


def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """Return x, times ``negative_slope`` where negative: Maas et al., "Rectifier nonlinearities" (2013).

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.leaky_relu(smelt.tensor([-2.0, 2.0]), 0.5).tolist()
    [-1.0, 2.0]
    """
    return where(x > 0.0, x, x * float(negative_slope))


def sigmoid(x: Tensor) -> Tensor:
    """Return 1 / (1 + exp(−x)).

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.sigmoid(smelt.tensor([0.0])).tolist()
    [0.5]
    """
    return x.sigmoid()


def tanh(x: Tensor) -> Tensor:
    """Return the hyperbolic tangent.

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.tanh(smelt.tensor([0.0])).tolist()
    [0.0]
    """
    return x.tanh()


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """Return x · Φ(x), Φ the normal distribution: Hendrycks and Gimpel, "Gaussian error linear units" (2016).

    Parameters
    ----------
    x : Tensor
        Any shape, floating-point.
    approximate : {"none", "tanh"}, default "none"
        "none" computes Φ with erf; "tanh" is the paper's ½ (1 + tanh(√(2/π) (x + 0.044715 x³))).

    Raises
    ------
    ValueError
        When ``approximate`` is something else.

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> round(F.gelu(smelt.tensor([1.0])).item(), 4)
    0.8413
    """
    if choice("gelu", "approximate", approximate, ("none", "tanh")) == "none":
        return x * 0.5 * (ops.erf(x * math.sqrt(0.5)) + 1.0)
    return x * 0.5 * (((x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)).tanh() + 1.0)


def silu(x: Tensor) -> Tensor:
    """Return x · sigmoid(x), also called swish: Elfwing et al., "Sigmoid-weighted linear units" (2017).

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.silu(smelt.tensor([0.0])).tolist()
    [0.0]
    """
    return x * x.sigmoid()


def hardsigmoid(x: Tensor) -> Tensor:
    """Return relu6(x + 3) / 6: Howard et al., "Searching for MobileNetV3" (2019).

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.hardsigmoid(smelt.tensor([-4.0, 0.0, 4.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    return relu6(x + 3.0) / 6.0


def hardswish(x: Tensor) -> Tensor:
    """Return x · relu6(x + 3) / 6: Howard et al., "Searching for MobileNetV3" (2019).

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.hardswish(smelt.tensor([-1.5, 0.0, 4.0])).tolist()
    [-0.375, 0.0, 4.0]
    """
    return x * relu6(x + 3.0) / 6.0


def softplus(x: Tensor) -> Tensor:
    """Return log(1 + exp(x)) without overflow.

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.softplus(smelt.tensor([1000.0])).tolist()
    [1000.0]
    """
    return x.relu() + log1p_exp(x)


def log1p_exp(x: Tensor) -> Tensor:
    """Return log(1 + exp(−|x|)), which softplus adds to max(x, 0), with the derivative ½ at 0 it lacks."""
    return ops.log1p(minimum(x, -x).exp())


def softmax(x: Tensor, dim: int = -1) -> Tensor:
    """Return exp(x) divided by its sum over ``dim``, without overflow.

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.softmax(smelt.tensor([[1000.0, 1000.0]])).tolist()
    [[0.5, 0.5]]
    """
    e = (x - x.detach().max(dim, keepdims=True)).exp()
    return e / e.sum(dim, keepdims=True)


def log_softmax(x: Tensor, dim: int = -1) -> Tensor:
    """Return the logarithm of :func:`softmax`, without overflow or log(0).

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.log_softmax(smelt.tensor([[0.0, 1000.0]])).tolist()
    [[-1000.0, 0.0]]
    """
    z = x - x.detach().max(dim, keepdims=True)
    return z - z.exp().sum(dim, keepdims=True).log()


def dropout(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Return ``x`` with elements set to 0 with probability ``p`` and the others divided by 1 − p.

    Srivastava et al., "Dropout" (2014). Draws from :data:`smelt.random.default`.

    Parameters
    ----------
    x : Tensor
        Any shape, floating-point.
    p : float, default 0.5
        From 0 to 1.
    training : bool, default True
        With False, ``x`` is returned as it is.

    Raises
    ------
    ValueError
        When ``p`` is not a number from 0 to 1.

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> sorted(set(F.dropout(smelt.ones((100,)), 0.5).tolist()))
    [0.0, 2.0]
    """
    p = number("dropout", "p", p, 0.0, 1.0)
    if not training or p == 0.0:
        return x
    if p == 1.0:
        return x * 0.0
    return where(random.uniform(x.shape) >= p, x * (1 / (1 - p)), 0.0)
