"""``smelt doctor``: nothing in; what this computer has, what Smelt uses of it and what it reaches out."""

from __future__ import annotations

import os
from pathlib import Path

from smelt.cli.output import Output
from smelt.measure.machine import Machine, inspect_machine


def examine(as_json: bool) -> None:
    """Print the figures of this computer."""
    output = Output(as_json)
    machine = inspect_machine()
    output.result(machine.to_dict())
    for line in report(machine):
        output.say(line)


def report(machine: Machine) -> list[str]:
    """Return the figures as lines, each with its unit."""
    quota = "no limit" if machine.quota is None else f"{machine.quota:g} processors"
    rows = [
        ("smelt", f"{machine.smelt}, Python {machine.python}, {machine.system}"),
        ("processor", machine.processor),
        ("SIMD", _simd(machine)),
        *((f"L{c['level']} {c['kind']}", _cache(c)) for c in machine.caches),
        ("processors", f"{machine.logical_processors} logical, {machine.affinity} allowed, container quota {quota}"),
        ("threads", f"{machine.threads} in a compiled step"),
        ("NumPy", f"{machine.numpy}, BLAS {machine.blas}"),
        ("compiler", f"LLVM {machine.llvm} by llvmlite {machine.llvmlite}"),
        ("cache", f"{machine.cache_bytes / 1e6:.1f} MB in {_from_home(machine.cache_folder)}"),
    ]
    measured = [
        ("arithmetic, 1 thread", machine.peak_gflops_one_thread, "GFLOP/s float32 (fused multiply-add)"),
        (f"arithmetic, {machine.threads} threads", machine.peak_gflops_all_threads, "GFLOP/s float32"),
        (f"bfloat16, {machine.threads} threads", machine.peak_gflops_bfloat16, "GFLOP/s, summed in float32"),
        *((f"{name} cache", value, "GB/s (triad, all threads)") for name, value in machine.cache_gb_per_s.items()),
        ("memory", machine.bandwidth_gb_per_s, "GB/s (triad, all threads)"),
        ("NumPy's matrix product", machine.numpy_matmul_gflops, "GFLOP/s float32, 768 × 768"),
    ]
    lines = [f"{name:<15} {text}" for name, text in rows]
    if any(value is not None for _, value, _ in measured):
        lines += ["", "measured now"]
        lines += [f"  {name:<23} {value:8.1f} {unit}" for name, value, unit in measured if value is not None]
    if machine.barrier_microseconds is not None:
        meet = f"barrier, {machine.threads} threads"
        lines.append(f"  {meet:<23} {machine.barrier_microseconds:8.2f} µs to meet, which a step does between phases")
    return lines + [f"warning: {w}" for w in machine.warnings]


def _simd(machine: Machine) -> str:
    products = ", products of bfloat16" if machine.bfloat16 else ""
    words = f"{machine.simd}, vectors of {machine.vector_bits} bits{products}"
    return f"{words}; LLVM calls the processor {machine.llvm_cpu}"


def _from_home(folder: str) -> str:
    home = str(Path.home())
    return "~" + folder.removeprefix(home) if folder.startswith(home + os.sep) else folder


def _cache(cache: dict[str, int | str | None]) -> str:
    size = int(cache["bytes"] or 0)
    text = f"{size // (1 << 20)} MiB" if size >= 1 << 20 else f"{size // 1024} KiB"
    if cache["line"]:
        text += f", lines of {cache['line']} bytes"
    return text + (f", shared by {cache['shared_by']} processors" if cache["shared_by"] not in (None, 1) else "")
