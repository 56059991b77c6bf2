"""The compiler's stages: each trains as the interpreter does, and has what its name says and no more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import smelt
from smelt import nn
from smelt.compiler import program
from smelt.compiler.isa import host
from smelt.graph.graph import Graph, Node
from smelt.graph.trace import Tracer
from smelt.measure.bench.cut import cut
from smelt.measure.bench.networks import Network
from smelt.measure.bench.stages import STAGES, forward_backward_update, stage_step
from smelt.measure.bench.train_smelt import training_step
from smelt.ops.primitive import Spec
from smelt.tensor import Tensor


def small() -> Network:
    """Return a network with everything that is kept from one pass to another: statistics, masks, winners."""
    smelt.seed(0)
    layers: list[nn.Module] = [nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)]
    return Network("small", nn.Sequential(*layers, nn.Dropout(0.3), nn.Flatten(), nn.Linear(64, 5)), (1, 8, 8), 5)


def losses(name: str) -> list[float]:
    network = small()
    step = stage_step(network, STAGES[name], 6)
    return [step(*batch).item() for batch in network.batches(6, 4)]


@pytest.mark.parametrize("name", list(STAGES))
def test_every_stage_trains_as_the_interpreter_does(name: str) -> None:
    tolerance = 3e-2 if name == "bf16" else 1e-5
    expected = losses("interpreter")
    assert np.allclose(losses(name), expected, rtol=tolerance) and len(set(expected)) == 4


def traced() -> Graph:
    network = small()
    step, (x, y) = training_step(network), network.batches(6, 1)[0]
    tracer = Tracer("step")
    with tracer:
        inputs = [Tensor(tracer.input(n, Spec(a.shape, a.dtype))) for n, a in (("x", x), ("y", y))]
        return tracer.finish([tracer.lift(step(*inputs))])


def test_a_step_is_cut_into_forward_backward_and_update() -> None:
    graph = traced()
    forward, backward, update = forward_backward_update(graph)
    assert [n.name for n in forward.inputs] == ["x", "y"] and not update.inputs
    assert [len(part.outputs) for part in (forward, backward, update)] == [1, 0, 0]
    products = [
        [n.opname for n in part.nodes() if n.op and "conv2d" in n.opname] for part in (forward, backward, update)
    ]
    assert products == [["conv2d"], ["conv2d_weight_grad"], []]
    written = {s.name for s in update.updates}
    assert {"0.weight", "1.weight", "1.bias", "6.weight", "6.bias"} <= written
    assert all(s.name.startswith("kept") for s in forward.updates)
    assert sum(len(part.updates) for part in (forward, backward, update)) > len(graph.updates)


def test_a_part_may_not_read_what_an_earlier_one_has_overwritten() -> None:
    tracer = Tracer("f")
    w = smelt.Parameter(np.ones(3, np.float32), name="w")
    with tracer:
        before = w.exp()
        w.assign(w + 1.0)
        graph = tracer.finish([tracer.lift(before)])

    def part(node: Node) -> int:
        return 1 if node.opname == "exp" else 0

    with pytest.raises(ValueError, match="f_1 reads w, which an earlier part has overwritten"):
        cut(graph, part, 2)
    assert [len(p.updates) for p in cut(graph, lambda n: 1 - part(n), 2)] == [0, 1]


def test_without_fusion_every_operation_is_a_kernel() -> None:
    (forward, *_) = forward_backward_update(traced())
    strides: dict = dict.fromkeys(forward.states)
    alone, fused = (program.lower(forward, strides, host(), fused=f) for f in (False, True))
    assert not any(" + " in k.note or k.note[0].isdigit() for k in alone.kernels)
    assert any(" + " in k.note for k in fused.kernels) and len(fused.kernels) < len(alone.kernels)


def test_the_scalar_stage_has_no_vectors() -> None:
    (forward, *_) = forward_backward_update(traced())
    strides: dict = dict.fromkeys(forward.states)
    scalar = replace(host(), name="scalar", vector_bytes=4)
    texts = [program.module_text(program.lower(forward, strides, isa, fused=False), isa) for isa in (scalar, host())]
    assert " x float>" not in texts[0] and " x float>" in texts[1]
