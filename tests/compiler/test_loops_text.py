"""Golden text of the second form: schedule, memory plan and loops of two small graphs, for one named processor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import smelt
from smelt import nn, optim
from smelt.compiler import program
from smelt.graph.graph import Graph, format_graph
from smelt.tensor import Tensor

from .isas import ZNVER4
from .zoo import trace, unbound

Golden = Callable[[str, str], None]


def text(graph: Graph) -> str:
    """Return the graph, the schedule and the loops, without the lines of this file."""
    lowered = program.lower(graph, unbound(graph), ZNVER4)
    return f"{format_graph(graph)}\n\n{lowered.text(loops=True)}".rstrip()


def test_loops_of_a_training_step_of_a_linear_classifier(golden: Golden) -> None:
    smelt.seed(0)
    model = nn.Linear(200, 16)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(x: Tensor, y: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    graph = trace(step, [np.zeros((8, 200), np.float32), np.zeros(8, np.int64)])
    golden("loops_linear_step.txt", text(graph))


def test_loops_of_a_convolution_with_pooling(golden: Golden) -> None:
    model = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    graph = trace(lambda x: model.eval()(x), [np.zeros((4, 8, 8, 8), np.float32)], name="forward")
    golden("loops_conv_pool.txt", text(graph))


def test_loops_of_a_convolution_by_winograd(golden: Golden) -> None:
    model = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    graph = trace(lambda x: model.eval()(x), [np.zeros((4, 16, 8, 8), np.float32)], name="forward")
    golden("loops_winograd.txt", text(graph))
