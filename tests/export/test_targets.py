"""The table of processors: LLVM knows every one of them, and C compilers where they are installed."""

from __future__ import annotations

import llvmlite.binding as llvm
import pytest

from smelt.errors import ExportError
from smelt.export.targets import TARGETS, Target, find_target

from .compilers import need, run


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
def test_llvm_makes_code_for_it(target: Target) -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    isa = target.isa
    machine = llvm.Target.from_triple(isa.triple).create_target_machine(isa.cpu, isa.features, 2, abiname=target.abi)
    text = f'target triple = "{isa.triple}"\ndefine float @f(float %a) {{\n  ret float %a\n}}'
    assert "f:" in machine.emit_assembly(llvm.parse_assembly(text))


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
def test_its_c_compiler_knows_its_flags(target: Target) -> None:
    run(need(target.compiler), *target.flags, "-E", "-dM", "-x", "c", "/dev/null")


def test_a_name_that_is_none() -> None:
    with pytest.raises(ExportError, match=r"target 'toaster': expected one of cortex-m3, cortex-m4, .*avr"):
        find_target("toaster")
