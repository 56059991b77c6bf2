"""The printed graph: golden text of two small steps, and what the printer promises."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import smelt
from smelt import ops
from smelt.graph.graph import format_graph, topological
from smelt.tensor import Tensor

from .running import batch, fixed, trace

Golden = Callable[[str, str], None]


def parameter(*shape: int, name: str) -> smelt.Parameter:
    return smelt.Parameter(np.ones(shape, np.float32), name=name)


def test_text_of_a_training_step_of_a_linear_classifier(golden: Golden) -> None:
    weight, bias = parameter(5, 3, name="weight"), parameter(3, name="bias")

    def step(x: Tensor, y: Tensor) -> Tensor:
        loss = ops.softmax_cross_entropy(x @ weight + bias, y).mean()
        loss.backward()
        with smelt.no_grad():
            for p in (weight, bias):
                p.assign(p - 0.1 * p.grad)
                p.grad = None
        return loss

    tracer = trace(step, batch(64, 5), batch(64, dtype="int64"), name="step")
    golden("graph_linear_step.txt", str(tracer.graph))


def test_text_of_a_convolution_with_pooling(golden: Golden) -> None:
    kernel = parameter(4, 1, 3, 3, name="kernel")
    attrs = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
    pool = {"kernel": (2, 2), "stride": (2, 2), "padding": ((0, 0), (0, 0))}

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        h = ops.max_pool2d(ops.conv2d(x, kernel, **attrs).relu(), **pool)
        return h.flatten(1), h.mean(0)

    golden("graph_conv_pool.txt", format_graph(trace(forward, batch(8, 1, 6, 6), name="forward").graph))


def test_lines_name_the_users_source() -> None:
    graph = trace(lambda x: (x * 2).exp(), batch(4, 3)).graph
    assert "# test_format.py:" not in format_graph(graph)
    lines = format_graph(graph, lines=True).splitlines()
    assert sum("# test_format.py:" in line and "(x * 2).exp()" in line for line in lines) == 2


def test_an_axis_of_several_entries_per_sample_is_shown_as_a_multiple() -> None:
    graph = trace(lambda x: x.reshape(-1), batch(4, 3)).graph
    assert "f32[b*3≤12]" in str(graph)


def test_states_of_one_name_are_told_apart() -> None:
    a, b = parameter(2, name="w"), parameter(2, name="w")
    graph = trace(lambda x: x + a + b, fixed(2)).graph
    assert [s.name for s in graph.states] == ["w", "w.2"]


def test_work_nobody_asked_for_is_not_in_the_graph() -> None:
    def function(x: Tensor) -> Tensor:
        x.exp().sum()
        return x + 1.0

    assert [n.opname for n in trace(function, fixed(3)).graph.nodes()] == ["input", "constant", "add"]


def test_a_node_comes_after_its_inputs_and_once() -> None:
    def function(x: Tensor) -> Tensor:
        y = x
        for _ in range(40):  # 2**40 paths: a walk without memory would not end
            y = y + y
        return y

    graph = trace(function, fixed(2)).graph
    nodes = topological(graph.outputs)
    place = {id(n): i for i, n in enumerate(nodes)}
    assert len(nodes) == len(place) == 41
    assert all(place[id(i)] < place[id(n)] for n in nodes for i in n.inputs)


def test_multiply_accumulates_of_a_graph_count_forward_and_backward() -> None:
    weight = parameter(5, 3, name="weight")

    def step(x: Tensor) -> tuple[Tensor, Tensor]:
        loss = (x @ weight).sum()
        loss.backward()
        return loss, weight.grad

    assert trace(step, fixed(7, 5)).graph.macs == 2 * 7 * 5 * 3
