"""Bands: take a large image through several kernels a few lines at a time, so that one finds in the cache what the
other left there.

In: kernels in the order they run, for one sample in one thread. Out: runs of kernels that take turns, and for each
run the units of its kernels in order. Each kernel computes every unit once, with the same operations: no bit changes.
"""

from __future__ import annotations

from collections.abc import Sequence

from smelt.compiler.loops import Buffer, Kernel

LARGE = 1 << 19  # bytes that one kernel leaves for the next, from which on they take turns: half a second-level cache
BAND = 1 << 18  # bytes of its results that a kernel makes at most before the others have their turn
Units = list[tuple[Kernel, int, int]]


def runs(kernels: Sequence[Kernel]) -> list[list[Kernel]]:
    """Return the kernels in the same order, those together that take turns."""
    out: list[list[Kernel]] = []
    for kernel in kernels:
        if out and _links(out[-1], kernel):
            out[-1].append(kernel)
        else:
            out.append([kernel])
    return out


def _links(run: list[Kernel], kernel: Kernel) -> bool:
    """Return whether a kernel can take turns with those before it, and reads something large of the last one."""
    sweep, last = kernel.sweep, run[-1]
    if sweep is None or any(k.sweep is None for k in run):
        return False
    passed = [(k, b) for k in run for b in k.writes & kernel.reads if b.kind == "arena"]
    once = all(sum(b in k.writes for k in run) == 1 for _, b in passed)
    known = all(b in sweep.reads for _, b in passed) and not any(kernel.writes & (k.writes | k.reads) for k in run)
    return once and known and any(k is last and b.nbytes >= LARGE for k, b in passed)


def turns(run: Sequence[Kernel]) -> Units:
    """Return which units of which kernel come one after the other.

    Bands of the last kernel's results decide; each kernel before it first makes what they need.
    """
    done = dict.fromkeys(run, 0)
    writer: dict[Buffer, Kernel] = {b: k for k in run for b in k.writes}
    out: Units = []

    def advance(kernel: Kernel, steps: int) -> None:
        sweep = kernel.sweep
        assert sweep is not None
        steps = min(steps, sweep.steps)
        if steps <= done[kernel]:
            return
        for buffer, (stride, reach) in sweep.reads.items():
            before = writer.get(buffer)
            if before is not None:
                lines = (-(-min(steps * sweep.pixels, sweep.total) // sweep.width) - 1) * stride + reach
                theirs = before.sweep
                assert theirs is not None
                advance(before, -(-lines * theirs.width // theirs.pixels))
        out.append((kernel, done[kernel] * sweep.units, steps * sweep.units))
        done[kernel] = steps

    last = run[-1]
    assert last.sweep is not None
    most = max(sum(b.nbytes for b in k.writes) for k in run)
    count = min(last.sweep.steps, -(-most // BAND))
    for i in range(1, count + 1):
        advance(last, last.sweep.steps * i // count)
    for kernel in run:  # lines that nobody reads
        advance(kernel, kernel.sweep.steps if kernel.sweep else 0)
    return out
