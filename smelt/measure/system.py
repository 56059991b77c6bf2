"""What the system says of this computer: nothing in; its processor, caches, load and NumPy's BLAS out."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

_CPU = Path("/sys/devices/system/cpu/cpu0/cache")
_BUSY = 0.4  # of the processors; above it measuring says little


def allowed_processors() -> int:
    """Return the processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def busy_warning() -> str:
    """Return a warning when so much other work ran that measuring says little, or an empty string."""
    busy = load()
    if busy <= _BUSY * allowed_processors():
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
