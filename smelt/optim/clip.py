"""Gradient clipping: parameters with gradients in; the same gradients, smaller where they were large, out."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from smelt.autograd import no_grad
from smelt.functions import minimum
from smelt.nn.arguments import number
from smelt.tensor import Tensor


def clip_grad_norm_(params: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients together so that their Euclidean norm is at most ``max_norm``.

    Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks" (2013); as
    PyTorch's.

    Parameters
    ----------
    params : iterable of Tensor
        Those without a gradient are passed over.
    max_norm : float
        At least 0.

    Returns
    -------
    Tensor
        The norm before, a float64 scalar.

    Raises
    ------
    ValueError
        When ``max_norm`` is not a number of at least 0.

    Examples
    --------
    >>> import smelt
    >>> from smelt import optim
    >>> w = smelt.Parameter([0.0, 0.0])
    >>> (w * smelt.tensor([3.0, 4.0])).sum().backward()
    >>> optim.clip_grad_norm_([w], 1.0).item()
    5.0
    >>> [round(g, 4) for g in w.grad.tolist()]
    [0.6, 0.8]
    """
    limit = number("clip_grad_norm_", "max_norm", max_norm, 0.0)
    total = Tensor(np.asarray(0.0, np.float64))
    with no_grad():
        found = [(p, g) for p in params if (g := p.grad) is not None]
        for _, g in found:
            total = total + (g * g).sum().astype("float64")
        norm = total.sqrt()
        scale = minimum(limit / (norm + 1e-6), 1.0)
        for p, g in found:
            p.grad = g * scale.astype(g.dtype)
    return norm


def clip_grad_value_(params: Iterable[Tensor], clip_value: float) -> None:
    """Limit every element of the gradients to ± ``clip_value``.

    Parameters
    ----------
    params : iterable of Tensor
        Those without a gradient are passed over.
    clip_value : float
        At least 0.

    Raises
    ------
    ValueError
        When ``clip_value`` is not a number of at least 0.

    Examples
    --------
    >>> import smelt
    >>> from smelt import optim
    >>> w = smelt.Parameter([0.0, 0.0])
    >>> (w * smelt.tensor([3.0, -0.5])).sum().backward()
    >>> optim.clip_grad_value_([w], 1.0)
    >>> w.grad.tolist()
    [1.0, -0.5]
    """
    limit = number("clip_grad_value_", "clip_value", clip_value, 0.0)
    with no_grad():
        for p in params:
            g = p.grad
            if g is not None:
                p.grad = g.clip(-limit, limit)
