"""Order: the sequence of kernels that needs the least memory at once.

In: kernels and what must run before each, on one thread. Out: the kernels in order. Where a network branches, it
matters which branch runs first; all orders are compared by dynamic programming over the sets of kernels that are
done, as long as these sets are few.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from smelt.compiler.loops import Buffer, Kernel
from smelt.compiler.passes.inplace import in_place
from smelt.compiler.passes.schedule import Task, schedule

SETS = 20_000  # of kernels that are done, before the order in which they were written must do


def order(tasks: Sequence[Task]) -> list[Kernel]:
    """Return the kernels in an order whose largest sum of buffers in use at once is smallest."""
    kernels = [k for phase in schedule(list(tasks)) for k in phase]
    number = {k: i for i, k in enumerate(kernels)}
    before = [0] * len(kernels)
    for task in tasks:
        for other, _ in task.after:
            before[number[task.kernel]] |= 1 << number[other.kernel]
    best = _search(kernels, before)
    return kernels if best is None else [kernels[i] for i in best]


def _search(kernels: Sequence[Kernel], before: Sequence[int]) -> tuple[int, ...] | None:
    users: dict[Buffer, int] = {}
    for i, k in enumerate(kernels):
        for b in k.reads | k.writes:
            if b.kind == "arena":
                users[b] = users.get(b, 0) | 1 << i
    pairs = [list(in_place(k)) for k in kernels]
    everything = (1 << len(kernels)) - 1

    def peak(done: int, i: int) -> int:
        """Return the bytes in use while kernel ``i`` runs after those that are done."""
        after = done | 1 << i
        live = {b for b, u in users.items() if (u & done and u & ~done) or u >> i & 1}
        spared = 0
        for operand, result in pairs[i]:
            if not users[operand] & ~after and result.kind == "arena" and not users[result] & done:
                spared = max(spared, result.nbytes)
        return sum(b.nbytes for b in live) - spared

    # Dijkstra's algorithm, with the largest peak on the way as the distance; ties go to the order as written.
    queue: list[tuple[int, tuple[int, ...], int]] = [(0, (), 0)]
    seen: set[int] = set()
    while queue:
        worst, path, done = heapq.heappop(queue)
        if done == everything:
            return path
        if done in seen:
            continue
        seen.add(done)
        if len(seen) > SETS:
            return None
        for i in range(len(kernels)):
            if not done >> i & 1 and not before[i] & ~done:
                heapq.heappush(queue, (max(worst, peak(done, i)), (*path, i), done | 1 << i))
    return None
