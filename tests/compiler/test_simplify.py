"""What simplification makes of patterns that layers leave behind, and that it means the same."""

from __future__ import annotations

import numpy as np
import pytest

import smelt
from smelt import nn
from smelt.compiler import program
from smelt.compiler.passes.simplify import simplify
from smelt.tensor import Tensor

from .isas import ISAS

POOLS = {"apart": (2, 2, 0), "overlapping": (3, 1, 0), "padded": (3, 2, 1), "gaps": (2, 3, 0)}


@pytest.mark.parametrize("name", POOLS)
def test_the_gradient_of_relu_and_max_pooling(name: str) -> None:
    """Windows without a positive element have no winner, ties go to the first; with padding it stays as it was."""
    kernel, stride, padding = POOLS[name]
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 3, (3, 5, 8, 9)).astype(np.float32)
    w = smelt.Parameter(np.ones((1,), np.float32))

    def gradient(x: Tensor) -> Tensor:
        y = nn.functional.max_pool2d((x * w).relu(), kernel, stride, padding)
        scale = smelt.tensor(rng.normal(size=tuple(y._spec.shape)[1:]).astype(np.float32))
        (y * scale).sum().backward()
        out, w.grad = w.grad, None
        return out

    rng = np.random.default_rng(1)
    want = gradient(Tensor(x)).item()
    rng = np.random.default_rng(1)
    step = smelt.compile(gradient)
    assert abs(step(x).item() - want) <= 1e-4 * abs(want)
    masks = [n for n in simplify(step.graph).nodes() if n.opname == "lt"]
    assert [m.shape[2:] != x.shape[2:] for m in masks] == [padding == 0]


@pytest.mark.parametrize("name", POOLS)
def test_the_maximum_is_taken_before_relu_and_nan_is_larger_than_all(name: str) -> None:
    kernel, stride, padding = POOLS[name]
    x = np.random.default_rng(0).normal(size=(2, 16, 9, 10)).astype(np.float32)
    x[0, 3, 4, 5], x[0, 7, 0, 0], x[1, 1, 1:4, 2:5] = np.nan, np.inf, -np.inf
    conv = nn.Conv2d(16, 32, 1)

    def pooled(x: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(nn.functional.max_pool2d(y.relu(), kernel, stride, padding) for y in (x, conv(x)))  # type: ignore[return-value]

    step = smelt.compile(pooled)
    for got, want in zip(step(x), pooled(Tensor(x)), strict=True):
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-5, atol=1e-5)
    relus = [n for n in simplify(step.graph).nodes() if n.opname == "relu"]
    assert [n.inputs[0].opname for n in relus] == ["max_pool2d"] * 2


def test_what_is_averaged_need_not_be_stored() -> None:
    step = smelt.compile(lambda x, y: ((x - y) * (x - y)).mean())
    x = np.random.default_rng(0).normal(size=(2, 6, 40)).astype(np.float32)
    assert abs(step(x[0], x[1]).item() - ((x[0] - x[1]) ** 2).mean()) < 1e-6
    assert step(x[0, :4], x[1, :4]).shape == ()
    lowered = program.lower(step.graph, {}, ISAS["znver4"])
    assert not any(b.size >= 6 * 40 for k in lowered.kernels for b in k.writes)


@pytest.mark.parametrize("affine", [True, False])
def test_batch_normalization_stores_neither_differences_nor_products(affine: bool) -> None:
    """What is less its mean is computed wherever it is used."""
    first, norm, last = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16, affine=affine), nn.Conv2d(16, 4, 1)
    x = np.random.default_rng(0).normal(size=(5, 3, 8, 8)).astype(np.float32)

    def step(x: Tensor) -> list[Tensor]:
        loss = (last(norm(first(x)).relu()) ** 2).mean()
        loss.backward()
        tensors = [first.weight, last.weight, *norm.parameters()]
        grads = [loss, *(t.grad for t in tensors)]
        for t in (*tensors, first.bias, last.bias):
            t.grad = None
        return grads

    want = step(Tensor(x))
    compiled = smelt.compile(step)
    for got, expected in zip(compiled(x), want, strict=True):
        np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=0, atol=1e-5 * np.abs(expected.numpy()).max())
    lowered = program.lower(compiled.graph, dict.fromkeys(compiled.graph.states), ISAS["znver4"])
    whole = [b for k in lowered.kernels for b in k.writes if b.size == x.shape[0] * 16 * 8 * 8 and b.dtype == "f32"]
    assert len(whole) == 4, "the convolution, the activation, the gradient behind the normalization and before it"
