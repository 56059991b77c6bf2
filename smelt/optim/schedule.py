"""Schedules: the number of a step (or epoch) in; the learning rate, as PyTorch's schedulers have it, out.

A schedule is a function of the index. Bound to an optimizer it also keeps the index, and writes the rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from smelt.errors import TraceError, at_user_line
from smelt.graph.trace import current_tracer
from smelt.nn.arguments import integer, number, wrong
from smelt.optim.optimizer import Optimizer

Self = TypeVar("Self", bound="Schedule")


class Schedule:
    """Base of the schedules: a rate for each index, relative to the one the optimizer had at first."""

    index = 0
    _base: float | None = None
    _optimizer: Optimizer | None = None

    def _value(self, i: int, base: float) -> float:
        raise NotImplementedError

    def bind(self: Self, optimizer: Optimizer) -> Self:
        """Take the optimizer's rate as the base, and set the rate of index 0; return the schedule.

        Examples
        --------
        >>> from smelt import optim
        >>> optimizer = optim.SGD(lr=0.1)
        >>> schedule = optim.StepLR(2, gamma=0.5).bind(optimizer)
        >>> for _ in range(2):
        ...     schedule.step()
        >>> optimizer.lr
        0.05
        """
        self._base, self._optimizer, self.index = optimizer.lr, optimizer, 0
        optimizer.lr = self.lr_at(0)
        return self

    def lr_at(self, i: int, base_lr: float | None = None) -> float:
        """Return the rate at index ``i``, counted from 0.

        Parameters
        ----------
        i : int
            At least 0.
        base_lr : float, optional
            What the schedule is relative to; by default the rate of the optimizer when it was bound.

        Raises
        ------
        ValueError
            When there is no base, or ``i`` is negative.

        Examples
        --------
        >>> from smelt import optim
        >>> optim.CosineAnnealing(t_max=20, min_lr=0.0).lr_at(20, base_lr=0.1)
        0.0
        """
        base = self._base if base_lr is None else base_lr
        if base is None:
            raise ValueError(at_user_line(f"{type(self).__name__}.lr_at: expected bind(optimizer) first, or base_lr"))
        return self._value(integer(type(self).__name__, "index", i, low=0), base)

    def step(self) -> None:
        """Move to the next index and set the optimizer's rate.

        Raises
        ------
        ValueError
            When there is no optimizer yet.
        TraceError
            Inside a compiled function, where it would happen only once.
        """
        if self._optimizer is None:
            raise ValueError(at_user_line(f"{type(self).__name__}.step: expected bind(optimizer) first"))
        if current_tracer() is not None:
            raise TraceError(
                at_user_line("schedule.step() inside a compiled function would happen once: call it outside")
            )
        self.index += 1
        self._optimizer.lr = self.lr_at(self.index)

    def state_dict(self) -> dict[str, Any]:
        """Return ``{"index": int, "base_lr": float or None}``.

        Examples
        --------
        >>> from smelt import optim
        >>> optim.Constant().bind(optim.SGD(lr=0.5)).state_dict()
        {'index': 0, 'base_lr': 0.5}
        """
        return {"index": self.index, "base_lr": self._base}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned, and set the optimizer's rate, if there is one.

        Raises
        ------
        ValueError
            When ``state`` has other keys or values.
        """
        owner = type(self).__name__
        if set(state) != {"index", "base_lr"}:
            raise wrong(owner, "state", "index and base_lr", sorted(state))
        base = state["base_lr"]
        index = integer(owner, "index", state["index"], low=0)
        self._base = None if base is None else number(owner, "base_lr", base, 0.0)
        self.index = index
        if self._optimizer is not None and self._base is not None:
            self._optimizer.lr = self.lr_at(index)

    def __repr__(self) -> str:
        hidden = ("index",)
        options = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if k not in hidden and not k.startswith("_"))
        return f"{type(self).__name__}({options})"


class Constant(Schedule):
    """The base rate, always.

    Examples
    --------
    >>> from smelt import optim
    >>> optim.Constant().lr_at(7, base_lr=0.5)
    0.5
    """

    def _value(self, i: int, base: float) -> float:
        return base


