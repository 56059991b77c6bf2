"""Dynamic loss scaling: what it multiplies and divides, which steps it leaves out, how the scale moves."""

from __future__ import annotations

import numpy as np
import pytest

import smelt
from smelt import optim
from smelt.optim.scaler import LEAST
from smelt.tensor import Tensor


def training(scaler: optim.LossScaler, compiled: bool = True) -> tuple[smelt.Parameter, object]:
    w = smelt.Parameter(np.full((2, 1), 0.5, np.float32), name="w")
    optimizer = optim.Adam([w], lr=0.125)

    def step(x: Tensor, factor: Tensor) -> Tensor:
        loss = (x @ w).sum() * factor
        scaler.scaled(loss).backward()
        scaler.step(optimizer)
        return loss

    return w, smelt.compile(step, precision="f16") if compiled else smelt.autocast("f16")(step)


ONES = np.ones((1, 2), np.float32)


def factor(value: float) -> np.ndarray:
    return np.asarray(value, np.float32)


@pytest.mark.parametrize("compiled", [True, False])
def test_an_overflowing_gradient_changes_nothing_but_the_scale(compiled: bool) -> None:
    scaler = optim.LossScaler(scale=1024.0)
    w, step = training(scaler, compiled)
    run = step if compiled else lambda x, f: step(Tensor(x), Tensor(f))
    with np.errstate(all="ignore"):
        run(ONES, factor(1.0))
        after_one = w.numpy().copy()
        assert (after_one < 0.5).all() and scaler.scale == 1024.0
        run(ONES, factor(100.0))  # 102400 is beyond float16
        np.testing.assert_array_equal(w.numpy(), after_one)
        assert scaler.scale == 512.0
        run(ONES, factor(100.0))
    assert (w.numpy() < after_one).all() and scaler.scale == 512.0
    if compiled:
        assert step.traces == 1


def test_tiny_gradients_survive() -> None:
    """1e-6 times float16's unscaled gradient would be zero: 2**-25 and below round to nothing."""
    grown = []
    for scale in (1.0, 65536.0):
        w = smelt.Parameter(np.zeros((1, 1), np.float32))
        x = Tensor(np.ones((1, 1), np.float32))
        optimizer, scaler = optim.SGD([w], lr=1.0), optim.LossScaler(scale=scale)
        with smelt.autocast("f16"):
            scaler.scaled((x @ w).sum() * 2.0**-26).backward()
        scaler.step(optimizer)
        grown.append(w.item())
    assert grown == [0.0, -(2.0**-26)]


def test_the_scale_grows_after_good_steps_only() -> None:
    scaler = optim.LossScaler(scale=4.0, growth=4.0, interval=3)
    _, step = training(scaler)
    scales = []
    for value in (1.0, 1.0, 1.0, 1.0, 1.0, np.inf, 1.0, 1.0, 1.0):
        step(ONES, factor(value))  # type: ignore[operator]
        scales.append(scaler.scale)
    assert scales == [4.0, 4.0, 16.0, 16.0, 16.0, 8.0, 8.0, 8.0, 32.0]


def test_the_scale_never_reaches_zero() -> None:
    scaler = optim.LossScaler(scale=LEAST * 2)
    _, step = training(scaler)
    for _ in range(3):
        step(ONES, factor(np.nan))  # type: ignore[operator]
    assert scaler.scale == LEAST


def test_gradients_can_be_clipped_between_unscaling_and_the_step() -> None:
    w = smelt.Parameter(np.zeros(1, np.float32))
    optimizer, scaler = optim.SGD([w], lr=1.0), optim.LossScaler()
    scaler.scaled((w * 3.0).sum()).backward()
    finite = scaler.unscale(optimizer)
    optim.clip_grad_value_(optimizer.params, 2.0)
    optimizer.step(when=finite)
    scaler.update(finite)
    assert w.item() == -2.0


def test_state_comes_back() -> None:
    scaler = optim.LossScaler(scale=2.0, interval=2)
    _, step = training(scaler)
    step(ONES, factor(1.0))  # type: ignore[operator]
    other = optim.LossScaler(interval=2)
    other.load_state_dict(scaler.state_dict())
    assert other.state_dict() == {"scale": 2.0, "good": 1.0}
    with pytest.raises(ValueError, match="expected scale and good"):
        other.load_state_dict({"scale": 1.0})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"scale": 0.0}, "scale"),
        ({"growth": 0.5}, "growth"),
        ({"backoff": 1.0}, "backoff"),
        ({"interval": 0}, "interval"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        optim.LossScaler(**options)  # type: ignore[arg-type]
