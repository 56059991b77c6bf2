"""Random programs with custom identities strewn into them: compiled as without, and no hazard in their schedules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from compiler.hazards import find_hazards
from compiler.isas import ZNVER4
from compiler.zoo import unbound
from graph.random_graphs import Program, programs
from graph.running import batch, fixed, trace
from hypothesis import given, settings
from hypothesis import strategies as st

import smelt
from smelt import ops
from smelt.compiler import program as compiler
from smelt.tensor import Tensor

from .native import native_same, whole_same

numpy_same = smelt.custom_op(lambda x: x, gradient=lambda g, y, x: numpy_same(g))
twice = smelt.custom_op(lambda x: (x, x + x), out=lambda x: [x, x], gradient=lambda g, h, y, z, x: g + h * 2.0)
IDENTITIES: list[Callable[[Any], Any]] = [
    numpy_same,
    native_same,
    whole_same,
    lambda x: twice(x)[0],
    lambda x: twice(x)[1] * 0.5,
    lambda x: sum(twice(x), start=-x * 2.0),
]


def strewn(program: Program, choices: list[int]) -> Callable[..., tuple[Tensor, ...]]:
    """Return the program with the identity chosen for it (or none) after each step whose result has axes."""
    used: Counter[int] = Counter()

    def run(*xs: Tensor) -> tuple[Tensor, ...]:
        plain = {step.op: ops.REGISTRY[step.op] for step in program.steps}
        made = iter(range(10**6))

        def wrap(op: Any) -> Any:
            def call(*operands: Any, **attrs: Any) -> Any:
                out = op(*operands, **attrs)
                choice = choices[next(made) % len(choices)]
                if choice >= len(IDENTITIES) or out.ndim == 0 or out.dtype != np.float32:
                    return out
                used[choice] += 1
                return IDENTITIES[choice](out)

            return call

        ops.REGISTRY.update({name: wrap(op) for name, op in plain.items()})
        try:
            return program(*xs)
        finally:
            ops.REGISTRY.update(plain)

    run.used = used  # type: ignore[attr-defined]
    return run


CHOICES = st.lists(st.integers(0, len(IDENTITIES) + 1), min_size=1, max_size=6)


@settings(max_examples=12)
@given(programs(), CHOICES)
def test_compiled_equals_the_program_without_them(program: Program, choices: list[int]) -> None:
    run = strewn(program, choices)
    compiled = smelt.compile(lambda *xs: run(*xs))
    for rows in (program.shapes[0][0], -(-program.shapes[0][0] // 2)):
        single, double = program.arrays("float32"), program.arrays("float64")
        single[0], double[0] = single[0][:rows], double[0][:rows]
        try:
            want = [t.numpy() for t in program(*map(Tensor, single))]
        except smelt.ShapeError:
            return  # the program's constants fit its own first size only
        got = [t.numpy() for t in compiled(*map(Tensor, single))]
        exact = [t.numpy() for t in program(*map(Tensor, double))]
        for g, w, e in zip(got, want, exact, strict=True):
            assert (g.dtype, g.shape) == (w.dtype, w.shape)
            if g.size:
                scale = float(np.max(np.abs(e)))
                assert float(np.max(np.abs(g - e))) <= 8 * float(np.max(np.abs(w - e))) + 1e-5 * scale + 1e-30


@settings(max_examples=40)
@given(programs(), CHOICES, st.integers(1, 5), st.integers(1, 4))
def test_no_schedule_has_a_hazard(program: Program, choices: list[int], rows: int, threads: int) -> None:
    shape = (5, *program.shapes[0][1:])
    try:
        specs = [batch(*shape), *(fixed(*s) for s in program.shapes[1:])]
        graph = trace(strewn(program, choices), *specs).graph
    except smelt.ShapeError:
        return  # the program's constants fit its own first size only
    lowered = compiler.lower(graph, unbound(graph), ZNVER4)
    assert find_hazards(lowered, 5 if graph.exact else rows, threads, 5) == []


def test_all_of_them_are_met() -> None:
    seen: Counter[int] = Counter()

    @settings(max_examples=40)
    @given(programs(), CHOICES)
    def collect(program: Program, choices: list[int]) -> None:
        run = strewn(program, choices)
        run(*map(Tensor, program.arrays("float32")))
        seen.update(run.used)  # type: ignore[attr-defined]

    collect()
    assert set(seen) == set(range(len(IDENTITIES)))
