"""Callbacks: when they are called, and early stopping, which always gives the best weights back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import smelt
from smelt import train

from .making import Killed, StopAt, images, make


class Record(train.Callback):
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def on_fit_start(self, trainer: smelt.Trainer) -> None:
        self.calls.append("fit")

    def on_epoch_start(self, trainer: smelt.Trainer, epoch: int) -> None:
        self.calls.append(f"epoch {epoch}")

    def on_step_end(self, trainer: smelt.Trainer, step: int, loss: float) -> None:
        self.calls.append(step)

    def on_epoch_end(self, trainer: smelt.Trainer, record: train.Epoch) -> None:
        self.calls.append(f"end {record.epoch}")

    def on_fit_end(self, trainer: smelt.Trainer, error: BaseException | None) -> None:
        self.calls.append(error if error is None else type(error))


def fit(trainer: smelt.Trainer, *callbacks: train.Callback, **options: Any) -> train.History:
    settings = {"epochs": 2, "batch_size": 32, "validation": images(40, 1), "progress": False, **options}
    return trainer.fit(images(), callbacks=callbacks, **settings)


def test_order_of_calls() -> None:
    record = Record()
    fit(make(callbacks=[record]))
    assert record.calls == ["fit", "epoch 1", 1, 2, 3, "end 1", "epoch 2", 4, 5, 6, "end 2", None]
    record = Record()
    with pytest.raises(Killed):
        fit(make(), record, StopAt(4))
    assert record.calls[-3:] == ["epoch 2", 4, Killed]


class Worse(train.Callback):
    """Makes every epoch after the second useless, and remembers the weights of each."""

    def __init__(self) -> None:
        self.weights: list[dict[str, np.ndarray]] = []

    def on_epoch_end(self, trainer: smelt.Trainer, record: train.Epoch) -> None:
        self.weights.append(trainer.model.state_dict())

    def on_epoch_start(self, trainer: smelt.Trainer, epoch: int) -> None:
        if epoch > 2:
            trainer.optimizer.lr = 30.0


def same(model: smelt.nn.Module, weights: dict[str, np.ndarray]) -> bool:
    return all((a == weights[n]).all() for n, a in model.state_dict().items())


@pytest.mark.parametrize("patience", [2, 50, None])
@pytest.mark.parametrize("monitor", ["validation_loss", "validation_accuracy", "loss"])
def test_the_best_weights_come_back_stopped_early_or_not(patience: int | None, monitor: str) -> None:
    trainer = make("dropout_cnn", schedule="none", optimizer="sgd")
    stopping, worse = train.EarlyStopping(monitor, patience), Worse()
    history = fit(trainer, stopping, worse, epochs=8)
    if monitor == "validation_loss":
        assert len(history) == (4 if patience == 2 else 8)
    values = getattr(history, monitor)
    best = (np.argmax if monitor == "validation_accuracy" else np.argmin)(values)
    assert stopping.best_epoch == best + 1 and stopping.best == values[best]
    assert same(trainer.model, worse.weights[best])
    if monitor.startswith("validation"):
        figure = "loss" if monitor == "validation_loss" else "accuracy"
        assert trainer.evaluate(images(40, 1))[figure] == values[best]


def test_small_improvements_and_figures_that_are_no_numbers() -> None:
    stopping = train.EarlyStopping("loss", patience=2, min_delta=0.1)
    trainer = make()
    for epoch, loss in enumerate([float("nan"), 1.0, 0.95, 0.92, 0.8], 1):
        trainer.stopped = False
        stopping.on_epoch_end(trainer, train.Epoch(epoch, 0.1, loss))
        assert trainer.stopped == (epoch == 4)
    assert (stopping.best, stopping.best_epoch) == (0.8, 5)


def test_a_second_run_begins_anew() -> None:
    trainer, stopping = make(), train.EarlyStopping()
    fit(trainer, stopping)
    stopping.best = -1.0
    fit(trainer, stopping)
    assert stopping.best is not None and stopping.best > 0


def test_interrupted_runs_get_the_best_weights_others_do_not() -> None:
    for error, restored in ((KeyboardInterrupt, True), (Killed, False)):

        class Stop(train.Callback):
            def on_epoch_start(self, trainer: smelt.Trainer, epoch: int, error: Any = error) -> None:
                if epoch == 5:
                    raise error

        trainer, worse = make(schedule="none", optimizer="sgd"), Worse()
        with pytest.raises(error):
            fit(trainer, train.EarlyStopping(), worse, Stop(), epochs=9)
        assert same(trainer.model, worse.weights[1]) == restored


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="monitor"):
        train.EarlyStopping("val_loss")
    with pytest.raises(ValueError, match="patience"):
        train.EarlyStopping(patience=0)
    with pytest.raises(ValueError, match="has no validation_loss: expected validation data"):
        fit(make(), train.EarlyStopping(), validation=None)
