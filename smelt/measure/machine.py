"""The computer at hand: nothing in; its processor, caches, threads, libraries and measured peaks out.

:mod:`smelt.measure.system` asks the system; what the processor reaches is measured by :mod:`smelt.measure.peaks`.
"""

from __future__ import annotations

import contextlib
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from smelt._version import __version__
from smelt.compiler import jit
from smelt.compiler.isa import host
from smelt.measure.peaks import barrier_seconds, matmul_flops, peak_flops
from smelt.measure.roofline import measured_ceilings
from smelt.measure.system import allowed_processors, blas_name, busy_warning, caches, processor_name
from smelt.runtime import workers

_SLOW_BLAS = 0.2  # of the measured peak; below it NumPy's matrix product is called slow
_REFERENCE = ("none", "blas", "cblas", "netlib", "refblas")  # BLAS libraries that are not made to be fast


@dataclass
class Machine:
    """What :func:`inspect_machine` found; None where the system does not say."""

    smelt: str
    python: str
    system: str
    processor: str
    simd: str
    vector_bits: int
    bfloat16: bool
    llvm_cpu: str
    logical_processors: int
    affinity: int
    quota: float | None
    threads: int
    numpy: str
    blas: str
    llvmlite: str
    llvm: str
    cache_folder: str
    cache_bytes: int
    caches: list[dict[str, Any]] = field(default_factory=list)
    peak_gflops_one_thread: float | None = None
    peak_gflops_all_threads: float | None = None
    peak_gflops_bfloat16: float | None = None
    cache_gb_per_s: dict[str, float] = field(default_factory=dict)
    bandwidth_gb_per_s: float | None = None
    numpy_matmul_gflops: float | None = None
    barrier_microseconds: float | None = None
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        return asdict(self)


def inspect_machine(measure: bool = True) -> Machine:
    """Describe this computer, and measure its peaks.

    Parameters
    ----------
    measure : bool, default True
        Whether to measure, which takes about a second.

    Returns
    -------
    Machine
        GFLOP/s are 10⁹ float32 operations per second, of which a fused multiply-add is two; GB/s are 10⁹ bytes.

    Examples
    --------
    >>> from smelt.measure import inspect_machine
    >>> inspect_machine(measure=False).threads > 0
    True
    """
    import llvmlite
    import llvmlite.binding as llvm

    isa = host()
    folder = jit.cache_folder()
    machine = Machine(
        smelt=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        processor=processor_name(),
        simd=isa.name,
        vector_bits=isa.vector_bytes * 8,
        bfloat16=isa.bf16,
        llvm_cpu=isa.cpu,
        logical_processors=os.cpu_count() or 1,
        affinity=allowed_processors(),
        quota=workers.cpu_quota(),
        threads=workers.get_threads(),
        numpy=np.__version__,
        blas=blas_name(),
        llvmlite=llvmlite.__version__,
        llvm=".".join(map(str, llvm.llvm_version_info)),
        cache_folder=str(folder),
        cache_bytes=_bytes_in(folder),
        caches=caches(),
    )
    if measure:
        _measure(machine)
    machine.warnings += _warnings(machine)
    return machine


def _measure(machine: Machine) -> None:
    busy = busy_warning()  # before this adds to the load
    ceilings = measured_ceilings(machine.threads)
    *caches, memory = ceilings.levels
    machine.peak_gflops_one_thread = round(peak_flops(1) / 1e9, 1)
    machine.peak_gflops_all_threads = round(ceilings.flops / 1e9, 1)
    machine.peak_gflops_bfloat16 = None if ceilings.paired_flops is None else round(ceilings.paired_flops / 1e9, 1)
    machine.cache_gb_per_s = {level.name: round(level.bandwidth / 1e9, 1) for level in caches}
    machine.bandwidth_gb_per_s = round(memory.bandwidth / 1e9, 1)
    machine.numpy_matmul_gflops = round(matmul_flops() / 1e9, 1)
    machine.barrier_microseconds = round(1e6 * barrier_seconds(machine.threads), 2) if machine.threads > 1 else None
    if busy:
        machine.warnings.append(busy)
    elif machine.numpy_matmul_gflops < _SLOW_BLAS * machine.peak_gflops_all_threads:
        machine.warnings.append(
            f"NumPy's matrix product ({machine.blas}) reaches {machine.numpy_matmul_gflops:g} GFLOP/s of "
            f"{machine.peak_gflops_all_threads:g}: operations outside smelt.compile will be slow"
        )


def _warnings(machine: Machine) -> list[str]:
    """Return what is wrong with what the system says."""
    out = []
    if machine.simd == "generic":
        out.append("no AVX2 or NEON was found: training will be slow")
    if machine.blas.partition(" ")[0].lower() in _REFERENCE:
        name = "no BLAS" if machine.blas == "none" else f"a BLAS that is not made to be fast ({machine.blas})"
        out.append(f"NumPy was built with {name}: operations outside smelt.compile will be slow")
    if machine.quota is not None and machine.quota < 1:
        out.append(f"the container allows {machine.quota:g} of a processor: steps will be interrupted")
    if machine.threads > machine.affinity:
        out.append(f"{machine.threads} threads on {machine.affinity} processors will wait for each other")
    return out


def _bytes_in(folder: Path) -> int:
    """Return the bytes of the objects in the cache; other processes may remove some meanwhile."""
    total = 0
    for path in folder.glob("*.bin"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total
