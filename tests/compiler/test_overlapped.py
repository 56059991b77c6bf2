"""Tiles with a long end, such as Adam's update, are finished during the sums of the next tile."""

from __future__ import annotations

import numpy as np
import pytest

import smelt
from smelt import nn, optim
from smelt.tensor import Tensor

from .hazards import find_hazards
from .lowering import lower

SHAPES = [(96, 128), (70, 100), (7, 300), (300, 10), (65, 64)]  # inputs, outputs


def training(inputs: int, outputs: int, optimizer: optim.Optimizer):
    smelt.seed(1)
    layer = nn.Linear(inputs, outputs)
    optimizer = optimizer.bind(layer.parameters())

    def step(x: Tensor) -> Tensor:
        loss = (layer(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    return layer, step


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_steps_are_the_eager_ones_and_do_not_depend_on_threads(shape: tuple[int, int], precision: str) -> None:
    x = np.random.default_rng(0).normal(size=(64, shape[0])).astype(np.float32)
    batches = [x, x[:33], x[:8], x[:1], x]
    found = {}
    for threads in (1, 2, 3, 7):
        smelt.set_threads(threads)
        layer, step = training(*shape, optim.Adam(lr=1e-3, eps=1e-3))
        compiled = smelt.compile(step, precision=precision)
        for batch in batches:
            compiled(batch)
        found[threads] = layer.weight.numpy().copy()
    smelt.set_threads(None)
    assert all(w.tobytes() == found[1].tobytes() for w in found.values())
    layer, step = training(*shape, optim.Adam(lr=1e-3, eps=1e-3))
    with smelt.autocast(precision):
        for batch in batches:
            step(Tensor(batch))
    np.testing.assert_allclose(found[1], layer.weight.numpy(), rtol=0, atol=1e-5 if precision == "f32" else 1e-3)


@pytest.mark.parametrize(
    ("isa", "optimizer", "waits"),
    [
        ("znver4", optim.Adam(), True),
        ("sapphirerapids", optim.SGD(momentum=0.9), True),
        ("znver4", optim.SGD(), False),  # one value read and one written: the processor overlaps that by itself
        ("haswell", optim.Adam(), False),
        ("cortex-a76", optim.Adam(), False),
    ],
)
def test_a_tile_waits_where_its_end_is_long_and_registers_are_left(
    isa: str, optimizer: optim.Optimizer, waits: bool
) -> None:
    _, step = training(96, 140, optimizer)
    lowered = lower(step, [np.zeros((64, 96), np.float32)], isa)
    (kernel,) = [k for k in lowered.kernels if "matmul" in k.name and any("weight" in b.name for b in k.writes)]
    assert ("waiting[" in str(kernel)) == waits
    assert any("finished during the sums" in text for _, text in kernel.choices) == waits
    for rows, threads in ((64, 1), (64, 3), (5, 2)):
        assert find_hazards(lowered, rows, threads, 64) == []
