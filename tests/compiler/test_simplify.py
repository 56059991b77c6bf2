"""What simplification makes of patterns that layers leave behind, and that it means the same."""

from __future__ import annotations

import numpy as np
import pytest

import smelt
from smelt import nn
from smelt.compiler.passes.simplify import simplify
from smelt.tensor import Tensor

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
