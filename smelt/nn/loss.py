"""Losses as modules: predictions and targets in; a scalar (or one value per element) out."""

from __future__ import annotations

from typing import Any

from smelt.nn import functional as F
from smelt.nn.arguments import choice, flag, number
from smelt.nn.functional.loss import REDUCTIONS
from smelt.nn.module import Module
from smelt.tensor import Tensor, as_tensor


class _Loss(Module):
    def __init__(self, *, reduction: str = "mean") -> None:
        self.reduction = choice(type(self).__name__, "reduction", reduction, REDUCTIONS)


def _buffer(value: Any) -> Tensor | None:
    return None if value is None else as_tensor(value)


class CrossEntropyLoss(_Loss):
    """−log softmax(logits)[label]: logits (B, C) and integer labels (B,).

    See :func:`smelt.nn.functional.cross_entropy`.

    Parameters
    ----------
    weight : array-like, optional
        (C,), floating-point: a factor for the samples of each class.
    reduction : {"mean", "sum", "none"}, default "mean"
        With ``weight``, the mean is the weighted mean.
    label_smoothing : float, default 0.0
        Share of the target that is spread evenly over all classes.

    Raises
    ------
    ValueError
        When an argument has a wrong value.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> round(nn.CrossEntropyLoss()(smelt.zeros((1, 10)), smelt.tensor([3])).item(), 4)
    2.3026
    """

    def __init__(self, weight: Any = None, *, reduction: str = "mean", label_smoothing: float = 0.0) -> None:
        super().__init__(reduction=reduction)
        self.weight = _buffer(weight)
        self.label_smoothing = number("CrossEntropyLoss", "label_smoothing", label_smoothing, 0.0, 1.0)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits ``x``."""
        return F.cross_entropy(x, target, self.weight, label_smoothing=self.label_smoothing, reduction=self.reduction)


class BCEWithLogitsLoss(_Loss):
    """−t log σ(x) − (1 − t) log(1 − σ(x)) of logits x and targets t from 0 to 1, of one shape.

    See :func:`smelt.nn.functional.binary_cross_entropy_with_logits`.

    Parameters
    ----------
    pos_weight : array-like, optional
        Factor of the first term; broadcasts to the logits.
    reduction : {"mean", "sum", "none"}, default "mean"
        How elements are combined.

    Raises
    ------
    ValueError
        When an argument has a wrong value.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.BCEWithLogitsLoss()(smelt.tensor([500.0]), smelt.tensor([0.0])).item()
    500.0
    """

    def __init__(self, *, pos_weight: Any = None, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.pos_weight = _buffer(pos_weight)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits ``x``."""
        return F.binary_cross_entropy_with_logits(x, target, self.pos_weight, reduction=self.reduction)


class BCELoss(_Loss):
    """−t log x − (1 − t) log(1 − x) of probabilities x and targets t from 0 to 1, of one shape.

    See :func:`smelt.nn.functional.binary_cross_entropy`; prefer :class:`BCEWithLogitsLoss`.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}, default "mean"
        How elements are combined.

    Raises
    ------
    ValueError
        When ``reduction`` is something else.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> round(nn.BCELoss()(smelt.tensor([0.5]), smelt.tensor([1.0])).item(), 4)
    0.6931
    """

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Return the loss of probabilities ``x``."""
        return F.binary_cross_entropy(x, target, reduction=self.reduction)


class MSELoss(_Loss):
    """(x − target)².

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}, default "mean"
        How elements are combined.

    Raises
    ------
    ValueError
        When ``reduction`` is something else.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.MSELoss()(smelt.tensor([1.0, 2.0]), smelt.tensor([1.0, 4.0])).item()
    2.0
    """

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``x``."""
        return F.mse_loss(x, target, reduction=self.reduction)


class L1Loss(_Loss):
    """|x − target|.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}, default "mean"
        How elements are combined.

    Raises
    ------
    ValueError
        When ``reduction`` is something else.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.L1Loss()(smelt.tensor([1.0, 2.0]), smelt.tensor([1.0, 4.0])).item()
    1.0
    """

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``x``."""
        return F.l1_loss(x, target, reduction=self.reduction)


class HuberLoss(_Loss):
    """½ d² for differences d up to ``delta``, linear beyond; see :func:`smelt.nn.functional.huber_loss`.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}, default "mean"
        How elements are combined.
    delta : float, default 1.0
        Positive.

    Raises
    ------
    ValueError
        When an argument has a wrong value.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.HuberLoss()(smelt.tensor([3.0]), smelt.tensor([0.0])).item()
    2.5
    """

    def __init__(self, *, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction=reduction)
        self.delta = number("HuberLoss", "delta", delta, 1e-38)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``x``."""
        return F.huber_loss(x, target, delta=self.delta, reduction=self.reduction)


class SmoothL1Loss(_Loss):
    """½ d² / ``beta`` for differences d below ``beta``; see :func:`smelt.nn.functional.smooth_l1_loss`.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}, default "mean"
        How elements are combined.
    beta : float, default 1.0
        Positive.

    Raises
    ------
    ValueError
        When an argument has a wrong value.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.SmoothL1Loss(beta=2.0)(smelt.tensor([3.0]), smelt.tensor([0.0])).item()
    2.0
    """

    def __init__(self, *, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction=reduction)
        self.beta = number("SmoothL1Loss", "beta", beta, 1e-38)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``x``."""
        return F.smooth_l1_loss(x, target, beta=self.beta, reduction=self.reduction)


class KLDivLoss(Module):
    """Kullback-Leibler divergence of log-probabilities from a target; see :func:`smelt.nn.functional.kl_div`.

    Parameters
    ----------
    reduction : {"mean", "batchmean", "sum", "none"}, default "mean"
        "batchmean" is the divergence; "mean" divides by the number of elements, as in PyTorch.
    log_target : bool, default False
        Whether targets are logarithms of probabilities.

    Raises
    ------
    ValueError
        When an argument has a wrong value.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> p = smelt.tensor([[0.25, 0.75]])
    >>> nn.KLDivLoss(reduction="batchmean")(p.log(), p).item()
    0.0
    """

    def __init__(self, *, reduction: str = "mean", log_target: bool = False) -> None:
        self.reduction = choice("KLDivLoss", "reduction", reduction, (*REDUCTIONS, "batchmean"))
        self.log_target = flag("KLDivLoss", "log_target", log_target)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Return the divergence of log-probabilities ``x`` from ``target``."""
        return F.kl_div(x, target, reduction=self.reduction, log_target=self.log_target)
