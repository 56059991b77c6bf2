"""Normalizations as functions: activations in; the same with mean 0 and variance 1 over some axes out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from smelt.autograd import Record, grad_enabled, no_grad
from smelt.errors import ShapeError, at_user_line
from smelt.functions import maximum
from smelt.nn.arguments import integer, sizes
from smelt.ops.primitive import Primitive
from smelt.tensor import Tensor


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize each channel over the batch, or by running statistics.

    Ioffe and Szegedy, "Batch normalization" (2015). In training the batch's mean and (population) variance
    are used, and the running statistics move towards them by ``momentum``; the running variance is of the
    sample (divided by n − 1), as PyTorch's. A batch of one value per channel counts as variance 0.

    Parameters
    ----------
    x : Tensor
        (N, C) or (N, C, ...), floating-point.
    running_mean, running_var : Tensor or None
        (C,); changed in place in training, used otherwise. None in training: nothing is kept.
    weight, bias : Tensor, optional
        (C,).
    training : bool, default False
        Which statistics are used.
    momentum : float, default 0.1
        Share of the new statistics.
    eps : float, default 1e-5
        Added to the variance.

    Returns
    -------
    Tensor
        The shape of ``x``.

    Raises
    ------
    ShapeError
        When ``x`` has less than two axes or another number of channels.
    ValueError
        When statistics are missing outside of training.

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.batch_norm(smelt.tensor([[1.0], [3.0]]), None, None, training=True, eps=0.0).tolist()
    [[-1.0], [1.0]]
    """
    known = next((t for t in (running_mean, weight, bias) if t is not None), None)
    if x.ndim < 2 or (known is not None and known.shape != (x.shape[1],)):
        channels = "C" if known is None else known.size
        raise ShapeError(at_user_line(f"batch_norm: expected x (N, {channels}, ...), received {x.shape}"))
    if training:
        return _by_batch(x, running_mean, running_var, weight, bias, momentum, eps)
    if running_mean is None or running_var is None:
        raise ValueError(at_user_line("batch_norm: expected running_mean and running_var outside of training"))
    centred = x - _channels(running_mean, x.ndim)
    scale = 1.0 / (_channels(running_var, x.ndim) + eps).sqrt()
    return _affine(centred, scale if weight is None else scale * _channels(weight, x.ndim), bias)


def _by_batch(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    axes = (0, *range(2, x.ndim))
    inputs = tuple(t for t in (x, weight, bias) if t is not None)
    differentiable = grad_enabled() and any(t.requires_grad for t in inputs)
    with no_grad():
        n, mean = x.count(axes), x.mean(axes, keepdims=True)
        centred = x - mean
        var = (centred * centred).mean(axes, keepdims=True)
        if running_mean is not None and running_var is not None:
            sample = var * (n / maximum(n - 1.0, 1.0))
            for running, new in ((running_mean, mean), (running_var, sample)):
                new = new.reshape(running.shape).astype(running.dtype)
                running.assign(running * (1 - momentum) + new * momentum)
        inverse = 1.0 / (var + eps).sqrt()
        scale = inverse if weight is None else inverse * _channels(weight, x.ndim)
        out = _affine(centred, scale, bias)
    if differentiable:
        weighted, biased = weight is not None, bias is not None
        known = {"n": n, "centred": centred, "inverse": inverse, "scale": scale, "weighted": weighted, "biased": biased}
        out.requires_grad, out._record = True, Record(_BATCH_NORM, inputs, known)
    return out


class _BatchNorm(Primitive):
    """How gradients go back through normalization by the batch, whose mean and variance follow ``x`` as well.

    One rule for the whole asks for two sums over the batch; the rules of its operations would ask for three, the last
    of which waits for the others.
    """

    def __init__(self) -> None:
        self.name, self._samples = "batch_norm", ()

    def vjp(self, grad: Any, out: Any, inputs: tuple[Any, ...], attrs: dict[str, Any]) -> list[Any]:
        """Return the gradients of x and of the weight and the bias, where there are any."""
        n, centred, inverse = attrs["n"], attrs["centred"], attrs["inverse"]
        axes = (0, *range(2, grad.ndim))
        along, total = (grad * centred).sum(axes, keepdims=True), grad.sum(axes, keepdims=True)
        parts = [attrs["scale"] * (grad - total / n - centred * (along * inverse * inverse / n))]
        if attrs["weighted"]:
            parts.append((along * inverse).reshape(-1))
        if attrs["biased"]:
            parts.append(total.reshape(-1))
        return [part if x.requires_grad else None for part, x in zip(parts, inputs, strict=True)]


_BATCH_NORM = _BatchNorm()


def layer_norm(
    x: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize each sample over its last axes.

    Ba, Kiros and Hinton, "Layer normalization" (2016).

    Parameters
    ----------
    x : Tensor
        (..., *normalized_shape), floating-point.
    normalized_shape : int or sequence of int
        Sizes of the axes that are normalized together.
    weight, bias : Tensor, optional
        Of ``normalized_shape``.
    eps : float, default 1e-5
        Added to the variance.

    Returns
    -------
    Tensor
        The shape of ``x``.

    Raises
    ------
    ShapeError
        When the last axes of ``x`` have other sizes.

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.layer_norm(smelt.tensor([[1.0, 3.0]]), 2, eps=0.0).tolist()
    [[-1.0, 1.0]]
    """
    shape = sizes("layer_norm", "normalized_shape", normalized_shape)
    if x.ndim < len(shape) or x.shape[x.ndim - len(shape) :] != shape:
        expected = ", ".join(map(str, shape))
        raise ShapeError(at_user_line(f"layer_norm: expected x (..., {expected}), received {x.shape}"))
    axes = tuple(range(-len(shape), 0))
    centred = x - x.mean(axes, keepdims=True)
    out = centred / ((centred * centred).mean(axes, keepdims=True) + eps).sqrt()
    if weight is not None:
        out = out * weight
    return out if bias is None else out + bias


def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Normalize each sample over groups of channels and all positions.

    Wu and He, "Group normalization" (2018).

    Parameters
    ----------
    x : Tensor
        (N, C, ...), floating-point.
    num_groups : int
        A divisor of C.
    weight, bias : Tensor, optional
        (C,).
    eps : float, default 1e-5
        Added to the variance.

    Returns
    -------
    Tensor
        The shape of ``x``.

    Raises
    ------
    ShapeError
        When the channels do not split into ``num_groups``.

    Examples
    --------
    >>> import smelt
    >>> from smelt.nn import functional as F
    >>> F.group_norm(smelt.tensor([[1.0, 3.0, 5.0, 9.0]]), 2, eps=0.0).tolist()
    [[-1.0, 1.0, -1.0, 1.0]]
    """
    groups = integer("group_norm", "num_groups", num_groups)
    if x.ndim < 2 or x.shape[1] % groups:
        raise ShapeError(
            at_user_line(f"group_norm: expected x (N, C, ...) with C a multiple of {groups}, received {x.shape}")
        )
    grouped = x.reshape(x.shape[0], groups, math.prod(x.shape[1:]) // groups)
    centred = grouped - grouped.mean(2, keepdims=True)
    var = (centred * centred).mean(2, keepdims=True)
    out = (centred / (var + eps).sqrt()).reshape(x.shape)
    if weight is not None:
        out = out * _channels(weight, x.ndim)
    return out if bias is None else out + _channels(bias, x.ndim)


def _channels(t: Tensor, ndim: int) -> Tensor:
    return t.reshape(-1, *(1,) * (ndim - 2))


def _affine(centred: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    out = centred * scale
    return out if bias is None else out + _channels(bias, out.ndim)
