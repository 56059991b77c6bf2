"""Trainers of reduced precision: they learn, resume to the bit, and say what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import smelt
from smelt import nn, optim
from smelt.errors import FileError
from smelt.train import NonFiniteLoss

from .making import images, make

each_precision = pytest.mark.parametrize("precision", ["bf16", "f16"])


@each_precision
def test_it_learns_nearly_as_in_float32(precision: str) -> None:
    accuracies = []
    for chosen in ("f32", precision):
        trainer = make("dropout_cnn", precision=chosen)
        history = trainer.fit(images(), epochs=3, batch_size=15, validation=images(seed=1), progress=False)
        accuracies.append(history[-1].validation_accuracy)
        assert trainer.model.state_dict()["0.weight"].dtype == np.float32
    assert abs(accuracies[0] - accuracies[1]) <= 0.05 and accuracies[1] > 0.8


@each_precision
def test_compiled_and_eager_take_nearly_the_same_steps(precision: str) -> None:
    losses = []
    for compiled in (True, False):
        trainer = make(optimizer="sgd", precision=precision, compile=compiled)
        losses.append([e.loss for e in trainer.fit(images(30), epochs=2, batch_size=15, progress=False)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.01)


@each_precision
def test_a_resumed_run_ends_with_the_same_bits(precision: str, tmp_path: Path) -> None:
    whole = make(precision=precision)
    whole.fit(images(), epochs=4, batch_size=30, progress=False)
    make(precision=precision).fit(images(), epochs=2, batch_size=30, checkpoint=tmp_path, progress=False)
    resumed = make(precision=precision)
    resumed.fit(images(), epochs=4, batch_size=30, checkpoint=tmp_path, resume=True, progress=False)
    for name, value in whole.model.state_dict().items():
        np.testing.assert_array_equal(resumed.model.state_dict()[name], value)
    if precision == "f16":
        assert whole.steps.scaler.state_dict() == resumed.steps.scaler.state_dict()  # type: ignore[union-attr]


def test_a_run_is_not_resumed_in_another_precision(tmp_path: Path) -> None:
    make(precision="bf16").fit(images(), epochs=1, checkpoint=tmp_path, progress=False)
    with pytest.raises(FileError, match="precision bf16, this run has f32"):
        make().fit(images(), epochs=2, checkpoint=tmp_path, resume=True, progress=False)


def test_a_value_beyond_float16_is_named() -> None:
    smelt.seed(0)
    trainer = smelt.Trainer(nn.Linear(2, 1), nn.MSELoss(), optim.SGD(lr=0.1), precision="f16")
    data = (np.full((8, 2), 1e5, np.float32), np.zeros((8, 1), np.float32))
    with pytest.raises(NonFiniteLoss, match="cast of float32") as e:
        trainer.fit(data, epochs=1, batch_size=8, progress=False)
    assert e.value.op == "cast"


def test_gradients_that_are_never_finite_end_the_run() -> None:
    def loss(out: smelt.Tensor, y: smelt.Tensor) -> smelt.Tensor:
        return ((out * 0.0).sqrt() * y).mean()

    smelt.seed(0)
    trainer = smelt.Trainer(nn.Linear(2, 1), loss, optim.SGD(lr=0.1), precision="f16")
    before = trainer.model.state_dict()
    data = (np.ones((50, 2), np.float32), np.ones((50, 1), np.float32))
    with pytest.raises(NonFiniteLoss, match="however small the loss is scaled"):
        trainer.fit(data, epochs=2, batch_size=1, progress=False)
    assert all((trainer.model.state_dict()[k] == v).all() for k, v in before.items())


def test_a_wrong_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="Trainer: precision: expected one of 'f32', 'bf16', 'f16', received 'half'"):
        make(precision="half")
