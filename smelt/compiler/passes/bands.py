"""Bands: take a large image through several kernels a few lines at a time, so that one finds in the cache what the
other left there.

In: kernels in the order they run on one sample. Out: runs of kernels that take turns, and for every thread the units of
a run's kernels in order. Each kernel computes every unit once, with the same operations: no bit changes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from smelt.compiler.loops import Kernel, Sweep

LARGE = 1 << 19  # bytes that one kernel leaves for the next, from which on they take turns: half a second-level cache
BAND = 1 << 18  # bytes of its results that a kernel makes at most before the others have their turn
Units = list[tuple[Kernel, int, int]]
Steps = dict[Kernel, int]


def runs(phases: Sequence[list[Kernel]]) -> list[list[Kernel]]:
    """Return the phases, those of single kernels that take turns as one."""
    out: list[list[Kernel]] = []
    open_run = False
    for phase in phases:
        if open_run and len(phase) == 1 and _links(out[-1], phase[0]):
            out[-1].append(phase[0])
        else:
            out.append(list(phase))
            open_run = len(phase) == 1
    return out


def takes_turns(phase: Sequence[Kernel]) -> bool:
    """Return whether a phase is a run: its kernels read each other's results."""
    return any(b.writes & a.reads for i, a in enumerate(phase) for b in phase[:i] if a.sweep and b.sweep)


def _links(run: list[Kernel], kernel: Kernel) -> bool:
    """Return whether a kernel can take turns with those before it, and reads something large of the last one."""
    sweep, last = kernel.sweep, run[-1]
    if sweep is None or any(k.sweep is None for k in run):
        return False
    passed = [(k, b) for k in run for b in k.writes & kernel.reads if b.kind == "arena"]
    once = all(sum(b in k.writes for k in run) == 1 for _, b in passed)
    known = all(b in sweep.reads for _, b in passed) and not any(kernel.writes & (k.writes | k.reads) for k in run)
    return once and known and any(k is last and b.nbytes >= LARGE for k, b in passed)


def turns(run: Sequence[Kernel], threads: int = 1) -> list[tuple[Units, Units]]:
    """Return for every thread the units it does in turn, and those it does when all have done so.

    Threads share the lines of the last kernel's results; each also makes what those need and no thread before it does.
    Lines that need some of the thread before it wait. Threads for which there are too few lines get nothing.
    """
    for busy in range(min(threads, _sweep(run[-1]).steps), 0, -1):
        found = _shared(run, busy)
        if found is not None:
            return found + [([], [])] * (threads - busy)
    raise AssertionError("one thread can do all lines")


def _shared(run: Sequence[Kernel], threads: int) -> list[tuple[Units, Units]] | None:
    """Return the turns of so many threads, or None where one would wait for what another does last."""
    last = run[-1]
    ends = [_needs(run, last, _sweep(last).steps * t // threads) for t in range(threads)]
    ends.append({k: _sweep(k).steps for k in run})
    out: list[tuple[Units, Units]] = []
    before: Steps = dict.fromkeys(run, 0)
    for low, high in itertools.pairwise(ends):
        begin: Steps = {}
        for kernel in run:
            step = low[kernel]
            while step < high[kernel] and any(
                first < begin[k] for k, first in _reads(run, kernel, step, upper=False) if low is not ends[0]
            ):
                step += 1
            begin[kernel] = step
            if any(first < before[k] for k, first in _reads(run, kernel, low[kernel], upper=False)):
                return None
        first = _in_turn(run, begin, high)
        second = [(k, low[k] * _sweep(k).units, begin[k] * _sweep(k).units) for k in run if low[k] < begin[k]]
        out.append((first, second))
        before = begin
    return out


def _in_turn(run: Sequence[Kernel], begin: Steps, end: Steps) -> Units:
    """Return the units from ``begin`` to ``end``: bands of the last kernel, each after what it needs of the others."""
    done = dict(begin)
    out: Units = []

    def advance(kernel: Kernel, step: int) -> None:
        if step > done[kernel]:
            units = _sweep(kernel).units
            out.append((kernel, done[kernel] * units, step * units))
            done[kernel] = step

    last = run[-1]
    most = max(sum(b.nbytes for b in k.writes) * (end[k] - begin[k]) // _sweep(k).steps for k in run)
    count = max(1, min(end[last] - begin[last], -(-most // BAND)))
    for i in range(1, count + 1):
        needs = _needs(run, last, begin[last] + (end[last] - begin[last]) * i // count)
        for kernel in run:
            advance(kernel, min(needs[kernel], end[kernel]) if i < count else end[kernel])
    return out


def _needs(run: Sequence[Kernel], last: Kernel, steps: int) -> Steps:
    """Return how many steps of each kernel the first ``steps`` of the last one need."""
    out: Steps = {**dict.fromkeys(run, 0), last: steps}
    for kernel in reversed(run):
        if out[kernel]:
            for k, end in _reads(run, kernel, out[kernel] - 1, upper=True):
                out[k] = max(out[k], end)
    return out


def _reads(run: Sequence[Kernel], kernel: Kernel, step: int, upper: bool) -> list[tuple[Kernel, int]]:
    """Return the kernels a step reads from, with the first of their steps that it needs, or where those end."""
    s = _sweep(kernel)
    pixel = min((step + 1) * s.pixels, s.total) - 1 if upper else step * s.pixels
    out = []
    for buffer, (stride, first, reach) in s.reads.items():
        for k in run:
            if buffer in k.writes:
                theirs = _sweep(k)
                line = max(pixel // s.width * stride + (reach if upper else first), 0)
                at = line * theirs.width
                out.append((k, min(-(-at // theirs.pixels), theirs.steps) if upper else at // theirs.pixels))
    return out


def _sweep(kernel: Kernel) -> Sweep:
    assert kernel.sweep is not None
    return kernel.sweep
