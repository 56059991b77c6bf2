"""Activation layers and dropout: a floating-point tensor in; one of the same shape out."""

from __future__ import annotations

from smelt.nn import functional as F
from smelt.nn.arguments import LARGEST, choice, integer, number
from smelt.nn.module import Module
from smelt.tensor import Tensor


class ReLU(Module):
    """max(x, 0).

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.ReLU()(smelt.tensor([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of each element."""
        return F.relu(x)


class ReLU6(Module):
    """min(max(x, 0), 6): Krizhevsky, "Convolutional deep belief networks on CIFAR-10" (2010).

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.ReLU6()(smelt.tensor([-1.0, 2.0, 8.0])).tolist()
    [0.0, 2.0, 6.0]
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of each element."""
        return F.relu6(x)


class Sigmoid(Module):
    """1 / (1 + exp(−x)).

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.Sigmoid()(smelt.tensor([0.0])).tolist()
    [0.5]
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of each element."""
        return F.sigmoid(x)


class Tanh(Module):
    """The hyperbolic tangent.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.Tanh()(smelt.tensor([0.0])).tolist()
    [0.0]
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of each element."""
        return F.tanh(x)


class SiLU(Module):
    """x · sigmoid(x), also called swish: Elfwing et al., "Sigmoid-weighted linear units" (2017).

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.SiLU()(smelt.tensor([0.0])).tolist()
    [0.0]
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of each element."""
        return F.silu(x)


class Hardswish(Module):
    """x · relu6(x + 3) / 6: Howard et al., "Searching for MobileNetV3" (2019).

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.Hardswish()(smelt.tensor([-1.5, 0.0, 4.0])).tolist()
    [-0.375, 0.0, 4.0]
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of each element."""
        return F.hardswish(x)


class Hardsigmoid(Module):
    """relu6(x + 3) / 6: Howard et al., "Searching for MobileNetV3" (2019).

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.Hardsigmoid()(smelt.tensor([-4.0, 0.0, 4.0])).tolist()
    [0.0, 0.5, 1.0]
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of each element."""
        return F.hardsigmoid(x)


class LeakyReLU(Module):
    """x where it is positive, else ``negative_slope`` · x: Maas et al., "Rectifier nonlinearities" (2013).

    Parameters
    ----------
    negative_slope : float, default 0.01
        Any finite number.

    Raises
    ------
    ValueError
        When ``negative_slope`` is something else.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.LeakyReLU(0.5)(smelt.tensor([-2.0, 2.0])).tolist()
    [-1.0, 2.0]
    """

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = number("LeakyReLU", "negative_slope", negative_slope)

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of each element."""
        return F.leaky_relu(x, self.negative_slope)


class GELU(Module):
    """x · Φ(x), with Φ the normal distribution: Hendrycks and Gimpel, "Gaussian error linear units" (2016).

    Parameters
    ----------
    approximate : {"none", "tanh"}, default "none"
        "none" computes Φ with erf, "tanh" by the paper's approximation.

    Raises
    ------
    ValueError
        When ``approximate`` is something else.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> round(nn.GELU()(smelt.tensor([1.0])).item(), 4)
    0.8413
    """

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = choice("GELU", "approximate", approximate, ("none", "tanh"))

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of each element."""
        return F.gelu(x, self.approximate)


class Softmax(Module):
    """exp(x) divided by its sum over ``dim``.

    Parameters
    ----------
    dim : int, default -1
        The axis whose elements add up to 1.

    Raises
    ------
    ValueError
        When ``dim`` is not an integer.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.Softmax()(smelt.tensor([[1000.0, 1000.0]])).tolist()
    [[0.5, 0.5]]
    """

    def __init__(self, dim: int = -1) -> None:
        self.dim = integer("Softmax", "dim", dim, low=-LARGEST)

    def forward(self, x: Tensor) -> Tensor:
        """Return probabilities."""
        return F.softmax(x, self.dim)


class LogSoftmax(Module):
    """Logarithm of the softmax over ``dim``, without overflow or log(0).

    Parameters
    ----------
    dim : int, default -1
        The axis whose probabilities add up to 1.

    Raises
    ------
    ValueError
        When ``dim`` is not an integer.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.LogSoftmax()(smelt.tensor([[0.0, 1000.0]])).tolist()
    [[-1000.0, 0.0]]
    """

    def __init__(self, dim: int = -1) -> None:
        self.dim = integer("LogSoftmax", "dim", dim, low=-LARGEST)

    def forward(self, x: Tensor) -> Tensor:
        """Return logarithms of probabilities."""
        return F.log_softmax(x, self.dim)


class Dropout(Module):
    """In training, set elements to 0 with probability ``p`` and divide the others by 1 − p; else do nothing.

    Srivastava et al., "Dropout" (2014). Draws from :data:`smelt.random.default`.

    Parameters
    ----------
    p : float, default 0.5
        From 0 to 1.

    Raises
    ------
    ValueError
        When ``p`` is something else.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> sorted(set(nn.Dropout(0.5)(smelt.ones((100,))).tolist()))
    [0.0, 2.0]
    >>> nn.Dropout(0.5).eval()(smelt.ones((2,))).tolist()
    [1.0, 1.0]
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = number("Dropout", "p", p, 0.0, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with some elements dropped."""
        return F.dropout(x, self.p, self.training)
