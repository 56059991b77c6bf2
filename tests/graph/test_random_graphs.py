"""Random graphs: eager against the interpreter, difference quotients, ragged batches, and compiled."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings

import smelt
from smelt.ops import Spec
from smelt.tensor import Tensor

from .random_graphs import Program, programs
from .running import batch, fixed, run_ragged, run_traced, trace


def eager(program: Program, arrays: list[np.ndarray]) -> list[np.ndarray]:
    return [t.numpy() for t in program(*(Tensor(a) for a in arrays))]


@given(programs())
def test_interpreted_graph_equals_eager(program: Program) -> None:
    for dtype in ("float32", "float64"):
        arrays = program.arrays(dtype)
        want = eager(program, arrays)
        tracer = trace(program, *(Spec(a.shape, a.dtype) for a in arrays))
        for got, w in zip(run_traced(tracer, arrays), want, strict=True):
            assert got.dtype == w.dtype
            np.testing.assert_array_equal(got, w)
        assert all(np.isfinite(w).all() for w in want)


@given(programs())
def test_gradient_matches_central_differences(program: Program) -> None:
    arrays = program.arrays("float64")
    leaves = [Tensor(a) for a in arrays]
    rng = np.random.default_rng(3)
    directions = [rng.uniform(-1, 1, a.shape) for a in arrays]
    h = 1e-6
    up, down = (eager(program, [a + s * h * d for a, d in zip(arrays, directions, strict=True)])[0] for s in (1, -1))
    slope = float(up - down) / (2 * h)
    for leaf in leaves:
        leaf.requires_grad = True
    program.loss(program.results(*leaves)).backward()
    grads = [np.zeros(t.shape) if t.grad is None else t.grad.numpy() for t in leaves]
    along = sum(float(np.sum(g * d)) for g, d in zip(grads, directions, strict=True))
    scale = 1 + sum(float(np.sum(np.abs(g * d))) for g, d in zip(grads, directions, strict=True))
    assert abs(along - slope) <= 1e-6 * scale


@given(programs())
def test_a_graph_that_is_not_exact_is_right_on_a_ragged_batch(program: Program) -> None:
    """The first input's first axis is the batch; 5 of 6 samples must give what eager gives on 5."""
    full, rows = 6, 5
    arrays = program.arrays("float64")
    arrays[0] = np.resize(arrays[0], (full, *arrays[0].shape[1:]))
    specs = [
        batch(*arrays[0].shape, dtype="float64"),
        *(fixed(*a.shape, dtype="float64") for a in arrays[1:]),
    ]
    try:
        tracer = trace(program, *specs)
    except smelt.ShapeError:
        return  # the program's constants fit its own first size only
    if tracer.graph.exact:
        return
    ragged = [arrays[0][:rows], *arrays[1:]]
    for got, want in zip(run_ragged(tracer, ragged, full, rows), eager(program, ragged), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


def test_random_graphs_reach_most_primitives() -> None:
    seen: Counter[str] = Counter()
    ragged = 0

    @settings(max_examples=200)
    @given(programs())
    def collect(program: Program) -> None:
        nonlocal ragged
        seen.update({step.op for step in program.steps})
        shape = (6, *program.shapes[0][1:])
        try:
            specs = [batch(*shape), *(fixed(*s) for s in program.shapes[1:])]
            ragged += not trace(program, *specs).graph.exact
        except smelt.ShapeError:
            pass

    collect()
    expected = "add mul div tanh relu max sum permute reshape slice place concat matmul conv2d max_pool2d where"
    assert all(seen[name] >= 3 for name in expected.split()), seen
    assert ragged >= 40


@given(programs())
def test_compiled_equals_eager(program: Program) -> None:
    """Compiled float32 errs no more than eager float32 does, up to a factor, against eager float64."""
    compiled = smelt.compile(lambda *xs: program(*xs))
    exact = eager(program, program.arrays("float64"))
    want = eager(program, program.arrays("float32"))
    got = [t.numpy() for t in compiled(*(Tensor(a) for a in program.arrays("float32")))]
    for g, w, e in zip(got, want, exact, strict=True):
        assert (g.dtype, g.shape) == (w.dtype, w.shape)
        if g.size:
            scale = float(np.max(np.abs(e)))
            allowed = 8 * float(np.max(np.abs(w - e))) + 1e-5 * scale + 1e-30
            assert float(np.max(np.abs(g - e))) <= allowed
