"""Stochastic gradient descent, plain or with (Nesterov's) momentum."""

from __future__ import annotations

from typing import ClassVar

from smelt.errors import at_user_line
from smelt.functions import where
from smelt.nn.arguments import flag, number
from smelt.optim.optimizer import Group, Optimizer, Params
from smelt.tensor import Tensor


class SGD(Optimizer):
    """p ← p − lr · g, where g may be a moving sum of gradients.

    With ``momentum`` μ: b ← μ b + (1 − ``dampening``) g (b ← g at first), and b, or with ``nesterov`` g + μ
    b, takes the place of g. As PyTorch's; Sutskever et al., "On the importance of initialization and momentum
    in deep learning" (2013).

    Parameters
    ----------
    params : iterable of Parameter, or of dict, optional
        See :class:`Optimizer`.
    lr : float, default 1e-3
        Learning rate.
    momentum : float, default 0
        From 0 to 1.
    dampening : float, default 0
        From 0 to 1.
    weight_decay : float, default 0
        L2 penalty: ``weight_decay`` · p is added to the gradient.
    nesterov : bool, default False
        Needs momentum, and no dampening.
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
    >>> optimizer = optim.SGD([w], lr=0.1, momentum=0.9)
    >>> for _ in range(2):
    ...     (w * 2).sum().backward()
    ...     optimizer.step()
    >>> round(w.item(), 4)
    0.42
    """

    _options: ClassVar[tuple[str, ...]] = ("momentum", "dampening", "nesterov", *Optimizer._options)

    def __init__(
        self,
        params: Params | None = None,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        l1: float = 0.0,
        decay_bias: bool = True,
    ) -> None:
        self.momentum = number("SGD", "momentum", momentum, 0.0, 1.0)
        self.dampening = number("SGD", "dampening", dampening, 0.0, 1.0)
        self.nesterov = flag("SGD", "nesterov", nesterov)
        if self.nesterov and (self.momentum == 0.0 or self.dampening != 0.0):
            raise ValueError(
                at_user_line(
                    "SGD: nesterov: expected momentum > 0 and dampening = 0, received "
                    f"momentum={self.momentum:g} and dampening={self.dampening:g}"
                )
            )
        self._slots = ("momentum_buffer",) if self.momentum else ()
        super().__init__(params, lr, weight_decay, l1, decay_bias)

    def _scalars(self, lr: Tensor, t: Tensor, group: Group) -> dict[str, Tensor]:
        out = {"lr": lr}
        if self.momentum and self.dampening:
            out["first"] = t == 1.0
        return out

    def _update(self, g: Tensor, state: dict[str, Tensor], k: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        if not self.momentum:
            return g * k["lr"], {}
        moved = state["momentum_buffer"] * self.momentum
        b = where(k["first"], g, moved + g * (1 - self.dampening)) if self.dampening else moved + g
        return ((g + b * self.momentum) if self.nesterov else b) * k["lr"], {"momentum_buffer": b}
