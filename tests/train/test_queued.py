"""A run whose steps are queued takes the very steps of one whose steps run at once, and ends as it does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import smelt
from smelt import nn, optim, train
from smelt.data import ArrayDataset
from smelt.runtime import ahead

from .making import everything

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 12)).astype(np.float32)
Y = RNG.integers(0, 3, 90)


class Seen(train.Callback):
    """Notes what a callback finds after each step."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, float, bytes]] = []

    def on_step_end(self, trainer: smelt.Trainer, step: int, loss: float) -> None:
        self.steps.append((step, loss, trainer.model[0].weight.numpy().tobytes()))


def made() -> smelt.Trainer:
    smelt.seed(1)
    model = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    return smelt.Trainer(model, nn.CrossEntropyLoss(), optim.Adam(lr=1e-2))


def both(monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    """Compare what ``run(trainer)`` returns, and what it leaves, with and without a queue."""
    results = []
    smelt.set_threads(2)
    for shortest in (0.0, float("inf")):
        monkeypatch.setattr(ahead, "SHORTEST", shortest)
        trainer = made()
        results.append((run(trainer), everything(trainer)))
        queues = trainer.steps.train._variants[0].executable._queues  # type: ignore[attr-defined]
        assert queues == (shortest == 0.0)
    smelt.set_threads(None)
    assert results[0] == results[1]


def test_the_history_and_all_that_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(trainer: smelt.Trainer) -> Any:
        history = trainer.fit((X, Y), epochs=3, batch_size=8, validation=(X[:20], Y[:20]), progress=False)
        return history.loss, history.accuracy, history.validation_loss

    both(monkeypatch, run)


def test_a_callback_sees_the_model_after_its_own_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(trainer: smelt.Trainer) -> Any:
        seen = Seen()
        trainer.fit((X, Y), epochs=2, batch_size=8, callbacks=[seen], progress=False)
        assert [s[0] for s in seen.steps] == list(range(1, 25))
        assert len({s[2] for s in seen.steps}) == 24
        return seen.steps

    both(monkeypatch, run)


def test_a_loss_that_is_not_finite_halts_the_steps_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = X.copy()
    bad[52] = 3e38

    def run(trainer: smelt.Trainer) -> Any:
        with pytest.raises(train.NonFiniteLoss) as info:
            trainer.fit((bad, Y), epochs=2, batch_size=8, seed=5, progress=False)
        assert 3 < info.value.step < 12
        broken = everything(trainer)
        again = made()
        monkeypatch.setattr(ahead, "SHORTEST", float("inf"))
        seen: list[dict[str, bytes]] = []

        class Before(train.Callback):
            def on_step_end(self, trainer: smelt.Trainer, step: int, loss: float) -> None:
                if step == info.value.step - 1:
                    seen.append(everything(trainer))

        with pytest.raises(train.NonFiniteLoss):
            again.fit((bad, Y), epochs=2, batch_size=8, seed=5, callbacks=[Before()], progress=False)
        assert seen == [broken]
        history = trainer.fit((X, Y), epochs=1, batch_size=8, progress=False)
        return info.value.step, str(info.value), history.loss

    both(monkeypatch, run)


def test_checkpoints_in_the_middle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    count = iter(range(2))

    def run(trainer: smelt.Trainer) -> Any:
        options: Any = {"checkpoint": tmp_path / str(next(count)), "checkpoint_every": 5, "progress": False}
        trainer.fit((X, Y), epochs=2, batch_size=8, **options)
        resumed = made()
        history = resumed.fit((X, Y), epochs=3, batch_size=8, resume=True, **options)
        return history.loss, everything(resumed)

    both(monkeypatch, run)


def test_waiting_for_batches_is_counted() -> None:
    def slow(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        time.sleep(0.003)
        return x

    trainer = made()
    (epoch,) = trainer.fit(ArrayDataset(X, Y), epochs=1, batch_size=8, augment=slow, progress=False)
    assert 0 < epoch.stall_seconds <= epoch.train_seconds <= epoch.seconds
    assert trainer.history.stall_seconds == [epoch.stall_seconds]
