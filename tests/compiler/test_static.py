"""What the zoo's training steps cost on four processors, as far as it can be counted without running them.

Barriers and bytes are upper bounds, so that nobody raises one unnoticed: lower them when there are fewer.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from .assembly import Code, hottest
from .isas import COUNTED
from .lowering import assemble, training, vector_fmas

BATCH = 64
BARRIERS = {"mnist_cnn": 8, "ds_cnn": 147, "resnet8_wide": 115}
ARENA = {"mnist_cnn": 8_691_840, "ds_cnn": 55_190_400, "resnet8_wide": 66_746_176}
SPILLS = {("ds_cnn", "haswell"): 5, ("ds_cnn", "cortex-a76"): 4}  # in the inner loop of the first convolution
each_network = pytest.mark.parametrize("name", BARRIERS)
each_processor = pytest.mark.parametrize("isa", COUNTED)


def important(name: str, isa: str) -> dict[str, tuple[Code, int]]:
    """Return the inner loop of each kernel with 1 % of the step's MACs or more, and the multiply-adds planned for it.

    Equal kernels share a function, which is here once.
    """
    lowered = training(name, isa, BATCH)
    least = sum(k.macs for k in lowered.kernels) // 100
    kernels = [k for k in lowered.kernels if k.macs > least]
    code = assemble(replace(lowered, phases=[kernels]), isa)
    return {k.name: (hottest(code[k.name]), vector_fmas(k.body)) for k in kernels if k.name in code}


@each_processor
@each_network
def test_inner_loops_are_multiply_adds_in_registers(name: str, isa: str) -> None:
    found = important(name, isa)
    assert len(found) >= 5
    for kernel, (code, planned) in found.items():
        assert code.fmas == planned >= 8, f"{kernel}: as many as keep two pipes of four cycles busy"
        assert (code.scalar_fmas, code.calls) == (0, 0), kernel
        assert code.stack_stores <= SPILLS.get((name, isa), 0), kernel
        assert code.widest == COUNTED[isa].vector_bytes, kernel
        assert len(code.lines) <= 4 * code.fmas, kernel


@each_processor
@each_network
def test_a_step_has_no_more_barriers_than_it_had(name: str, isa: str) -> None:
    assert len(training(name, isa, BATCH).phases) - 1 <= BARRIERS[name]


@each_processor
@each_network
def test_a_step_takes_no_more_memory_than_it_took(name: str, isa: str) -> None:
    assert training(name, isa, BATCH).arena_bytes <= ARENA[name]
