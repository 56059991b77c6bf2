"""The trainer: what fit, evaluate and predict return, and how little they do around the compiled step."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import smelt
from smelt import data, nn, optim, train

from .making import CLASSES, dropout_cnn, everything, images, make, mlp


@pytest.fixture
def threads() -> Iterator[None]:
    before = smelt.get_threads()
    yield
    smelt.set_threads(before)


def fit(trainer: smelt.Trainer, **options: Any) -> train.History:
    settings = {"epochs": 3, "batch_size": 16, "validation": images(40, 1), "progress": False, **options}
    return trainer.fit(images(), **settings)


def test_it_learns() -> None:
    trainer = make("dropout_cnn")
    history = fit(trainer, epochs=8)
    assert history[-1].loss < 0.5 * history[0].loss and history[-1].validation_accuracy > 0.9
    assert history[0].lr == 3e-3 and history[1].lr < 3e-3
    assert history[-1].validation_count == 40
    assert trainer.model.training


@pytest.mark.parametrize("model", ["mlp", "dropout_cnn"])
def test_one_trace_for_ragged_batches_and_all_epochs(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make(model)
    fit(trainer)  # 90 samples: 5 batches of 16 and one of 10; 40 to validate
    trainer.evaluate(images(7, 2))
    trainer.evaluate(images(39, 2))
    assert (trainer.steps.train.traces, trainer.steps.evaluate.traces) == (1, 1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("model", ["mlp", "dropout_cnn"])
def test_same_bytes_on_repeated_runs_and_any_threads(model: str, threads: None) -> None:
    results = []
    for count in (1, 2, 2, 1):
        smelt.set_threads(count)
        trainer = make(model)
        fit(trainer, augment=data.augment.RandomCrop(1))
        results.append(everything(trainer))
    assert results[0] == results[1] == results[2] == results[3]


def test_another_seed_gives_another_run() -> None:
    a, b = make("mlp"), make("mlp")
    assert everything(a) == everything(b)
    assert fit(a, seed=1).loss != fit(b, seed=2).loss


def test_compiled_and_eager_curves_agree() -> None:
    """100 steps; the network's own noise (dropout) is the same counter-based numbers in both."""
    curves = []
    for compiled in (True, False):
        losses: list[float] = []

        class Watch(train.Callback):
            def on_step_end(self, trainer: smelt.Trainer, step: int, loss: float, losses: Any = losses) -> None:
                losses.append(loss)

        smelt.seed(0)
        trainer = smelt.Trainer(
            dropout_cnn(), nn.CrossEntropyLoss(), optim.SGD(lr=0.02), callbacks=[Watch()], compile=compiled
        )
        trainer.fit(images(200), epochs=8, batch_size=16, progress=False)
        curves.append(losses[:100])
    assert len(curves[0]) == 100
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-4)


def test_epoch_figures_are_means_over_samples() -> None:
    """With a rate of 0 the epoch's figures are those of the data set, ragged batch and all."""
    for reduction in ("mean", "sum"):
        smelt.seed(0)
        trainer = smelt.Trainer(mlp(), nn.CrossEntropyLoss(reduction=reduction), optim.SGD(lr=0.0))
        record = trainer.fit(images(), epochs=1, batch_size=32, validation=images(), progress=False)[0]
        x, y = images().batch(slice(None))
        out = trainer.model(smelt.tensor(x)).numpy()
        expected = float(nn.CrossEntropyLoss()(smelt.tensor(out), smelt.tensor(y)))
        assert record.loss == pytest.approx(expected, rel=1e-5)
        assert record.validation_loss == pytest.approx(expected, rel=1e-5)
        assert record.accuracy == record.validation_accuracy == (out.argmax(1) == y).mean()
        assert record.validation_correct == (out.argmax(1) == y).sum()


def test_evaluate_and_predict_leave_the_mode_and_the_weights() -> None:
    trainer = make("dropout_cnn")
    before = {k: v.tobytes() for k, v in trainer.model.state_dict().items()}
    first = trainer.evaluate(images())
    assert trainer.evaluate(images()) == first and set(first) == {"loss", "accuracy", "correct", "count"}
    out = trainer.predict(images(), batch_size=32)
    assert out.shape == (90, CLASSES)
    assert (out.argmax(1) == images().y).sum() == first["correct"]
    assert (trainer.predict(images().batch(slice(0, 5))[0]) == out[:5]).all()
    assert trainer.model.training
    assert {k: v.tobytes() for k, v in trainer.model.state_dict().items()} == before


def test_without_labels_a_model_learns_its_input() -> None:
    smelt.seed(0)
    x = np.random.default_rng(0).random((50, 6), np.float32)
    trainer = smelt.Trainer(nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 6)), nn.MSELoss(), optim.Adam(lr=1e-2))
    history = trainer.fit(x, epochs=20, batch_size=16, validation=x, progress=False)
    assert history[-1].loss < history[0].loss / 2
    assert history[-1].accuracy is None and history[-1].validation_correct is None


