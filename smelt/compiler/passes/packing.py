"""Packing: where blocks of memory lie that are in use at known times, so that those in use together never overlap.

In: sizes with the first and last moment of use. Out: offsets and the total, which is the smallest possible wherever
the search comes to its end. First come greedy placements in several orders; if none reaches the largest sum in use at
one moment, which nothing can beat, a branch-and-bound search follows (after Moffitt, "MiniMalloc", 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

NODES = 50_000  # of the search tree, before the best so far must do


@dataclass(frozen=True)
class Block:
    """``size`` of memory, in use from moment ``first`` to ``last``, both included."""

    size: int
    first: int
    last: int

    def meets(self, other: Block) -> bool:
        """Return whether both are in use at some moment."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Packing:
    """Offsets in the order of the blocks; ``proven`` when no packing is smaller."""

    offsets: tuple[int, ...]
    total: int
    proven: bool


def bound(blocks: Sequence[Block]) -> int:
    """Return the largest sum of sizes in use at one moment."""
    return max((sum(b.size for b in blocks if b.first <= t <= b.last) for t in {b.first for b in blocks}), default=0)


def greedy(blocks: Sequence[Block], key: Callable[[Block], tuple]) -> Packing:
    """Return the packing that places blocks in the order of ``key``, each at the lowest offset that is free."""
    offsets = [0] * len(blocks)
    placed: list[int] = []
    for i in sorted(range(len(blocks)), key=lambda i: (key(blocks[i]), i)):
        low = 0
        for j in sorted(placed, key=lambda j: offsets[j]):
            if blocks[j].meets(blocks[i]) and offsets[j] < low + blocks[i].size:
                low = max(low, offsets[j] + blocks[j].size)
        offsets[i] = low
        placed.append(i)
    return Packing(tuple(offsets), max((o + b.size for o, b in zip(offsets, blocks, strict=True)), default=0), False)


ORDERS: tuple[Callable[[Block], tuple], ...] = (
    lambda b: (-b.size, b.first),
    lambda b: (b.first, -b.size),
    lambda b: (b.first - b.last, -b.size),
    lambda b: (-b.size * (b.last - b.first + 1),),
)


def pack(blocks: Sequence[Block]) -> Packing:
    """Return the smallest packing found.

    Examples
    --------
    >>> from smelt.compiler.passes.packing import Block, pack
    >>> pack([Block(4, 0, 1), Block(2, 1, 2), Block(3, 2, 3)])
    Packing(offsets=(0, 4, 0), total=6, proven=True)
    """
    least = bound(blocks)
    best = min((greedy(blocks, key) for key in ORDERS), key=lambda p: p.total)
    if best.total > least:
        search = _Search(blocks, best)
        search.run()
        return Packing(search.best.offsets, search.best.total, search.best.total == least or search.nodes <= NODES)
    return Packing(best.offsets, best.total, True)


class _Search:
    """Places blocks in the order of their offsets, each on top of those it meets."""

    def __init__(self, blocks: Sequence[Block], best: Packing) -> None:
        moments = sorted({b.first for b in blocks})  # a new sum begins only where a block does
        number = {t: i for i, t in enumerate(moments)}
        self.spans = [range(number[b.first], sum(t <= b.last for t in moments)) for b in blocks]
        self.blocks, self.best, self.least, self.nodes = blocks, best, bound(blocks), 0
        self.offsets = [0] * len(blocks)
        self.tops = [0] * len(moments)  # how high each moment is filled
        self.waiting = [
            sum(b.size for b, s in zip(blocks, self.spans, strict=True) if t in s) for t in range(len(moments))
        ]

    def run(self) -> None:
        """Search until the bound is met, all is tried, or the nodes are used up."""
        self._place(frozenset(range(len(self.blocks))), 0)

    def _place(self, left: frozenset[int], low: int) -> bool:
        """Try every block that may come next; return whether the search is over."""
        self.nodes += 1
        if self.nodes > NODES:
            return True
        if not left:
            self.best = Packing(tuple(self.offsets), max(self.tops), False)
            return self.best.total == self.least
        if any(top + rest >= self.best.total for top, rest in zip(self.tops, self.waiting, strict=True) if rest):
            return False
        at = {i: max(low, *(self.tops[t] for t in self.spans[i])) for i in left}
        lowest_end = min(at[i] + self.blocks[i].size for i in left)
        for i in sorted(left, key=lambda i: (at[i], -self.blocks[i].size)):
            if at[i] >= lowest_end or at[i] + self.blocks[i].size >= self.best.total:
                continue  # something fits below it first, or it leads to nothing better
            before = [self.tops[t] for t in self.spans[i]]
            self.offsets[i] = at[i]
            for t in self.spans[i]:
                self.tops[t] = at[i] + self.blocks[i].size
                self.waiting[t] -= self.blocks[i].size
            over = self._place(left - {i}, at[i])
            for t, top in zip(self.spans[i], before, strict=True):
                self.tops[t] = top
                self.waiting[t] += self.blocks[i].size
            if over:
                return True
        return False
