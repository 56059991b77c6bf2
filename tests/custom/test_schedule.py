"""Steps with custom operations, checked element by element: no races, nothing read before it is written; their text."""

from __future__ import annotations

import numpy as np
import pytest
from compiler.hazards import find_hazards
from compiler.isas import ISAS
from compiler.zoo import trace, unbound

import smelt
from smelt import nn, optim
from smelt.compiler import program
from smelt.compiler.jit import compile_assembly
from smelt.measure.work import work
from smelt.tensor import Tensor

from .functions import moments, swish
from .native import bent, c_swish, row_scale

CAPACITY = 5


class Net(nn.Module):
    """Convolutions, statistics of the batch, and custom operations of every kind between them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6)
        self.last = nn.Linear(6 * 9, 4)
        self.scale = smelt.Parameter(np.ones(4, np.float32))

    def forward(self, x: Tensor) -> Tensor:
        y = c_swish(self.norm(swish(self.conv(x))))
        y = row_scale(self.last(y.flatten(1)), self.scale)
        s, m = moments(y, self.scale)
        return y + bent(s + m).reshape(-1, 1)


def lowered(isa: str = "znver4") -> program.Lowered:
    smelt.seed(0)
    model = Net()
    optimizer = optim.Adam(model.parameters(), lr=0.01)

    def step(x: Tensor, y: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    x = np.random.default_rng(0).normal(size=(CAPACITY, 2, 5, 5)).astype(np.float32)
    graph = trace(step, [x, np.arange(CAPACITY) % 4])
    return program.lower(graph, unbound(graph), ISAS[isa])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("rows", "threads"), [(CAPACITY, 1), (CAPACITY, 3), (2, 2)])
def test_a_training_step_has_no_hazard(isa: str, rows: int, threads: int) -> None:
    step = lowered(isa)
    calls = [k for k in step.kernels if k.status >= 0]
    assert len(calls) == 9
    assert find_hazards(step, rows, threads, CAPACITY) == []


def test_no_state_is_written_before_the_last_call() -> None:
    step = lowered()
    last = max(i for i, phase in enumerate(step.phases) for k in phase if k.status >= 0)
    writes = [i for i, phase in enumerate(step.phases) for k in phase for b in k.writes if b.kind == "state"]
    assert len(writes) > 20 and min(writes) > last


@pytest.mark.parametrize("isa", ISAS)
def test_every_processor_gets_code(isa: str) -> None:
    step = lowered(isa)
    assembly = compile_assembly(program.module_text(step, ISAS[isa]), ISAS[isa])
    mode = {"znver4": "ldmxcsr", "haswell": "ldmxcsr", "cortex-a76": "fpcr"}[isa]
    python = sum(k.range.caller for k in step.kernels)
    assert python == 4
    assert assembly.lower().count(mode) >= 2 + 2 * python


def test_the_loops_show_the_call() -> None:
    text = str(next(k for k in lowered().kernels if k.note == "custom.row_scale"))
    assert "low = n*s//16" in text
    assert "call row_scale: " in text and "(high+low*-1, 4), scale[0] (4) -> " in text


def test_the_bytes_of_a_call_are_counted() -> None:
    kernels = {k.note: work(k, CAPACITY) for k in lowered().kernels}
    scaled = 4 * CAPACITY * 4
    assert sorted(kernels["custom.row_scale"].reads.values()) == [16, scaled]  # each slice reads w: counted once
    assert sum(kernels["custom.row_scale"].writes.values()) == scaled
    assert kernels["custom.moments"].bytes == scaled + 16 + 2 * 4 * CAPACITY
