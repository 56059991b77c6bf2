"""Adam and AdamW: moving means of gradients, divided by the root of those of their squares."""

from __future__ import annotations

from typing import ClassVar

from smelt.nn.arguments import number, wrong
from smelt.optim.optimizer import Group, Optimizer, Params
from smelt.tensor import Tensor


class Adam(Optimizer):
    """p ← p − lr · m̂ / (√v̂ + ``eps``), with m̂, v̂ the corrected moving means of the gradient and its square.

    Kingma and Ba, "Adam: a method for stochastic optimization" (2014). As PyTorch's, but that steps are
    counted for the optimizer as a whole, not for each parameter.

    Parameters
    ----------
    params : iterable of Parameter, or of dict, optional
        See :class:`Optimizer`.
    lr : float, default 1e-3
        Learning rate.
    betas : pair of float, default (0.9, 0.999)
        What the means keep at each step; at least 0, less than 1.
    eps : float, default 1e-8
        At least 0.
    weight_decay : float, default 0
        L2 penalty: ``weight_decay`` · p is added to the gradient. See :class:`AdamW` for decay that does not
        pass through the means.
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
    >>> optimizer = optim.Adam([w], lr=0.1)
    >>> (w * 5).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 4)
    0.9
    """

    _options: ClassVar[tuple[str, ...]] = ("betas", "eps", *Optimizer._options)
    _slots = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Params | None = None,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        l1: float = 0.0,
        decay_bias: bool = True,
    ) -> None:
        owner = type(self).__name__
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise wrong(owner, "betas", "two numbers", betas)
        self.betas = (number(owner, "betas[0]", betas[0], 0.0), number(owner, "betas[1]", betas[1], 0.0))
        if max(self.betas) >= 1.0:
            raise wrong(owner, "betas", "numbers less than 1", betas)
        self.eps = number(owner, "eps", eps, 0.0)
        super().__init__(params, lr, weight_decay, l1, decay_bias)

    def _scalars(self, lr: Tensor, t: Tensor, group: Group) -> dict[str, Tensor]:
        first, second = (1.0 - beta**t for beta in self.betas)
        root = second.sqrt()  # moved from below the means, where each parameter would be multiplied by it (section 2)
        out = {"step": lr * root / first, "eps": self.eps * root}
        if self._decoupled and group.weight_decay:
            out["shrink"] = 1.0 - lr * group.weight_decay
        return out

    def _update(self, g: Tensor, state: dict[str, Tensor], k: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        b1, b2 = self.betas
        m = _moved(state["exp_avg"], g, b1)
        v = _moved(state["exp_avg_sq"], g * g, b2)
        return m / (v.sqrt() + k["eps"]) * k["step"], {"exp_avg": m, "exp_avg_sq": v}


def _moved(mean: Tensor, to: Tensor, beta: float) -> Tensor:
    """Return ``beta`` · mean + (1 − ``beta``) · to with one product, from the nearer end: a beta of 0 keeps nothing."""
    return mean + (to - mean) * (1 - beta) if beta > 0.5 else to + (mean - to) * beta


class AdamW(Adam):
    """:class:`Adam` with decoupled weight decay: p is multiplied by 1 − lr · ``weight_decay`` at each step.

    Loshchilov and Hutter, "Decoupled weight decay regularization" (2017). As PyTorch's.

    Parameters
    ----------
    params, lr, betas, eps, l1, decay_bias
        As in :class:`Adam`.
    weight_decay : float, default 1e-2
        At least 0.

    Raises
    ------
    ValueError
        When an argument has a wrong value.

    Examples
    --------
    >>> import smelt
    >>> from smelt import optim
    >>> w = smelt.Parameter([1.0])
    >>> optimizer = optim.AdamW([w], lr=0.1, weight_decay=0.5)
    >>> (w * 5).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 4)
    0.85
    """

    _decoupled = True

    def __init__(
        self,
        params: Params | None = None,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        l1: float = 0.0,
        decay_bias: bool = True,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, l1=l1, decay_bias=decay_bias)
