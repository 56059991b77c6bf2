"""A loss that is not finite: the run stops, the error says why, and everything is as before the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import smelt
from smelt import nn, ops, optim, train

from .making import everything, images, make


class Log(nn.Module):
    def forward(self, x: Any) -> Any:
        return (x - 0.5).log()  # negative for half of the inputs


class Exp(nn.Module):
    def forward(self, x: Any) -> Any:
        return (x * 1000.0).exp()


class Divide(nn.Module):
    def forward(self, x: Any) -> Any:
        return x / (x - x)


def network(odd: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Sigmoid(), odd, nn.Linear(8, 4)
    )


def run(trainer: smelt.Trainer, data: Any = None, **options: Any) -> train.NonFiniteLoss:
    with pytest.raises(train.NonFiniteLoss) as info:
        trainer.fit(data or images(), epochs=2, batch_size=32, progress=False, **options)
    assert "\n" not in str(info.value)
    return info.value


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(
    ("odd", "op", "line"),
    [
        (Log, "log", "return (x - 0.5).log()"),
        (Exp, "exp", "return (x * 1000.0).exp()"),
        (Divide, "div", "return x / (x - x)"),
    ],
)
def test_a_layer_that_makes_it(odd: Callable[[], nn.Module], op: str, line: str, compiled: bool) -> None:
    smelt.seed(0)
    trainer = smelt.Trainer(network(odd()), nn.CrossEntropyLoss(), optim.Adam(lr=1e-3), compile=compiled)
    before = everything(trainer)
    error = run(trainer)
    assert (error.step, error.epoch, error.lr, error.op) == (1, 1, 1e-3, op)
    text = str(error)
    assert "at step 1 (epoch 1, learning rate 0.001)" in text and f"{op} of float32[32, 8]" in text
    assert f"in layer '5', {odd.__name__}()" in text and "test_anomaly.py" in text and line in text
    assert everything(trainer) == {**before, "random default": before["random default"]}
    assert all(p.grad is None for p in trainer.model.parameters())


def test_state_is_that_of_the_step_before() -> None:
    """The data turn bad in the third step: weights, moments, statistics and random state are those after two."""
    calls: list[int] = []

    def spoil(x: Any, rng: Any) -> Any:
        calls.append(len(calls))
        return np.where(len(calls) == 3, np.nan, x).astype(np.float32)

    class Two(train.Callback):
        def on_step_end(self, trainer: smelt.Trainer, step: int, loss: float) -> None:
            states.append(everything(trainer))

    states: list[dict[str, bytes]] = []
    trainer = make("dropout_cnn")
    error = run(trainer, augment=spoil, callbacks=[Two()])
    assert error.step == 3 and error.op == "" and "the input of the step holds nan at [0, 0, 0, 0]" in str(error)
    assert len(states) == 2 and everything(trainer) == states[-1]


def test_a_loss_that_makes_it() -> None:
    smelt.seed(0)

    def loss(out: Any, y: Any) -> Any:
        return (out - 100.0).sqrt().mean()

    error = run(smelt.Trainer(network(nn.Identity()), loss, optim.SGD(lr=1e-3)))
    assert error.op == "sqrt" and "return (out - 100.0).sqrt().mean()" in str(error)
    assert "in layer" not in str(error)


def test_weights_that_were_bad_already() -> None:
    trainer = make("mlp")
    trainer.model[3].weight.numpy()[2, 5] = np.inf
    assert "the parameter '3.weight' of the step holds inf at [2, 5] already" in str(run(trainer))


def test_a_rate_that_is_too_high() -> None:
    smelt.seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Linear(32, 4))
    trainer = smelt.Trainer(model, lambda out, y: (out * out).mean(), optim.SGD(lr=1e4))
    error = run(trainer)
    assert error.step > 1 and error.lr == 1e4 and (error.op or "parameter" in str(error))


def test_an_update_that_made_weights_bad_is_found_as_the_error_says() -> None:
    """The loss is finite, its gradient is not: noticed one step later, found by training eagerly and watched."""

    class Root(nn.Module):
        def forward(self, x: Any) -> Any:
            return (x - x).sqrt() + x

    def trainer(compiled: bool) -> smelt.Trainer:
        smelt.seed(0)
        return smelt.Trainer(network(Root()), nn.CrossEntropyLoss(), optim.SGD(lr=0.1), compile=compiled)

    error = run(trainer(True))
    assert error.step == 2 and "already: an earlier update made it so; train with compile=False" in str(error)
    model = trainer(False)
    with train.anomaly(model.model), pytest.raises(train.NonFiniteValue, match=r"differentiating sqrt in layer '5'"):
        model.fit(images(), epochs=1, batch_size=32, progress=False)


def test_a_gradient() -> None:
    w = smelt.Parameter([0.0, 1.0], name="w")
    with train.anomaly(), pytest.raises(train.NonFiniteValue, match=r"gave inf .*differentiating sqrt.*w\.sqrt\(\)"):
        w.sqrt().sum().backward()
    w.sqrt().sum().backward()
    assert w.grad is not None and np.isinf(w.grad.numpy()[0])


def test_a_gradient_in_a_layer_and_what_an_operation_received() -> None:
    class Root(nn.Module):
        def forward(self, x: Any) -> Any:
            return (x - x).sqrt()

    model = nn.Sequential(nn.Linear(2, 2), Root())
    with train.anomaly(model), pytest.raises(train.NonFiniteValue, match=r"differentiating sqrt in layer '1', Root"):
        model(smelt.ones((1, 2))).sum().backward()
    bad = smelt.tensor([np.nan])
    bad.name = "bad"
    with (
        train.anomaly(),
        pytest.raises(train.NonFiniteValue, match=r"mul received nan at \[0\] of its argument 0, 'bad'"),
    ):
        _ = bad * 2.0


def test_nothing_is_watched_afterwards() -> None:
    with train.anomaly():
        assert ops.log(smelt.tensor([1.0])).item() == 0.0
    with np.errstate(all="ignore"):
        assert ops.log(smelt.tensor([0.0])).item() == -np.inf
