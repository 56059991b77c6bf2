"""Where layers get their first values: shapes in; parameters and buffers, counted against a budget, out.

Weights are float32, drawn as PyTorch draws them. Every array a layer allocates is made here, so that a
network rebuilt from a file cannot take more memory than its reader allows.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from smelt import random
from smelt.tensor import Parameter, Tensor


class BudgetError(ValueError):
    """A network with more parameters and buffers than its reader allows."""


class _Building(threading.local):
    limit: int | None = None
    used: int = 0
    draw: bool = True


_building = _Building()


@contextmanager
def budget(limit: int, draw: bool = True) -> Iterator[None]:
    """Let layers built in this context allocate at most ``limit`` values.

    Parameters
    ----------
    limit : int
        Parameters and buffers together, counted before each is allocated.
    draw : bool, default True
        Whether weights are drawn at random; with False they are 0 and no random number is used up.

    Raises
    ------
    BudgetError
        From the constructor of the layer that would exceed ``limit``.
    """
    before = _building.limit, _building.used, _building.draw
    _building.limit, _building.used, _building.draw = limit, 0, draw
    try:
        yield
    finally:
        _building.limit, _building.used, _building.draw = before


def _charge(shape: Sequence[int]) -> None:
    if _building.limit is None:
        return
    _building.used += math.prod(shape)
    if _building.used > _building.limit:
        raise BudgetError(
            f"expected at most {_building.limit:,} parameters in all, received a tensor of shape "
            f"{tuple(shape)} that makes them {_building.used:,}"
        )


def fan_in_uniform(shape: Sequence[int], fan_in: int) -> Parameter:
    """Return a parameter drawn uniformly from ±1/√fan_in, as PyTorch's linear and convolution layers.

    It is He et al., "Delving deep into rectifiers" (2015), with the leak a = √5.

    Examples
    --------
    >>> from smelt.nn import init
    >>> bool(abs(init.fan_in_uniform((50, 4), fan_in=4).numpy()).max() <= 0.5)
    True
    """
    _charge(shape)
    if not _building.draw:
        return Parameter(np.zeros(shape, np.float32))
    bound = 1 / math.sqrt(fan_in)
    return Parameter(random.weights().uniform(-bound, bound, tuple(shape)).astype(np.float32))


def filled(shape: Sequence[int], value: float) -> Parameter:
    """Return a parameter that holds ``value`` everywhere."""
    _charge(shape)
    return Parameter(np.full(tuple(shape), value, np.float32))


def buffer(shape: Sequence[int], value: float) -> Tensor:
    """Return a float32 tensor that is kept with the network but not trained."""
    _charge(shape)
    return Tensor(np.full(tuple(shape), value, np.float32))
