"""Products with large weights that the step changes: each thread reads the weights it will change."""

from __future__ import annotations

import numpy as np
import pytest

import smelt
from smelt import nn, optim
from smelt.tensor import Tensor

from .hazards import find_hazards
from .isas import COUNTED
from .lowering import inference, lower

SHAPES = {(1600, 128): 16, (1001, 200): 8, (2048, 130): 16}  # slices by inputs and outputs: above half a megabyte


def training(inputs: int, outputs: int):  # type: ignore[no-untyped-def]
    smelt.seed(1)
    model = nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.Linear(outputs, 5))
    optimizer = optim.SGD(lr=0.05).bind(model.parameters())

    def step(x: Tensor) -> Tensor:
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    return model, step


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_steps_are_the_eager_ones_and_do_not_depend_on_threads(shape: tuple[int, int], precision: str) -> None:
    x = np.random.default_rng(0).normal(size=(24, shape[0])).astype(np.float32)
    batches = [x, x[:13], x[:1], x]
    found = {}
    for threads in (1, 2, 3, 7):
        smelt.set_threads(threads)
        model, step = training(*shape)
        compiled = smelt.compile(step, precision=precision)
        losses = [compiled(batch).item() for batch in batches]
        found[threads] = np.array(losses), model[0].weight.numpy().copy()
    smelt.set_threads(None)
    assert all(a.tobytes() == b.tobytes() for each in found.values() for a, b in zip(each, found[1], strict=True))
    model, step = training(*shape)
    with smelt.autocast(precision):
        losses = [step(Tensor(batch)).item() for batch in batches]
    np.testing.assert_allclose(found[1][0], losses, rtol=1e-5 if precision == "f32" else 1e-2)
    np.testing.assert_allclose(found[1][1], model[0].weight.numpy(), rtol=0, atol=1e-6 if precision == "f32" else 1e-3)


@pytest.mark.parametrize("isa", COUNTED)
@pytest.mark.parametrize("shape", SHAPES)
def test_slices_of_the_sums_are_shared(shape: tuple[int, int], isa: str) -> None:
    _, step = training(*shape)
    lowered = lower(step, [np.zeros((24, shape[0]), np.float32)], isa)
    sliced = [k for k in lowered.kernels if any("weights that it changes" in text for _, text in k.choices)]
    assert [k.range.const for k in sliced] == [SHAPES[shape]]
    for rows, threads in ((24, 1), (24, 3), (5, 16)):
        assert find_hazards(lowered, rows, threads, 24) == []


def test_weights_that_stay_are_read_by_all() -> None:
    kernels = inference("mnist_cnn", "znver4").kernels
    assert not any("weights that it changes" in text for k in kernels for _, text in k.choices)
