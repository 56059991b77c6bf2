"""Schedules: known values, binding, state, errors; and PyTorch's values, where that is installed."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import smelt
from smelt import optim
from smelt.errors import TraceError
from smelt.graph.trace import Tracer


def test_the_mnist_recipe() -> None:
    optimizer = optim.Adam(lr=1e-3)
    schedule = optim.CosineAnnealing(t_max=20, min_lr=1e-5).bind(optimizer)
    rates = []
    for _ in range(21):
        rates.append(optimizer.lr)
        schedule.step()
    assert rates[0] == 1e-3
    np.testing.assert_allclose(rates[10], (1e-3 + 1e-5) / 2, rtol=1e-12)
    np.testing.assert_allclose(rates[20], 1e-5, rtol=1e-12)
    assert all(a > b for a, b in pairwise(rates))


def test_binding_sets_the_first_rate() -> None:
    optimizer = optim.SGD(lr=1.0)
    optim.LinearWarmup(4, start_factor=0.25).bind(optimizer)
    assert optimizer.lr == 0.25


def test_one_cycle_stays_where_it_ends() -> None:
    schedule = optim.OneCycle(0.5, total_steps=10)
    assert schedule.lr_at(9, 1.0) == schedule.lr_at(1000, 1.0) == pytest.approx(0.5 / 25 / 1e4)


def test_state_continues_to_the_bit() -> None:
    def make() -> tuple[optim.Optimizer, optim.Schedule]:
        optimizer = optim.SGD(lr=0.1)
        return optimizer, optim.LinearWarmup(3, then=optim.CosineAnnealing(7)).bind(optimizer)

    a, one = make()
    for _ in range(5):
        one.step()
    b, two = make()
    two.load_state_dict(one.state_dict())
    assert a.lr == b.lr
    one.step()
    two.step()
    assert a.lr == b.lr and one.index == two.index == 6
    for bad in (
        {},
        {"index": -1, "base_lr": 0.1},
        {"index": 1, "base_lr": "x"},
        {"index": True, "base_lr": 0.1},
    ):
        with pytest.raises(ValueError, match="LinearWarmup: "):
            two.load_state_dict(bad)
    assert two.index == 6


def test_repr() -> None:
    text = repr(optim.LinearWarmup(5, then=optim.StepLR(3)))
    assert text.startswith("LinearWarmup(steps=5, then=StepLR(step_size=3, gamma=0.1), start_factor=0.33")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.StepLR(0), "StepLR: step_size: expected an integer ≥ 1, received 0"),
        (lambda: optim.CosineAnnealing(2.5), "CosineAnnealing: t_max: expected an integer ≥ 1, received 2.5"),
        (lambda: optim.LinearWarmup(2, then=3), "LinearWarmup: then: expected a schedule, received 3"),
        (lambda: optim.OneCycle(1.0, 10, pct_start=0.05), "OneCycle: pct_start: expected more than 1/10"),
        (lambda: optim.OneCycle(1.0, 10, anneal="step"), "OneCycle: anneal: expected 'cos' or 'linear'"),
        (lambda: optim.Constant().lr_at(0), r"Constant.lr_at: expected bind\(optimizer\) first, or base_lr"),
        (lambda: optim.Constant().lr_at(-1, 0.1), "Constant: index: expected an integer ≥ 0, received -1"),
        (lambda: optim.Constant().step(), r"Constant.step: expected bind\(optimizer\) first"),
    ],
)
def test_errors_are_one_line(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as e:
        make()
    assert "\n" not in str(e.value)


def test_stepping_inside_a_traced_function_is_refused() -> None:
    schedule = optim.Constant().bind(optim.SGD([smelt.Parameter([1.0])]))
    with Tracer("step"), pytest.raises(TraceError, match="would happen once"):
        schedule.step()


def _cases(torch: Any) -> list[tuple[optim.Schedule, Callable[[Any], Any]]]:
    s = torch.optim.lr_scheduler
    return [
        (optim.Constant(), lambda o: s.ConstantLR(o, factor=1.0)),
        (optim.StepLR(4, 0.3), lambda o: s.StepLR(o, 4, 0.3)),
        (optim.ExponentialLR(0.9), lambda o: s.ExponentialLR(o, 0.9)),
        (optim.CosineAnnealing(20, 1e-5), lambda o: s.CosineAnnealingLR(o, 20, 1e-5)),
        (optim.CosineAnnealing(7), lambda o: s.CosineAnnealingLR(o, 7)),
        (optim.LinearWarmup(5), lambda o: s.LinearLR(o, total_iters=5)),
        (
            optim.LinearWarmup(5, then=optim.CosineAnnealing(30, 1e-3), start_factor=0.1),
            lambda o: s.SequentialLR(
                o, [s.LinearLR(o, 0.1, total_iters=5), s.CosineAnnealingLR(o, 30, 1e-3)], milestones=[5]
            ),
        ),
        (optim.OneCycle(0.5, 40), lambda o: s.OneCycleLR(o, 0.5, total_steps=40, cycle_momentum=False)),
        (
            optim.OneCycle(0.5, 40, 0.25, 10.0, 100.0, "linear"),
            lambda o: s.OneCycleLR(
                o,
                0.5,
                total_steps=40,
                pct_start=0.25,
                div_factor=10.0,
                final_div_factor=100.0,
                anneal_strategy="linear",
                cycle_momentum=False,
            ),
        ),
    ]


@pytest.mark.peers
@pytest.mark.parametrize("case", range(9))
@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_values_are_pytorchs(case: int) -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = _cases(torch)[case]
    other = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    optimizer = optim.SGD(lr=0.1)
    scheduler = theirs(other)
    ours.bind(optimizer)
    for i in range(40):
        expected = other.param_groups[0]["lr"]
        np.testing.assert_allclose(optimizer.lr, expected, rtol=1e-11, atol=1e-15)
        assert optimizer.lr == ours.lr_at(i)
        if i < 39:
            other.step()
            scheduler.step()
            ours.step()
