"""What the machine says is there, and that what is measured obeys the laws it must."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import smelt
from smelt.cli.doctor import report
from smelt.measure import inspect_machine, machine, peaks, system
from smelt.measure.roofline import Ceilings, Level
from smelt.runtime import workers


def test_every_fact_is_given() -> None:
    found = inspect_machine(measure=False)
    assert found.processor and found.llvm_cpu and found.simd in ("avx512", "avx2", "neon", "generic")
    assert found.threads == smelt.get_threads() <= found.logical_processors
    assert found.numpy == np.__version__ and found.blas
    assert found.peak_gflops_one_thread is None
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()


def test_caches_grow_with_their_level() -> None:
    data = [c["bytes"] for c in system.caches() if c["kind"] != "instruction"]
    assert data == sorted(data)


@pytest.mark.parametrize("text, count", [("0", 1), ("0-3", 4), ("0-1,8,10-11", 5)])
def test_lists_of_processors(text: str, count: int) -> None:
    assert system._count_list(text) == count


def test_what_is_measured_is_possible() -> None:
    # No more can be said of it on a machine that also does something else.
    arithmetic = [peaks.peak_flops(1, 0.05), peaks.peak_flops(1, 0.05, paired=True), peaks.matmul_flops(256, 0.05)]
    measured = [*arithmetic, peaks.cache_bandwidth(1, 1 << 19, 0.02)]
    assert all(1e8 < value < 1e14 for value in measured)


def test_the_peak_kernel_is_multiply_adds() -> None:
    from smelt.compiler.emit.llvm import Module
    from smelt.compiler.emit.step import StepEmitter
    from smelt.compiler.isa import host
    from smelt.compiler.jit import compile_assembly
    from smelt.compiler.loops import Buffer
    from smelt.compiler.passes.memory import Memory

    isa = host()
    module = Module(isa)
    kernel = peaks._fma_kernel(isa, Buffer("out", "f32", peaks.UNITS * isa.lanes("f32"), "output", 0), 12)
    module.add(kernel)
    module.add_text(*StepEmitter(module, 0, Memory(0, 0)).emit([[kernel]]))
    text = compile_assembly(module.text(), isa)
    assert text.count("vfmadd") + text.count("fmla") + text.count("fmadd") >= 12


def test_bandwidth_is_that_of_memory() -> None:
    assert 1e8 < peaks.bandwidth(1, 0, seconds=0.05) < 1e13


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Measure nothing: 100 GFLOP/s, and a matrix product of 1."""
    ceilings = Ceilings(2, 1e11, (Level("L2", 1 << 20, 2e11), Level("memory", None, 1e10)), 3e11)
    monkeypatch.setattr(machine, "measured_ceilings", lambda threads: ceilings)
    monkeypatch.setattr(machine, "peak_flops", lambda threads: 5e10)
    monkeypatch.setattr(machine, "matmul_flops", lambda: 1e9)
    monkeypatch.setattr(machine, "barrier_seconds", lambda threads: 2e-7)
    monkeypatch.setattr(machine, "busy_warning", lambda: "")
    return monkeypatch


def test_a_slow_blas_is_told(quick: pytest.MonkeyPatch) -> None:
    warnings = inspect_machine().warnings
    assert any("reaches 1 GFLOP/s of 100" in w for w in warnings)
    for name, says in (("none", "built with no BLAS"), ("cblas 3.9", "not made to be fast (cblas 3.9)")):
        quick.setattr(machine, "blas_name", lambda name=name: name)
        assert any(says in w for w in inspect_machine(measure=False).warnings)
    quick.setattr(machine, "busy_warning", lambda: "busy")
    assert "busy" in inspect_machine().warnings and not any("reaches" in w for w in inspect_machine().warnings)


def test_threads_that_meet_take_some_time() -> None:
    assert peaks.barrier_seconds(1) == 0.0 < peaks.barrier_seconds(2, seconds=0.01) < 1e-3


def test_what_is_measured_is_told_with_its_unit(quick: pytest.MonkeyPatch) -> None:
    quick.setattr(machine.workers, "get_threads", lambda: 2)
    found = inspect_machine()
    assert (found.peak_gflops_one_thread, found.peak_gflops_all_threads, found.peak_gflops_bfloat16) == (50, 100, 300)
    assert (found.cache_gb_per_s, found.bandwidth_gb_per_s) == ({"L2": 200}, 10)
    text = "\n".join(report(found))
    for line in (
        "50.0 GFLOP/s float32 (fused",
        "300.0 GFLOP/s, summed in float32",
        "L2 cache",
        "10.0 GB/s",
        "768 × 768",
        "barrier, 2 threads          0.20 µs",
    ):
        assert line in text


def test_limits_are_warned_of(quick: pytest.MonkeyPatch) -> None:
    quick.setattr(workers, "cpu_quota", lambda: 0.5)
    quick.setattr(workers, "get_threads", lambda: 999)
    warnings = inspect_machine(measure=False).warnings
    assert any("0.5 of a processor" in w for w in warnings) and any("999 threads on" in w for w in warnings)


def test_other_work_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "load", lambda: 0.0)
    assert system.busy_warning() == ""
    monkeypatch.setattr(system, "load", lambda: 640.0)
    assert "other work ran in the last minute (load 640.0)" in system.busy_warning()


@pytest.mark.parametrize(
    "files, quota",
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu.max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_quota_of_a_container(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert workers.cpu_quota(str(tmp_path)) == quota
