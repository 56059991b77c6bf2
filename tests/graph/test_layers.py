"""Every node knows the layer it was made in, whose gradient it computes, or the optimizer."""

from __future__ import annotations

import numpy as np

import smelt
from smelt import nn, optim
from smelt.compiler.passes.simplify import simplify


def layers(names: tuple[str, ...]) -> set[tuple[str, str]]:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Sequential(nn.ReLU(), nn.Flatten()), nn.Linear(32, 3))
    optimizer, loss = optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss()

    @smelt.compile
    def step(x: smelt.Tensor, y: smelt.Tensor) -> smelt.Tensor:
        value = loss(model(x), y)
        value.backward()
        optimizer.step()
        return value + 1

    step(np.ones((2, 1, 4, 4), np.float32), np.zeros(2, np.int64))
    return {(n.opname, n.layer) for n in simplify(step.graph).nodes() if n.opname in names}


def test_forward_backward_and_update_name_their_layers() -> None:
    assert layers(("conv2d", "relu", "matmul", "conv2d_weight_grad", "exp")) == {
        ("conv2d", "0 Conv2d"),
        ("conv2d_weight_grad", "0 Conv2d"),
        ("relu", "1.0 ReLU"),
        ("matmul", "2 Linear"),
        ("exp", "CrossEntropyLoss"),
    }
    assert {layer for _, layer in layers(("sub", "add"))} >= {"SGD", ""}


def test_nodes_outside_of_modules_have_no_layer() -> None:
    double = smelt.compile(lambda x: x * 2.0)
    double(np.ones(3, np.float32))
    assert {n.layer for n in double.graph.nodes()} == {""}
