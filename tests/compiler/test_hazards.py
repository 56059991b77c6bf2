"""Schedules and memory plans, checked element by element by a simulation that trusts neither."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from graph.random_graphs import Program, programs
from hypothesis import given, settings

from smelt import ShapeError
from smelt.compiler import program
from smelt.compiler.loops import Kernel
from smelt.compiler.passes.memory import lives
from smelt.compiler.program import Lowered
from smelt.tensor import Tensor

from .hazards import find_hazards
from .isas import ISAS, ZNVER4
from .zoo import CASES, Training, trace, unbound

CAPACITY = 5


def lowered_step(name: str, isa: str = "znver4", optimizer: str = "adam") -> Lowered:
    training = Training(CASES[name], optimizer_name=optimizer)
    graph = trace(training.step, list(training.case.data(CAPACITY)))
    return program.lower(graph, unbound(graph), ISAS[isa])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("rows", "threads"), [(CAPACITY, 3), (2, 2), (1, 4)])
def test_a_training_step_has_no_hazard(name: str, rows: int, threads: int) -> None:
    assert find_hazards(lowered_step(name), rows, threads, CAPACITY) == []


@pytest.mark.parametrize("isa", ["haswell", "cortex-a76"])
@pytest.mark.parametrize("name", ["lenet5", "odd_convolutions", "convolutions_1d", "dropout"])
def test_nor_has_it_for_other_processors(name: str, isa: str) -> None:
    assert find_hazards(lowered_step(name, isa, "sgd"), CAPACITY, 3, CAPACITY) == []


def test_nor_with_state_that_lies_in_c_order_already() -> None:
    training = Training(CASES["odd_convolutions"])
    graph = trace(training.step, list(training.case.data(CAPACITY)))
    strides = {s: tuple(int(np.prod(s.shape[i + 1 :])) for i in range(len(s.shape))) for s in graph.states}
    assert find_hazards(program.lower(graph, strides, ZNVER4), CAPACITY, 3, CAPACITY) == []


@settings(max_examples=60)
@given(programs())
def test_a_random_graph_has_no_hazard(program_: Program) -> None:
    graph = trace(program_, program_.arrays("float32"), rows=False)
    assert find_hazards(program.lower(graph, {}, ZNVER4), 0, 3) == []


@settings(max_examples=60)
@given(programs())
def test_a_random_graph_of_a_batch_has_no_hazard(program_: Program) -> None:
    first, *rest = program_.arrays("float64")
    others = [Tensor(a) for a in rest]
    first = np.resize(first, (6, *first.shape[1:]))
    try:
        graph = trace(lambda x: program_(x, *others), [first])
    except ShapeError:
        return  # the program's constants fit its own sizes only
    lowered = program.lower(graph, unbound(graph), ZNVER4)
    assert find_hazards(lowered, 6, 4, 6) == []
    if not graph.exact:
        assert find_hazards(lowered, 5, 2, 6) == []


@pytest.mark.parametrize("name", CASES)
def test_buffers_alive_in_one_phase_do_not_overlap(name: str) -> None:
    lowered = lowered_step(name)
    life = lives(lowered.phases)
    for own, size in ((False, lowered.memory.shared), (True, lowered.memory.own)):
        for i in range(len(lowered.phases)):
            now = [b for b, (first, last) in life.items() if first <= i <= last and bool(b.turn) == own]
            alive = sorted((b.offset, b.offset + b.place_bytes) for b in now)
            assert all(end <= start for (_, end), (start, _) in pairwise(alive))
            assert all(start % 64 == 0 and start >= 0 and end <= size for start, end in alive)


# --- the checker itself -----------------------------------------------------------------------------------


def test_the_checker_sees_a_missing_barrier() -> None:
    lowered = lowered_step("lenet5")
    seen = 0
    for i in range(len(lowered.phases) - 1):
        phases = [list(p) for p in lowered.phases]
        phases[i : i + 2] = [phases[i] + phases[i + 1]]
        merged = Lowered(lowered.graph, lowered.plan, phases, lowered.memory)
        seen += bool(find_hazards(merged, CAPACITY, 3, CAPACITY))
    assert seen > 0.7 * (len(lowered.phases) - 1), "a few barriers may be superfluous, most are not"


def test_the_checker_sees_buffers_that_share_memory() -> None:
    lowered = lowered_step("lenet5")
    life = lives(lowered.phases)
    pairs = [(a, b) for a in life for b in life if life[a][0] < life[b][0] < life[a][1] and b.nbytes <= a.nbytes]
    assert len(pairs) > 4
    for a, b in pairs[:: len(pairs) // 4]:
        apart, b.offset = b.offset, a.offset
        assert find_hazards(lowered, CAPACITY, 1, CAPACITY)
        b.offset = apart


def test_the_checker_sees_a_kernel_that_does_not_run() -> None:
    lowered = lowered_step("dropout")
    unseen: list[Kernel] = []
    for i, phase in enumerate(lowered.phases):
        for kernel in phase:
            phases = [list(p) for p in lowered.phases]
            phases[i].remove(kernel)
            if not find_hazards(Lowered(lowered.graph, lowered.plan, phases, lowered.memory), CAPACITY, 1):
                unseen.append(kernel)
    assert [k.name for k in unseen] == []


def test_the_checker_sees_rows_that_are_not_there() -> None:
    lowered = lowered_step("lenet5")
    for phase in lowered.phases:
        for kernel in phase:
            kernel.range = replace(kernel.range, const=kernel.range.per * CAPACITY or kernel.range.const, per=0)
    problems = find_hazards(lowered, 2, 1, CAPACITY)
    assert any("x0 beyond its 2 rows" in p for p in problems)
