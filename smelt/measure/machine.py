"""The computer at hand: nothing in; its processor, caches, threads, libraries and measured peaks out.

What the system says is asked for here; what the processor reaches is measured by :mod:`smelt.measure.peaks`.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from smelt._version import __version__
from smelt.compiler import jit
from smelt.compiler.isa import host
from smelt.measure.peaks import bandwidth, matmul_flops, peak_flops
from smelt.runtime import workers

_CPU = Path("/sys/devices/system/cpu/cpu0/cache")
_BUSY = 0.4  # of the processors; above it measuring says little
_SLOW_BLAS = 0.2  # of the measured peak; below it NumPy's matrix product is called slow


@dataclass
class Machine:
    """What :func:`inspect_machine` found; None where the system does not say."""

    smelt: str
    python: str
    system: str
    processor: str
    simd: str
    vector_bits: int
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
    bandwidth_gb_per_s: float | None = None
    numpy_matmul_gflops: float | None = None
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
        llvm_cpu=isa.cpu,
        logical_processors=os.cpu_count() or 1,
        affinity=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        quota=cpu_quota(),
        threads=workers.get_threads(),
        numpy=np.__version__,
        blas=blas_name(),
        llvmlite=llvmlite.__version__,
        llvm=".".join(map(str, llvm.llvm_version_info)),
        cache_folder=str(folder),
        cache_bytes=_bytes_in(folder),
        caches=caches(),
    )
    if isa.name == "generic":
        machine.warnings.append("no AVX2 or NEON was found: training will be slow")
    if measure:
        last = max((c["bytes"] for c in machine.caches), default=0)
        machine.peak_gflops_one_thread = round(peak_flops(1) / 1e9, 1)
        machine.peak_gflops_all_threads = round(peak_flops(machine.threads) / 1e9, 1)
        machine.bandwidth_gb_per_s = round(bandwidth(machine.threads, last) / 1e9, 1)
        machine.numpy_matmul_gflops = round(matmul_flops() / 1e9, 1)
        busy = busy_warning()
        if busy:
            machine.warnings.append(busy)
        elif machine.numpy_matmul_gflops < _SLOW_BLAS * machine.peak_gflops_all_threads:
            machine.warnings.append(
                f"NumPy's matrix product ({machine.blas}) reaches {machine.numpy_matmul_gflops:g} GFLOP/s of "
                f"{machine.peak_gflops_all_threads:g}: operations outside smelt.compile will be slow"
            )
    if machine.blas == "none":
        machine.warnings.append("NumPy was built without a BLAS: operations outside smelt.compile will be slow")
    return machine


def _bytes_in(folder: Path) -> int:
    """Return the bytes of the objects in the cache; other processes may remove some meanwhile."""
    total = 0
    for path in folder.glob("*.bin"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total


# --- what the system says ------------------------------------------------------------------------------------------


def _sysctl(name: str) -> str:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=5)
        return done.stdout.strip() if done.returncode == 0 else ""
    return ""


def processor_name() -> str:
    """Return the processor's name as the system gives it."""
    if sys.platform == "darwin":
        return _sysctl("machdep.cpu.brand_string") or platform.processor() or "unknown"
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        found = re.search(r"^(?:model name|Hardware|cpu model)\s*:\s*(.+)$", text, re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine() or "unknown"


def caches() -> list[dict[str, Any]]:
    """Return level, kind, bytes, line and sharing logical processors of each cache of the first processor."""
    out: list[dict[str, Any]] = []
    if sys.platform == "darwin":
        for level, kind, name in (
            (1, "data", "l1dcachesize"),
            (1, "instruction", "l1icachesize"),
            (2, "unified", "l2cachesize"),
            (3, "unified", "l3cachesize"),
        ):
            size = _sysctl(f"hw.perflevel0.{name}") or _sysctl(f"hw.{name}")
            if size.isdigit() and int(size):
                line = _sysctl("hw.cachelinesize")
                out.append(
                    {"level": level, "kind": kind, "bytes": int(size), "line": int(line or 0), "shared_by": None}
                )
        return out
    for index in sorted(_CPU.glob("index[0-9]*")):
        with contextlib.suppress(OSError, ValueError):
            read = {n: (index / n).read_text().strip() for n in ("level", "type", "size", "shared_cpu_list")}
            unit = {"K": 1 << 10, "M": 1 << 20}.get(read["size"][-1], 1)
            line_file = index / "coherency_line_size"
            out.append(
                {
                    "level": int(read["level"]),
                    "kind": read["type"].lower(),
                    "bytes": int(read["size"].rstrip("KM")) * unit,
                    "line": int(line_file.read_text()) if line_file.exists() else 0,
                    "shared_by": _count_list(read["shared_cpu_list"]),
                }
            )
    return out


def _count_list(text: str) -> int:
    """Return how many processors ``0-3,8`` names."""
    ends = [part.split("-") for part in text.split(",") if part]
    return sum(int(e[-1]) - int(e[0]) + 1 for e in ends)


def cpu_quota() -> float | None:
    """Return the processors a container's quota allows, or None without one."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        folder = Path("/sys/fs/cgroup/cpu")
        limit = int((folder / "cpu.cfs_quota_us").read_text())
        return None if limit <= 0 else limit / int((folder / "cpu.cfs_period_us").read_text())
    return None


def busy_warning() -> str:
    """Return a warning when so much other work ran that measuring says little, or an empty string."""
    busy, processors = load(), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if busy <= _BUSY * processors:
        return ""
    return f"other work ran in the last minute (load {busy:.1f}): what was measured may be too low"


def load() -> float:
    """Return how many processors were busy in the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def blas_name() -> str:
    """Return the BLAS NumPy was built with and its version, or "none"."""
    config = np.show_config(mode="dicts")
    found = (config or {}).get("Build Dependencies", {}).get("blas", {})
    if not found.get("found"):
        return "none"
    return f"{found.get('name', 'unknown')} {found.get('version', '')}".strip()
