"""Profile: how long each kernel of a compiled step takes, inside of the real step.

In: a compiled function and its arguments. Out: a :class:`Profile`: per kernel the time of the slowest thread, the rate
of its multiply-adds, and the time threads wait at barriers. The step that is measured is the step that runs, with one
read of the cycle counter after every kernel and barrier.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from smelt.compiler import jit
from smelt.compiler.emit.llvm import CTX_STAMPS
from smelt.compiler.isa import host
from smelt.compiler.program import module_text
from smelt.runtime import workers
from smelt.runtime.step import Compiled


@dataclass(frozen=True)
class KernelTime:
    """One kernel: its name, what was fused into it, microseconds per step, and GFLOP/s of its MACs (2 FLOPs each)."""

    name: str
    note: str
    phase: int
    microseconds: float
    gflops: float
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Profile:
    """Times of one step, medians over the measured steps."""

    kernels: tuple[KernelTime, ...]
    waiting_microseconds: float
    step_microseconds: float
    threads: int

    def __str__(self) -> str:
        rows = [f"{self.step_microseconds:9.1f} us per step, {self.threads} threads"]
        rows.append(f"{self.waiting_microseconds:9.1f} us waiting at barriers (mean over threads)")
        for k in sorted(self.kernels, key=lambda k: -k.microseconds):
            rate = f"{k.gflops:7.1f} GFLOP/s" if k.gflops else " " * 15
            rows.append(f"{k.microseconds:9.1f} us {rate}  phase {k.phase:<3} {k.name}  ({k.note})")
        return "\n".join(rows)


def profile(step: Compiled, *args: Any, steps: int = 50, **kwargs: Any) -> Profile:
    """Run a compiled function ``steps`` times and return where its time goes.

    The function does what it always does: a training step trains.

    Parameters
    ----------
    step : Compiled
        From :func:`smelt.compile`.
    *args, **kwargs
        Passed on at every call.
    steps : int, default 50
        Measured steps, after five that are not.

    Returns
    -------
    Profile
        Printable, one line per kernel, slowest first.

    Examples
    --------
    >>> import numpy as np, smelt
    >>> from smelt.measure.profile import profile
    >>> double = smelt.compile(lambda x: x * 2.0)
    >>> print(profile(double, np.ones((8, 8), np.float32), steps=3).kernels[0].name)
    k0_mul
    """
    step(*args, **kwargs)
    lowered = step.lowered()
    image = jit.compile_object(module_text(lowered, host(), stamps=True), host())
    library = jit.Library(image, ("step",))
    threads = workers.get_threads()
    count = len(lowered.kernels) + len(lowered.phases)
    stamps = np.zeros((threads, count), np.int64)
    records = []
    with step.replaced(library.address["step"]) as table:
        table[CTX_STAMPS // 8] = stamps.ctypes.data
        for i in range(steps + 5):
            step(*args, **kwargs)
            if i >= 5:
                records.append(np.diff(stamps, axis=1))
        table[CTX_STAMPS // 8] = 0
    rate = _ticks_per_microsecond()
    spans = np.median(np.stack(records), axis=0) / rate  # (threads, count - 1) microseconds
    slow = spans.max(axis=0)
    times, waiting, at = [], 0.0, 0
    for phase, kernels in enumerate(lowered.phases):
        if phase:
            waiting += float(spans[:, at].mean())
            at += 1
        for k in kernels:
            us = float(slow[at])
            times.append(KernelTime(k.name, k.note, phase, us, 2e-3 * k.macs / us if us else 0.0, k.lines))
            at += 1
    whole = float(np.median([r.sum(axis=1).max() for r in records])) / rate
    return Profile(tuple(times), waiting, whole, threads)


def _ticks_per_microsecond() -> float:
    """Return the rate of the cycle counter, measured against the clock over 20 ms."""
    text = (
        f'target triple = "{host().triple}"\n'
        "define i64 @now() {\n  %t = call i64 @llvm.COUNTER()\n  ret i64 %t\n}\ndeclare i64 @llvm.COUNTER()\n"
    )
    counter = "readcyclecounter" if host().triple.startswith("x86_64") else "readsteadycounter"
    import ctypes

    library = jit.Library(jit.compile_object(text.replace("COUNTER", counter), host()), ("now",))
    now = ctypes.CFUNCTYPE(ctypes.c_int64)(library.address["now"])
    start, ticks = time.perf_counter(), now()
    time.sleep(0.02)
    return (now() - ticks) / ((time.perf_counter() - start) * 1e6)