def test_pairs_float_targets_and_functions_as_losses() -> None:
    smelt.seed(0)
    x = np.random.default_rng(0).random((50, 3))
    trainer = smelt.Trainer(nn.Linear(3, 1), lambda out, y: (out - y).abs().mean(), optim.SGD(lr=0.1))
    history = trainer.fit((x, x.sum(1, keepdims=True)), epochs=5, batch_size=10, progress=False)
    assert history.loss[-1] < history.loss[0] and history.validation_loss == [None] * 5


def test_parameters_the_optimizer_does_not_have_stay() -> None:
    smelt.seed(0)
    model = mlp()
    frozen = model[1].weight.numpy().copy()
    trainer = smelt.Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model[3].parameters(), lr=0.1))
    fit(trainer)
    assert (model[1].weight.numpy() == frozen).all() and model[1].weight.grad is None
    assert trainer.steps.train.traces == 1


def test_schedules_per_step() -> None:
    trainer = make("mlp", schedule="onecycle")
    rates: list[float] = []

    class Watch(train.Callback):
        def on_step_end(self, trainer: smelt.Trainer, step: int, loss: float) -> None:
            rates.append(trainer.optimizer.lr)

    history = fit(trainer, callbacks=[Watch()])
    cycle = optim.OneCycle(0.05, total_steps=24)
    assert rates == [cycle.lr_at(i, 1.0) for i in range(1, 19)]
    assert history.lr == [cycle.lr_at(i, 1.0) for i in (5, 11, 17)]
    assert trainer.steps.train.traces == 1


def test_history_reads_well() -> None:
    history = fit(make("mlp"), epochs=2)
    assert [r["epoch"] for r in json.loads(history.to_json())] == [1, 2]
    assert history.loss == [history[0].loss, history[1].loss] and len(history[:1]) == 1
    assert repr(history).splitlines()[0].split()[:3] == ["epoch", "lr", "loss"]
    with pytest.raises(AttributeError, match="no figure 'los'"):
        _ = history.los
    odd = train.History([train.Epoch(1, 0.1, 1.0, validation_loss=float("inf"))])
    assert json.loads(odd.to_json())[0]["validation_loss"] is None


def test_progress_prints_one_line_per_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    fit(make("mlp"), epochs=2, progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"] and "/40" in lines[0]
    fit(make("mlp"), epochs=2, progress=None)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"batch_size": 91}, "batch_size 91, expected at most its 90 samples"),
        ({"epochs": 0}, "fit: epochs: expected an integer ≥ 1, received 0"),
        ({"resume": True}, "need checkpoint"),
        ({"seed": -1}, "seed"),
        ({"validation": 3}, "validation: int, expected a dataset"),
        ({"callbacks": [3]}, "callbacks"),
        ({"validation": images()[:0]}, "no samples"),
    ],
)
def test_wrong_arguments(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text) as e:
        fit(make("mlp"), **change)
    assert "\n" not in str(e.value)


def test_labels_the_model_has_no_output_for() -> None:
    trainer = make("mlp")
    x = images().x
    before = everything(trainer)
    for _ in range(2):
        with pytest.raises(ValueError, match="labels from 0 to 4, expected 0 to 3: the model has 4 outputs"):
            trainer.fit((x, np.arange(90) % 5), epochs=1, progress=False)
        with pytest.raises(ValueError, match="labels from -1 to 2"):
            trainer.evaluate((x, np.arange(90) % 4 - 1))
    assert everything(trainer) == before


def test_wrong_parts() -> None:
    for args, text in (
        ((3, nn.MSELoss(), optim.SGD(lr=1)), "model: expected a Module"),
        ((mlp(), nn.MSELoss, optim.SGD(lr=1)), "loss: expected a loss"),
        ((mlp(), nn.MSELoss(), "adam"), "optimizer: expected an optimizer"),
        ((mlp(), nn.MSELoss(), optim.SGD(lr=1), 0.1), "schedule: expected a schedule"),
    ):
        with pytest.raises(ValueError, match=text):
            smelt.Trainer(*args)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="metrics"):
        smelt.Trainer(mlp(), nn.MSELoss(), optim.SGD(lr=1), metrics=("f1",))
    with pytest.raises(ValueError, match="expected one number per batch"):
        fit(smelt.Trainer(mlp(), nn.CrossEntropyLoss(reduction="none"), optim.SGD(lr=1)))
    with pytest.raises(ValueError, match="accuracy"):
        x = np.zeros((4, 2), np.float32)
        smelt.Trainer(nn.Linear(2, 1), nn.MSELoss(), optim.SGD(lr=1), metrics=("accuracy",)).evaluate((x, x[:, :1]))


def test_ctrl_c_leaves_a_usable_model() -> None:
    trainer = make("dropout_cnn")
    fit(trainer)
    for delay in np.random.default_rng(0).uniform(0.01, 0.15, 8):
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            fit(trainer, epochs=10_000)
        timer.join()
        assert all(np.isfinite(v).all() for v in trainer.model.state_dict().values())
        assert np.isfinite(trainer.evaluate(images())["loss"])
    assert trainer.model.training
    assert len(fit(trainer, epochs=2)) == 2
