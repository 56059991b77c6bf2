"""Losses as functions: predictions and targets in; a scalar (or one value per element) out. None overflows.

Every loss takes ``reduction``: "mean" (the default), "sum" or "none".
"""

from __future__ import annotations

from smelt import ops
from smelt.errors import ShapeError, at_user_line
from smelt.functions import maximum, where
from smelt.graph.trace import plain_shape
from smelt.nn.arguments import choice, number
from smelt.nn.functional.activation import log1p_exp, log_softmax, softplus
from smelt.tensor import Tensor

REDUCTIONS = ("mean", "sum", "none")


def cross_entropy(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Return −log softmax(x)[target], fused with the softmax.

    Parameters
    ----------
    x : Tensor
        Logits (B, C), floating-point.
    target : Tensor
        Labels (B,), integers from 0 to C − 1.
    weight : Tensor, optional
        (C,): a factor for the samples of each class. The mean is then the weighted mean.
    label_smoothing : float, default 0.0
        Share of the target that is spread evenly over all classes: Szegedy et al., "Rethinking the Inception
        architecture" (2015).
    reduction : {"mean", "sum", "none"}, default "mean"
        "none" gives (B,).

    Raises
    ------
    ShapeError
        When shapes or dtypes do not fit.
    ValueError
        When an option has a wrong value.

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> round(F.cross_entropy(smelt.zeros((1, 10)), smelt.tensor([3])).item(), 4)
    2.3026
    """
    smooth = number("cross_entropy", "label_smoothing", label_smoothing, 0.0, 1.0)
    loss = ops.softmax_cross_entropy(x, target)
    if weight is None:
        if smooth:
            loss = loss * (1 - smooth) - log_softmax(x).mean(1) * smooth
        return _reduce("cross_entropy", loss, reduction)
    if weight.shape != (x.shape[1],):
        raise ShapeError(at_user_line(f"cross_entropy: expected weight ({x.shape[1]},), received {weight.shape}"))
    classes = ops.iota(shape=(x.shape[1],), axis=0, dtype=target.dtype.name)
    of_sample = where(target.unsqueeze(1) == classes, weight, 0.0).sum(1)
    loss = loss * of_sample
    if smooth:
        loss = loss * (1 - smooth) - (log_softmax(x) * weight).mean(1) * smooth
    if choice("cross_entropy", "reduction", reduction, REDUCTIONS) == "mean":
        return loss.sum() / of_sample.sum()
    return _reduce("cross_entropy", loss, reduction)


def binary_cross_entropy_with_logits(
    x: Tensor, target: Tensor, pos_weight: Tensor | None = None, *, reduction: str = "mean"
) -> Tensor:
    """Return −t log σ(x) − (1 − t) log(1 − σ(x)).

    Parameters
    ----------
    x : Tensor
        Logits of any shape, floating-point.
    target : Tensor
        The shape of ``x``, from 0 to 1.
    pos_weight : Tensor, optional
        Factor of the first term; broadcasts to ``x``.
    reduction : {"mean", "sum", "none"}, default "mean"
        How elements are combined.

    Raises
    ------
    ShapeError
        When the shapes differ.

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.binary_cross_entropy_with_logits(smelt.tensor([500.0]), smelt.tensor([0.0])).item()
    500.0
    """
    name = "binary_cross_entropy_with_logits"
    target = _target(name, x, target)
    if pos_weight is None:
        loss = x.relu() - x * target + log1p_exp(x)
    else:
        loss = target * pos_weight * softplus(-x) + (1.0 - target) * softplus(x)
    return _reduce(name, loss, reduction)


def binary_cross_entropy(x: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """Return −t log x − (1 − t) log(1 − x), each logarithm at least −100, as PyTorch's.

    Prefer :func:`binary_cross_entropy_with_logits`. Where a logarithm is cut off its gradient is 0.

    Parameters
    ----------
    x : Tensor
        Probabilities of any shape, floating-point.
    target : Tensor
        The shape of ``x``, from 0 to 1.
    reduction : {"mean", "sum", "none"}, default "mean"
        How elements are combined.

    Raises
    ------
    ShapeError
        When the shapes differ.

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.binary_cross_entropy(smelt.tensor([0.0]), smelt.tensor([1.0])).item()
    100.0
    """
    target = _target("binary_cross_entropy", x, target)
    yes = _log(x)
    no = where(x < 1.0, maximum(ops.log1p(-where(x < 1.0, x, 0.0)), -100.0), -100.0)
    return _reduce("binary_cross_entropy", -(target * yes + (1.0 - target) * no), reduction)


def _log(x: Tensor) -> Tensor:
    positive = x > 0.0
    return where(positive, maximum(where(positive, x, 1.0).log(), -100.0), -100.0)


def mse_loss(x: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """Return (x − target)².

    Raises
    ------
    ShapeError
        When the shapes differ.

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.mse_loss(smelt.tensor([1.0, 2.0]), smelt.tensor([1.0, 4.0])).item()
    2.0
    """
    d = x - _target("mse_loss", x, target)
    return _reduce("mse_loss", d * d, reduction)


def l1_loss(x: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """Return |x − target|.

    Raises
    ------
    ShapeError
        When the shapes differ.

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.l1_loss(smelt.tensor([1.0, 2.0]), smelt.tensor([1.0, 4.0])).item()
    1.0
    """
    return _reduce("l1_loss", (x - _target("l1_loss", x, target)).abs(), reduction)


def huber_loss(x: Tensor, target: Tensor, *, delta: float = 1.0, reduction: str = "mean") -> Tensor:
    """Return ½ d² where the difference d is at most ``delta``, else ``delta`` · (|d| − ½ ``delta``).

    Huber, "Robust estimation of a location parameter" (1964).

    Raises
    ------
    ShapeError
        When the shapes differ.
    ValueError
        When ``delta`` is not positive.

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.huber_loss(smelt.tensor([3.0]), smelt.tensor([0.0])).item()
    2.5
    """
    delta = number("huber_loss", "delta", delta, 1e-38)
    d = x - _target("huber_loss", x, target)
    size = d.abs()
    loss = where(size <= delta, d * d * 0.5, (size - 0.5 * delta) * delta)
    return _reduce("huber_loss", loss, reduction)


def smooth_l1_loss(x: Tensor, target: Tensor, *, beta: float = 1.0, reduction: str = "mean") -> Tensor:
    """Return ½ d² / ``beta`` where the difference d is less than ``beta``, else |d| − ½ ``beta``.

    Girshick, "Fast R-CNN" (2015): :func:`huber_loss` divided by ``beta``.

    Raises
    ------
    ShapeError
        When the shapes differ.
    ValueError
        When ``beta`` is not positive.

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.smooth_l1_loss(smelt.tensor([3.0]), smelt.tensor([0.0]), beta=2.0).item()
    2.0
    """
    beta = number("smooth_l1_loss", "beta", beta, 1e-38)
    d = x - _target("smooth_l1_loss", x, target)
    size = d.abs()
    return _reduce("smooth_l1_loss", where(size < beta, d * d * (0.5 / beta), size - 0.5 * beta), reduction)


def kl_div(x: Tensor, target: Tensor, *, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """Return target · (log target − x): the Kullback-Leibler divergence of log-probabilities from a target.

    Parameters
    ----------
    x : Tensor
        Log-probabilities, floating-point; the first axis is the batch.
    target : Tensor
        Probabilities of the same shape (or their logarithms, with ``log_target``).
    reduction : {"mean", "batchmean", "sum", "none"}, default "mean"
        "batchmean" divides the sum by the batch size, which is the divergence; "mean" by the number of
        elements.
    log_target : bool, default False
        Whether ``target`` holds logarithms.

    Raises
    ------
    ShapeError
        When the shapes differ.
    ValueError
        When ``reduction`` is something else.

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> p = smelt.tensor([[0.25, 0.75]])
    >>> F.kl_div(p.log(), p, reduction="batchmean").item()
    0.0
    """
    target = _target("kl_div", x, target)
    if log_target:
        loss = target.exp() * (target - x)
    else:
        positive = target > 0.0
        loss = where(positive, target * where(positive, target, 1.0).log(), 0.0) - target * x
    if choice("kl_div", "reduction", reduction, (*REDUCTIONS, "batchmean")) == "batchmean":
        return loss.sum() / loss.count(0)
    return _reduce("kl_div", loss, reduction)


def _target(name: str, x: Tensor, target: Tensor) -> Tensor:
    if plain_shape(x.shape) != plain_shape(target.shape):
        raise ShapeError(
            at_user_line(f"{name}: expected a target of shape {plain_shape(x.shape)}, received {target.shape}")
        )
    return target.astype(x.dtype)


def _reduce(name: str, loss: Tensor, reduction: str) -> Tensor:
    match choice(name, "reduction", reduction, REDUCTIONS):
        case "mean":
            return loss.mean()
        case "sum":
            return loss.sum()
    return loss
