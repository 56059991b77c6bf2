"""Random graphs of a batch, compiled: short batches run the same code, whatever lies in the arena."""

from __future__ import annotations

import numpy as np
from graph.random_graphs import Program, programs
from hypothesis import given, settings

import smelt
from smelt.tensor import Tensor

from .hazards import poison

FULL = 6


@settings(max_examples=60)
@given(programs())
def test_compiled_equals_eager_on_full_and_short_batches(program: Program) -> None:
    first, *rest = program.arrays("float64")
    x = np.resize(first, (FULL, *first.shape[1:]))
    others = [Tensor(a) for a in rest]
    compiled = smelt.compile(lambda x: program(x, *others))
    try:
        want = program(Tensor(x), *others)
    except smelt.ShapeError:
        return  # the program's constants fit its own first size only
    for rows in (FULL, 5, 2, FULL):
        if rows < FULL and compiled.graph.exact:
            continue
        want = program(Tensor(x[:rows]), *others)
        for _ in range(2):
            got = compiled(x[:rows])
            for g, w in zip(got, want, strict=True):
                assert (g.shape, g.dtype) == (w.shape, w.dtype)
                scale = float(np.max(np.abs(w.numpy()), initial=1.0))
                np.testing.assert_allclose(g.numpy(), w.numpy(), rtol=1e-9, atol=1e-10 * scale)
            for frame in compiled._variants[0].executable._made:
                poison(compiled.lowered(), frame.arena)
    assert compiled.traces == 1
