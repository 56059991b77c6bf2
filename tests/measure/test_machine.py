"""What the machine says is there, and that what is measured obeys the laws it must."""

from __future__ import annotations

import json

import numpy as np
import pytest

import smelt
from smelt.measure import inspect_machine, machine, peaks


def test_every_fact_is_given() -> None:
    found = inspect_machine(measure=False)
    assert found.processor and found.llvm_cpu and found.simd in ("avx512", "avx2", "neon", "generic")
    assert found.threads == smelt.get_threads() <= found.logical_processors
    assert found.numpy == np.__version__ and found.blas
    assert found.peak_gflops_one_thread is None
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()


def test_caches_grow_with_their_level() -> None:
    data = [c["bytes"] for c in machine.caches() if c["kind"] != "instruction"]
    assert data == sorted(data)


@pytest.mark.parametrize("text, count", [("0", 1), ("0-3", 4), ("0-1,8,10-11", 5)])
def test_lists_of_processors(text: str, count: int) -> None:
    assert machine._count_list(text) == count


def test_what_is_measured_is_possible() -> None:
    # No more can be said of it on a machine that also does something else.
    measured = peaks.peak_flops(1, seconds=0.05), peaks.matmul_flops(256, 0.05), peaks.cache_bandwidth(1, 1 << 19, 0.02)
    assert all(1e8 < value < 1e14 for value in measured)


def test_the_peak_kernel_is_multiply_adds() -> None:
    from smelt.compiler.emit.llvm import Module
    from smelt.compiler.emit.step import StepEmitter
    from smelt.compiler.isa import host
    from smelt.compiler.jit import compile_assembly
    from smelt.compiler.loops import Buffer

    isa = host()
    module = Module(isa)
    kernel = peaks._fma_kernel(isa, Buffer("out", "f32", peaks.UNITS * isa.lanes("f32"), "output", 0), 12)
    module.add(kernel)
    module.add_text(*StepEmitter(module).emit([[kernel]]))
    text = compile_assembly(module.text(), isa)
    assert text.count("vfmadd") + text.count("fmla") + text.count("fmadd") >= 12


def test_bandwidth_is_that_of_memory() -> None:
    assert 1e8 < peaks.bandwidth(1, 0, seconds=0.05) < 1e13


def test_a_slow_blas_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "peak_flops", lambda threads: 1e11)
    monkeypatch.setattr(machine, "bandwidth", lambda threads, last: 1e10)
    monkeypatch.setattr(machine, "matmul_flops", lambda: 1e9)
    monkeypatch.setattr(machine, "blas_name", lambda: "none")
    monkeypatch.setattr(machine, "load", lambda: 0.0)
    warnings = inspect_machine().warnings
    assert any("reaches 1 GFLOP/s of 100" in w for w in warnings)
    assert any("without a BLAS" in w for w in warnings)
    monkeypatch.setattr(machine, "load", lambda: 64.0)
    assert any("other work ran in the last minute (load 64.0)" in w for w in inspect_machine().warnings)