class StepLR(Schedule):
    """The base rate, multiplied by ``gamma`` after every ``step_size`` indices.

    Parameters
    ----------
    step_size : int
        At least 1.
    gamma : float, default 0.1
        At least 0.

    Raises
    ------
    ValueError
        When an argument has a wrong value.

    Examples
    --------
    >>> from smelt import optim
    >>> [optim.StepLR(2, gamma=0.5).lr_at(i, base_lr=1.0) for i in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    def __init__(self, step_size: int, gamma: float = 0.1) -> None:
        self.step_size = integer("StepLR", "step_size", step_size)
        self.gamma = number("StepLR", "gamma", gamma, 0.0)

    def _value(self, i: int, base: float) -> float:
        return base * self.gamma ** (i // self.step_size)


class ExponentialLR(Schedule):
    """The base rate, multiplied by ``gamma`` after every index.

    Parameters
    ----------
    gamma : float
        At least 0.

    Raises
    ------
    ValueError
        When ``gamma`` has a wrong value.

    Examples
    --------
    >>> from smelt import optim
    >>> [optim.ExponentialLR(0.5).lr_at(i, base_lr=1.0) for i in range(3)]
    [1.0, 0.5, 0.25]
    """

    def __init__(self, gamma: float) -> None:
        self.gamma = number("ExponentialLR", "gamma", gamma, 0.0)

    def _value(self, i: int, base: float) -> float:
        return base * self.gamma**i


class CosineAnnealing(Schedule):
    """From the base rate to ``min_lr`` along half a cosine of ``t_max`` indices, then up again, and so on.

    Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts" (2016), without the
    restarts; as PyTorch's ``CosineAnnealingLR``.

    Parameters
    ----------
    t_max : int
        At least 1.
    min_lr : float, default 0
        At least 0.

    Raises
    ------
    ValueError
        When an argument has a wrong value.

    Examples
    --------
    >>> from smelt import optim
    >>> [round(optim.CosineAnnealing(2).lr_at(i, base_lr=1.0), 4) for i in range(3)]
    [1.0, 0.5, 0.0]
    """

    def __init__(self, t_max: int, min_lr: float = 0.0) -> None:
        self.t_max = integer("CosineAnnealing", "t_max", t_max)
        self.min_lr = number("CosineAnnealing", "min_lr", min_lr, 0.0)

    def _value(self, i: int, base: float) -> float:
        return self.min_lr + (base - self.min_lr) * (1 + math.cos(math.pi * i / self.t_max)) / 2


class LinearWarmup(Schedule):
    """A straight line from ``start_factor`` times the base rate up to it in ``steps`` indices, then ``then``.

    As PyTorch's ``LinearLR`` followed, in a ``SequentialLR``, by another scheduler that counts from 0.

    Parameters
    ----------
    steps : int
        At least 1.
    then : Schedule, optional
        What follows; the base rate by default.
    start_factor : float, default 1/3
        From 0 to 1.

    Raises
    ------
    ValueError
        When an argument has a wrong value.

    Examples
    --------
    >>> from smelt import optim
    >>> warm = optim.LinearWarmup(2, then=optim.ExponentialLR(0.5), start_factor=0.0)
    >>> [warm.lr_at(i, base_lr=1.0) for i in range(5)]
    [0.0, 0.5, 1.0, 0.5, 0.25]
    """

    def __init__(self, steps: int, then: Schedule | None = None, start_factor: float = 1 / 3) -> None:
        self.steps = integer("LinearWarmup", "steps", steps)
        if then is not None and not isinstance(then, Schedule):
            raise wrong("LinearWarmup", "then", "a schedule", then)
        self.then = then
        self.start_factor = number("LinearWarmup", "start_factor", start_factor, 0.0, 1.0)

    def _value(self, i: int, base: float) -> float:
        if i < self.steps:
            return base * (self.start_factor + (1 - self.start_factor) * i / self.steps)
        return base if self.then is None else self.then._value(i - self.steps, base)


class OneCycle(Schedule):
    """Up from ``max_lr`` / ``div_factor`` to ``max_lr``, then down to far less than at the start.

    Smith and Topin, "Super-convergence" (2017); as PyTorch's ``OneCycleLR`` with two phases and
    ``cycle_momentum=False``. It is stepped once per training step, and stays where it ends. The optimizer's
    own rate does not matter.

    Parameters
    ----------
    max_lr : float
        The highest rate.
    total_steps : int
        At least 2.
    pct_start : float, default 0.3
        Share of the steps that go up; with ``total_steps`` it must leave at least one step for either way.
    div_factor : float, default 25
        ``max_lr`` divided by the first rate.
    final_div_factor : float, default 1e4
        The first rate divided by the last.
    anneal : {"cos", "linear"}, default "cos"
        Shape of both ways.

    Raises
    ------
    ValueError
        When an argument has a wrong value.

    Examples
    --------
    >>> from smelt import optim
    >>> cycle = optim.OneCycle(1.0, total_steps=10)
    >>> [round(cycle.lr_at(i, base_lr=1.0), 2) for i in range(10)]
    [0.04, 0.52, 1.0, 0.95, 0.81, 0.61, 0.39, 0.19, 0.05, 0.0]
    """

    def __init__(
        self,
        max_lr: float,
        total_steps: int,
        pct_start: float = 0.3,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        anneal: str = "cos",
    ) -> None:
        self.max_lr = number("OneCycle", "max_lr", max_lr, 0.0)
        self.total_steps = integer("OneCycle", "total_steps", total_steps, low=2)
        self.pct_start = number("OneCycle", "pct_start", pct_start, 0.0, 1.0)
        if not 0 < self.pct_start * self.total_steps - 1 < self.total_steps - 1:
            raise wrong("OneCycle", "pct_start", f"more than 1/{self.total_steps} and less than 1", pct_start)
        self.div_factor = number("OneCycle", "div_factor", div_factor, 1.0)
        self.final_div_factor = number("OneCycle", "final_div_factor", final_div_factor, 1.0)
        if anneal not in ("cos", "linear"):
            raise wrong("OneCycle", "anneal", "'cos' or 'linear'", anneal)
        self.anneal = anneal

    def _value(self, i: int, base: float) -> float:
        first = self.max_lr / self.div_factor
        top, end = self.pct_start * self.total_steps - 1, self.total_steps - 1
        if i <= top:
            return self._between(first, self.max_lr, i / top)
        return self._between(self.max_lr, first / self.final_div_factor, (min(i, end) - top) / (end - top))

    def _between(self, start: float, end: float, share: float) -> float:
        if self.anneal == "linear":
            return start + (end - start) * share
        return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
