"""Sums over the samples of a batch: fixed slices of them, and whoever has a slice works on its tiles."""

from __future__ import annotations

import numpy as np
import pytest

import smelt
from smelt import nn, optim
from smelt.compiler import program
from smelt.tensor import Tensor

from .isas import ISAS

LAYERS = {
    "dense": lambda: nn.Conv2d(16, 24, 3, padding=1, bias=False),
    "stride": lambda: nn.Conv2d(16, 40, 3, stride=2, bias=False),
    "depthwise": lambda: nn.Conv2d(16, 16, 3, groups=16, bias=False),
    "groups": lambda: nn.Conv2d(16, 24, 3, groups=2, bias=False),
    "thick": lambda: nn.Conv2d(16, 256, 3, stride=3, bias=False),
    "wide": lambda: nn.Conv2d(16, 320, 1, bias=False),
}


def gradient(layer: nn.Module, precision: str = "f32") -> smelt.runtime.step.Compiled:
    def step(x: Tensor) -> Tensor:
        (layer(x) ** 2).mean().backward()
        out, layer.weight.grad = layer.weight.grad, None
        return out

    return smelt.compile(step, precision=precision)


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("name", LAYERS)
def test_slices_follow_the_batch_and_not_the_threads(name: str, precision: str) -> None:
    layer = LAYERS[name]()
    x = np.random.default_rng(0).normal(size=(45, 16, 20, 20)).astype(np.float32)
    step = gradient(layer, precision)
    for rows in (45, 44, 7, 1):
        got = []
        for threads in (1, 2, 3, 7):
            smelt.set_threads(threads)
            got.append(step(x[:rows]).numpy().copy())
        assert all(g.tobytes() == got[0].tobytes() for g in got), rows
        (layer(Tensor(x[:rows])) ** 2).mean().backward()
        want = layer.weight.grad.numpy()
        layer.weight.grad = None
        tolerance = 1e-5 if precision == "f32" else 1e-2
        np.testing.assert_allclose(got[0], want, rtol=0, atol=tolerance * np.abs(want).max())
    smelt.set_threads(None)


@pytest.mark.parametrize(("name", "slices", "own"), [("dense", 32, 2), ("wide", 32, 1), ("thick", 4, 0)])
def test_there_are_as_many_slices_as_are_small_beside_the_operands(name: str, slices: int, own: int) -> None:
    step = gradient(LAYERS[name]())
    step(np.zeros((40, 16, 20, 20), np.float32))
    lowered = program.lower(step.graph, dict.fromkeys(step.graph.states), ISAS["znver4"])
    sliced = next(k for k in lowered.kernels if "conv2d_weight_grad" in k.name and k.name.endswith("slices"))
    there = {b.name for b in sliced.reads if b.turn}
    asked = {line.split()[1].split("[")[0] for line in str(sliced).splitlines() if "prefetch" in line}
    assert asked == {b.name for b in sliced.reads if not b.name.endswith("sums")} - there, "the next sample"
    assert len(there) == own, "kernels that take turns leave it in the cache"
    assert any(f"each of {slices} fixed slices" in text for _, text in sliced.choices)


@pytest.mark.parametrize(("width", "asked"), [(1024, 3), (64, 0)])
def test_large_state_is_asked_for_before_the_sums_that_change_it(width: int, asked: int) -> None:
    """The weight and two moments, where they are too large to be in a cache."""
    layer = nn.Linear(512, width)
    optimizer = optim.Adam(layer.parameters())

    def step(x: Tensor) -> Tensor:
        loss = (layer(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    compiled = smelt.compile(step)
    compiled(np.zeros((8, 512), np.float32))
    lowered = program.lower(compiled.graph, dict.fromkeys(compiled.graph.states), ISAS["znver4"])
    kernel = next(k for k in lowered.kernels if "matmul" in k.note and "sqrt" in k.note)
    before, _ = str(kernel).split("fma", 1)
    lines = [line.split()[1].split("[")[0] for line in before.splitlines() if "prefetch" in line]
    assert len(set(lines)) == asked
    assert len(lines) >= asked * 8


@pytest.mark.parametrize(("channels", "asks"), [(32, True), (3, False)])
def test_a_convolution_asks_for_the_next_image(channels: int, asks: bool) -> None:
    """Not where the sums of a tile are too short for it, or all images together are few bytes."""
    step = smelt.compile(nn.Conv2d(channels, 16, 3))
    x = np.random.default_rng(0).normal(size=(60, channels, 20, 20)).astype(np.float32)
    assert step(x[:3]).numpy().tobytes() == step(x).numpy()[:3].tobytes()
    kernels = program.lower(step.graph, dict.fromkeys(step.graph.states), ISAS["znver4"]).kernels
    assert any("prefetch" in str(k) for k in kernels if "conv2d" in k.note) == asks
