"""RMSprop: gradients divided by the root of their mean square."""

from __future__ import annotations

from typing import ClassVar

from smelt.nn.arguments import flag, number
from smelt.optim.optimizer import Group, Optimizer, Params
from smelt.tensor import Tensor


class RMSprop(Optimizer):
    """p ← p − lr · g / (√v + ``eps``), with v ← ``alpha`` v + (1 − ``alpha``) g².

    Hinton, "Neural networks for machine learning", lecture 6e (2012). As PyTorch's: with ``centered`` the
    mean gradient's square is taken from v (Graves, "Generating sequences with recurrent neural networks",
    2013), with ``momentum`` the quotients are summed before they are scaled.

    Parameters
    ----------
    params : iterable of Parameter, or of dict, optional
        See :class:`Optimizer`.
    lr : float, default 1e-2
        Learning rate.
    alpha : float, default 0.99
        From 0 to 1.
    eps : float, default 1e-8
        At least 0.
    weight_decay : float, default 0
        L2 penalty: ``weight_decay`` · p is added to the gradient.
    momentum : float, default 0
        From 0 to 1.
    centered : bool, default False
        Whether the variance takes the place of the mean square.
    l1 : float, default 0
        L1 penalty: ``l1`` · sign(p) is added to the gradient.
    decay_bias : bool, default True
        Whether parameters with less than two axes have the penalties, too.

    Raises
    ------
    ValueError
        When an argument has a wrong value.

    Examples
    --------
    >>> import smelt
    >>> from smelt import optim
    >>> w = smelt.Parameter([1.0])
    >>> optimizer = optim.RMSprop([w], lr=0.1, alpha=0.75)
    >>> (w * 5).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 4)
    0.8
    """

    _options: ClassVar[tuple[str, ...]] = ("alpha", "eps", "momentum", "centered", *Optimizer._options)

    def __init__(
        self,
        params: Params | None = None,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        l1: float = 0.0,
        decay_bias: bool = True,
    ) -> None:
        self.alpha = number("RMSprop", "alpha", alpha, 0.0, 1.0)
        self.eps = number("RMSprop", "eps", eps, 0.0)
        self.momentum = number("RMSprop", "momentum", momentum, 0.0, 1.0)
        self.centered = flag("RMSprop", "centered", centered)
        self._slots = ("square_avg",) + ("grad_avg",) * self.centered + ("momentum_buffer",) * bool(momentum)
        super().__init__(params, lr, weight_decay, l1, decay_bias)

    def _scalars(self, lr: Tensor, t: Tensor, group: Group) -> dict[str, Tensor]:
        return {"lr": lr}

    def _update(self, g: Tensor, state: dict[str, Tensor], k: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        new = {"square_avg": state["square_avg"] * self.alpha + g * g * (1 - self.alpha)}
        variance = new["square_avg"]
        if self.centered:
            mean = state["grad_avg"]
            new["grad_avg"] = mean + (g - mean) * (1 - self.alpha)
            variance = variance - new["grad_avg"] * new["grad_avg"]
        step = g / (variance.sqrt() + self.eps)
        if self.momentum:
            step = new["momentum_buffer"] = state["momentum_buffer"] * self.momentum + step
        return step * k["lr"], new
