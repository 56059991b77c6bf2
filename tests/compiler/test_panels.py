"""Large weights of inference lie in panels, each as wide as a tile and read from its first byte to its last."""

from __future__ import annotations

import numpy as np
import pytest

import smelt
from smelt import nn
from smelt.compiler import program
from smelt.compiler.passes.freeze import freeze
from smelt.graph.graph import Graph
from smelt.graph.trace import Tracer
from smelt.ops.primitive import Rows, Spec
from smelt.runtime.arena import laid_out
from smelt.tensor import Tensor
from tests.compiler.hazards import find_hazards
from tests.compiler.isas import ISAS

CASES = {
    "conv2d": (lambda: nn.Conv2d(64, 640, 1), (64, 3, 3)),
    "conv2d of 3 x 3": (lambda: nn.Conv2d(32, 320, 3, padding=1), (32, 4, 4)),
    "matmul": (lambda: nn.Linear(300, 960), (300,)),
}


def frozen(model: nn.Module, shape: tuple[int, ...]) -> Graph:
    tracer = Tracer("model")
    with tracer:
        out = model(Tensor(tracer.input("x", Spec(shape, np.dtype("float32"), Rows(0)))))
        return freeze(tracer.finish([tracer.lift(out)])).graph


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rows", [1, 4])
def test_weights_larger_than_the_images_lie_in_panels(case: str, isa: str, rows: int) -> None:
    make, shape = CASES[case]
    graph = frozen(make(), (rows, *shape))
    own = program.lower(graph, None, ISAS[isa], apart=rows > 1)
    bound = program.lower(graph, dict.fromkeys(graph.states), ISAS[isa])
    assert [own.plan.storage[s].panel is not None for s in graph.states] == [True, False]
    assert [bound.plan.storage[s].panel for s in graph.states] == [None, None]
    assert find_hazards(own, rows, 1 if rows > 1 else 3) == []


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("case", CASES)
def test_results_are_those_of_the_eager_model(case: str, rows: int) -> None:
    make, shape = CASES[case]
    model = nn.Sequential(make())
    x = np.random.default_rng(0).normal(size=(rows, *shape)).astype(np.float32)
    want = model(x).numpy()
    np.testing.assert_allclose(model.compile()(x).numpy(), want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


def test_a_panel_holds_a_block_of_columns_row_by_row() -> None:
    w = np.arange(24.0).reshape(3, 8)
    out = laid_out(w, (4, 1), None, (4, 12))
    np.testing.assert_array_equal(np.lib.stride_tricks.as_strided(out, (24,), (8,)), np.hstack([*w[:, :4], *w[:, 4:]]))


@pytest.mark.parametrize("rows", [200, 40, 3])
def test_a_gradient_reads_weights_that_lie_the_other_way_in_panels(rows: int) -> None:
    """Of a large batch: the copy that turns them has panels, and is made anew in every step."""
    smelt.seed(0)
    first, layer = nn.Linear(8, 512), nn.Linear(512, 256)

    def step(x: Tensor) -> Tensor:
        (layer(first(x)) ** 2).mean().backward()
        gradient = first.weight.grad
        for p in (*first.parameters(), *layer.parameters()):
            p.grad = None
        return gradient

    x = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    compiled = smelt.compile(step)
    compiled(x)
    want = step(Tensor(x[:rows])).numpy()
    np.testing.assert_allclose(compiled(x[:rows]).numpy(), want, rtol=0, atol=1e-5 * np.abs(want).max())
    graph = compiled.graph
    lowered = program.lower(graph, dict.fromkeys(graph.states), ISAS["znver4"])
    panels = [s.panel for n, s in lowered.plan.storage.items() if s.panel is not None and n.kind != "state"]
    assert panels and all(width < 512 and 512 % width == 0 for width, _ in panels)
    assert find_hazards(lowered, rows, 3, 200) == []
