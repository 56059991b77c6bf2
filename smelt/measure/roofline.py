"""Roofline: how near kernels come to what this machine can do, and which of its limits they meet.

In: a kernel's time, operations and bytes. Out: the ceiling above it, and the share of it that is reached (Williams,
Waterman and Patterson, "Roofline: an insightful visual performance model", 2009). The ceilings are measured here: fused
multiply-adds in registers, and the bandwidth of each cache and of the memory.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from smelt.compiler.isa import host
from smelt.measure.peaks import bandwidth, cache_bandwidth, peak_flops
from smelt.measure.system import caches

LEAST = 0.25  # of a ceiling; a kernel that reaches less of either is held up by something else
_FREE = 0.75  # of a cache; the rest holds code, stacks and what other programs do


@dataclass(frozen=True)
class Level:
    """A cache, or the memory: the bytes it holds for all threads together (None: any), and its bytes per second."""

    name: str
    bytes: int | None
    bandwidth: float


class Place(NamedTuple):
    """What bounds a kernel, the share of that ceiling it reaches, and the level most of its time with data goes to.

    The bound is "compute", "memory", or "latency" where it is far from both: loops too short, operations that wait for
    each other, too few units of work, a start that costs more than the work.
    """

    bound: str
    of_peak: float
    level: str


@dataclass(frozen=True)
class Ceilings:
    """What the machine reaches with some threads.

    ``flops`` are operations per second of fused multiply-adds, ``paired_flops`` those of sums of products of pairs of
    bfloat16, where there is an instruction for them; ``levels`` of memory come with the fastest first.
    """

    threads: int
    flops: float
    levels: tuple[Level, ...]
    paired_flops: float | None = None

    def level(self, nbytes: int) -> Level:
        """Return the fastest level that holds ``nbytes``, beside other things."""
        return next((v for v in self.levels if v.bytes is None or nbytes <= _FREE * v.bytes), self.levels[-1])

    def place(
        self, seconds: float, flops: int, moved: Sequence[tuple[int, int]], threads: int, paired: int = 0
    ) -> Place:
        """Return what bounds a kernel.

        Parameters
        ----------
        seconds : float
            Its time.
        flops : int
            Operations it executes.
        moved : sequence of (int, int)
            Bytes it moves, and how many were moved since these were last touched: the level that holds as many is the
            one they come from.
        threads : int
            Threads that have a share of it; the ceiling of operations is theirs.
        paired : int, default 0
            How many of the operations are those of products of pairs of bfloat16.

        Examples
        --------
        >>> machine = Ceilings(2, 100e9, (Level("L2", 1 << 20, 200e9), Level("memory", None, 50e9)))
        >>> machine.place(1e-3, 75_000_000, [(1000, 0)], 2)
        Place(bound='compute', of_peak=0.75, level='L2')
        >>> machine.place(1e-3, 1000, [(40_000_000, 50_000_000)], 2)
        Place(bound='memory', of_peak=0.8, level='memory')
        >>> machine.place(1e-3, 1000, [(1000, 1000)], 2).bound
        'latency'
        """
        times: dict[str, float] = {}
        for nbytes, distance in moved:
            level = self.level(distance)
            times[level.name] = times.get(level.name, 0.0) + nbytes / level.bandwidth
        arithmetic = (flops - paired) / self.flops + paired / (self.paired_flops or self.flops)
        compute = arithmetic * self.threads / max(threads, 1)
        memory = sum(times.values())
        share = max(compute, memory) / seconds if seconds else 0.0
        bound = "latency" if share < LEAST else ("compute" if compute >= memory else "memory")
        return Place(bound, share, max(times, key=times.__getitem__, default=self.levels[0].name))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values, in GFLOP/s and GB/s."""
        levels = [{"name": v.name, "bytes": v.bytes, "gb_per_s": round(v.bandwidth / 1e9, 1)} for v in self.levels]
        paired = None if self.paired_flops is None else round(self.paired_flops / 1e9, 1)
        return {"threads": self.threads, "gflops": round(self.flops / 1e9, 1), "gflops_bf16": paired, "levels": levels}

    def __str__(self) -> str:
        levels = ", ".join(f"{v.name} {v.bandwidth / 1e9:.0f}" for v in self.levels)
        return f"{self.flops / 1e9:.0f} GFLOP/s; {levels} GB/s"


@functools.cache
def measured_ceilings(threads: int) -> Ceilings:
    """Measure the ceilings for a number of threads, once in a process; it takes about a second."""
    found = [c for c in caches() if c["kind"] != "instruction" and c["level"] > 1]
    last = max((c["bytes"] for c in found), default=0)
    levels = []
    for cache in found:
        size = cache["bytes"] * -(-threads // (cache["shared_by"] or 1))
        levels.append(Level(f"L{cache['level']}", size, cache_bandwidth(threads, size)))
    levels.append(Level("memory", None, bandwidth(threads, last)))
    paired = peak_flops(threads, paired=True) if host().bf16 else None
    return Ceilings(threads, peak_flops(threads), tuple(levels), paired)
