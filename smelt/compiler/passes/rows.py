"""Rows: take a few samples of a batch through the kernels of a phase, so that one finds in the cache what another left.

In: the kernels of a phase. Out: how a phase cuts the batch among threads, and which of its kernels take turns on how
many rows. Each computes every row once, with the same operations: no bit changes.

Kernels over rows of the batch cut it evenly. Where a kernel of the phase sums fixed slices of the batch, all cut it
between slices: a thread then sums what it wrote.

What only kernels that take turns touch is gone after each turn: it needs a place for the rows of one turn, in every
thread, not for the batch. The address passed to the kernels moves back by the rows before the turn, so that these are
the same code.
"""

from __future__ import annotations

from collections.abc import Sequence

from smelt.compiler.loops import Buffer, If, Instr, Kernel, Loop, Stmt
from smelt.compiler.passes.layout import Storage
from smelt.compiler.passes.storage import Plan
from smelt.graph.graph import Node

LARGE = 1 << 19  # bytes that one kernel leaves for another, from which on they take turns: half a second-level cache
TURN = 1 << 19  # bytes that the kernels touch in a turn, of what follows the batch
HEAVY = 1 << 18  # bytes a kernel reads beside, from which on turns must be long enough to read them again in each
MACS_PER_BYTE = 4  # of what is read beside, which is then read at 15 GB/s by a thread at its peak
TURNS = 8  # of a batch, at least, where turns are long


def slices_of(phase: Sequence[Kernel]) -> int:
    """Return into how many slices a phase cuts the batch, or 0 where it cuts between any two rows."""
    return min((k.range.slices for k in phase if k.range.slices), default=0)


def together(phase: Sequence[Kernel], capacity: int) -> list[list[Kernel]]:
    """Return the kernels of a phase in order, those together that take turns."""
    out: list[list[Kernel]] = []
    for kernel in phase:
        if out and _follows_batch(out[-1][0], capacity) and _follows_batch(kernel, capacity):
            out[-1].append(kernel)
        else:
            out.append([kernel])
    return [group for run in out for group in ([run] if _passes_on(run) else [[k] for k in run])]


def has_own_places(kernels: Sequence[Kernel]) -> bool:
    """Return whether kernels touch what each thread has a place of its own for."""
    return any(b.turn for k in kernels for b in k.reads | k.writes)


