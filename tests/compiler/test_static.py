"""What training steps and inference of the zoo cost on four processors, as far as it can be counted.

Barriers, bytes and spills are upper bounds, so that nobody raises one unnoticed: lower them when there are fewer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from smelt.compiler.program import Lowered, module_text

from .assembly import Code, hottest
from .isas import COUNTED
from .lowering import assemble, inference, training, vector_fmas


@dataclass(frozen=True)
class Cost:
    """Most barriers and bytes of a program, and vectors that its inner loops put on the stack, by processor.

    Spills are there where a short loop over channels is unrolled whole, and LLVM loads what comes next too early; and
    of one counter, where a tile is finished during the sums of the next one.
    """

    lower: Callable[[str], Lowered]
    barriers: int
    arena: int
    spills: dict[str, int]


COSTS = {
    "mnist_cnn, batch 64": Cost(lambda isa: training("mnist_cnn", isa, 64), 8, 5_714_048, {"sapphirerapids": 1}),
    "mnist_cnn, rounds of 64": Cost(
        lambda isa: training("mnist_cnn", isa, 64, rounds=True), 17, 8_934_400, {"znver4": 1, "sapphirerapids": 3}
    ),
    "ds_cnn, batch 64": Cost(lambda isa: training("ds_cnn", isa, 64), 82, 48_887_488, {"haswell": 5, "cortex-a76": 4}),
    "resnet8, batch 64": Cost(lambda isa: training("resnet8_wide", isa, 64), 64, 52_476_608, {}),
    "ds_cnn, one sample": Cost(lambda isa: inference("ds_cnn", isa), 11, 115_200, {"haswell": 9, "cortex-a76": 4}),
    "resnet8, one sample": Cost(lambda isa: inference("resnet8", isa), 10, 368_640, {"haswell": 15}),
    "mobilenet_v1, one sample": Cost(
        lambda isa: inference("mobilenet_v1", isa), 29, 763_776, {"haswell": 35, "cortex-a76": 57}
    ),
}
each_program = pytest.mark.parametrize("cost", COSTS.values(), ids=list(COSTS))
each_processor = pytest.mark.parametrize("isa", COUNTED)


def important(lowered: Lowered, isa: str) -> dict[str, tuple[Code, int]]:
    """Return the inner loop of each kernel with 1 % of the MACs or more, and the multiply-adds planned for it.

    Equal kernels share a function, which is here once.
    """
    least = sum(k.macs for k in lowered.kernels) // 100
    kernels = [k for k in lowered.kernels if k.macs > least]
    code = assemble(replace(lowered, phases=[[k] for k in kernels], once=0, before=0), isa)
    return {k.name: (hottest(code[k.name]), vector_fmas(k.body)) for k in kernels if k.name in code}


@each_processor
@each_program
def test_inner_loops_are_multiply_adds_in_registers(cost: Cost, isa: str) -> None:
    found = important(cost.lower(isa), isa)
    assert len(found) >= 4
    for kernel, (code, planned) in found.items():
        assert code.fmas == planned >= 8, f"{kernel}: as many as keep two pipes of four cycles busy"
        assert (code.scalar_fmas, code.calls) == (0, 0), kernel
        assert code.stack_stores <= cost.spills.get(isa, 0), kernel
        assert 2 * code.widest >= COUNTED[isa].vector_bytes, f"{kernel}: half a vector where there are 8 channels"
        assert len(code.lines) <= 4 * code.fmas, kernel


@each_processor
@each_program
def test_there_are_no_more_barriers_than_there_were(cost: Cost, isa: str) -> None:
    assert len(cost.lower(isa).phases) - 1 <= cost.barriers


@each_processor
@each_program
def test_it_takes_no_more_memory_than_it_took(cost: Cost, isa: str) -> None:
    assert cost.lower(isa).arena_bytes <= cost.arena


@pytest.mark.parametrize("isa", ["znver4", "haswell"])
def test_llvm_is_not_given_more_to_compile_than_it_was(isa: str) -> None:
    """A thousand lines of text are 30 ms of compiling; resnet8's training step had 31,200 once."""
    lowered = training("resnet8_wide", isa, 64)
    assert module_text(lowered, COUNTED[isa]).count("\n") <= 27_100