def in_turn(run: Sequence[Kernel], capacity: int, cut: int) -> int:
    """Return how many rows each kernel of a run does in a turn, or how many of the ``cut`` slices of its phase."""
    if cut:
        return -(-_least_rows(run, capacity) * cut // capacity)
    touched: set[Buffer] = set().union(*(k.aligned for k in run))
    return max(_least_rows(run, capacity), TURN * capacity // max(sum(b.nbytes for b in touched), 1))


def give_own_places(phases: Sequence[Sequence[Kernel]], plan: Plan, capacity: int) -> None:
    """Give each thread a place of its own for what only kernels that take turns touch, and only at their own rows."""
    users: dict[Buffer, set[Kernel]] = {}
    for kernel in (k for phase in phases for k in phase):
        for buffer in kernel.reads | kernel.writes:
            users.setdefault(buffer, set()).add(kernel)
    rows = _row_elements(plan, capacity)
    for phase in phases:
        cut = slices_of(phase)
        for run in (r for r in together(phase, capacity) if len(r) > 1):
            turn = -(-in_turn(run, capacity, cut) * capacity // (cut or capacity))
            for buffer in set[Buffer]().union(*(k.aligned for k in run)):
                mine = all(k in run and buffer in k.aligned for k in users[buffer])
                if mine and rows.get(buffer) and turn < capacity:
                    buffer.row, buffer.turn = rows[buffer], turn
                    for kernel in run:
                        _drop_prefetches(kernel.body, buffer)


def _row_elements(plan: Plan, capacity: int) -> dict[Buffer, int]:
    """Return how many elements of each arena buffer a row of the batch has; 0 where they do not lie together."""
    out: dict[Buffer, int] = {}
    stored = [*plan.storage.items(), *(pair for pairs in plan.stores.values() for pair in pairs)]
    for node, storage in stored:
        if storage.buffer.kind == "arena":
            found = _row_of(node, storage, capacity)
            out[storage.buffer] = found if out.get(storage.buffer, found) == found else 0
    return out


def _row_of(node: Node, storage: Storage, capacity: int) -> int:
    rows = node.spec.rows
    if rows is None or rows.per != 1 or not capacity or storage.pair == rows.axis or storage.panel is not None:
        return 0
    row = storage.strides[rows.axis]
    others = [(d - 1) * s for a, (d, s) in enumerate(zip(node.shape, storage.strides, strict=True)) if a != rows.axis]
    inside = all(s >= 0 for s in storage.strides) and storage.offset + sum(others) < row
    return row if inside and row * capacity == storage.buffer.size else 0


def _drop_prefetches(body: list[Stmt], buffer: Buffer) -> None:
    """Ask no more for rows of the next turn, which will lie where those of this one do."""
    body[:] = [s for s in body if not (isinstance(s, Instr) and s.op == "prefetch" and s.imm[0] is buffer)]
    for s in body:
        if isinstance(s, (Loop, If)):
            _drop_prefetches(s.body, buffer)


def _follows_batch(kernel: Kernel, capacity: int) -> bool:
    follows = kernel.range.rows or kernel.range.slices > 0
    return follows and (_beside(kernel) <= HEAVY or _least_rows([kernel], capacity) * TURNS <= capacity)


def _beside(kernel: Kernel) -> int:
    """Return the bytes a kernel reads that do not follow the batch; its own sums are those of one slice in a turn."""
    return sum(b.nbytes for b in kernel.reads - kernel.aligned - kernel.writes)


def _least_rows(run: Sequence[Kernel], capacity: int) -> int:
    """Return how many rows a turn needs at least, for products that hide the reading of what is beside the batch."""
    heavy = [k for k in run if _beside(k) > HEAVY]
    return max((-(-_beside(k) * MACS_PER_BYTE * capacity // max(k.macs, 1)) for k in heavy), default=1)


def _passes_on(run: Sequence[Kernel]) -> bool:
    return any(
        buffer.nbytes >= LARGE
        for i, kernel in enumerate(run)
        for before in run[:i]
        for buffer in before.writes & kernel.reads & kernel.aligned
    )


def units_of(
    phase: Sequence[Kernel], rows: int, thread: int, threads: int, capacity: int
) -> list[tuple[Kernel, int, int]]:
    """Return what a thread does of a phase, in order: the units of each kernel, as the emitted code shares them."""
    out = []
    cut = slices_of(phase)
    first, last = cut * thread // threads, cut * (thread + 1) // threads

    def share(kernel: Kernel) -> tuple[int, int]:
        if kernel.range.caller:
            return 0, kernel.range.const if thread == 0 else 0
        if cut and kernel.range.rows:
            return rows * first // cut, rows * last // cut
        if cut and kernel.range.slices:
            return kernel.range.const // cut * first, kernel.range.const // cut * last
        units = kernel.range.units(rows)
        return units * thread // threads, units * (thread + 1) // threads

    for run in together(phase, capacity):
        turn = in_turn(run, capacity, cut) if len(run) > 1 else 0
        if len(run) == 1:
            out.append((run[0], *share(run[0])))
        elif cut:
            for s in range(first, last, turn):
                after = min(s + turn, last)
                for k in run:
                    each = k.range.const // cut
                    inside = (rows * s // cut, rows * after // cut) if k.range.rows else (s * each, after * each)
                    out.append((k, *inside))
        else:
            low, high = share(run[0])
            out += [(k, r, min(r + turn, high)) for r in range(low, high, turn) for k in run]
    return [(k, lo, hi) for k, lo, hi in out if lo < hi]
