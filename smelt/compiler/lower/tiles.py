"""Choose how many rows and vectors of results a micro-kernel holds in registers.

In: the size of a result and the processor's registers. Out: a :class:`Tile`. The cost model counts cycles of the
innermost loop; it is exact enough that its best tile is the best or close to it in measurements.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Callable
from dataclasses import dataclass

MULTIPLY_ADD, DOT = 4.0, 6.0  # cycles until the result of a multiply-add, or of a product of pairs, can be added to
WIDEST = 6  # vectors of a tile
RANKS = 4  # tiles of one contraction that are told apart, the best first
LOAD = 0.1  # cycles that a load costs beside its slot


@dataclass(frozen=True)
class Tile:
    """Rows and vectors of results held in registers: ``high`` steps of the second row axis by ``wide`` of the last."""

    high: int
    wide: int
    vectors: int


def most_rows(vectors: int, registers: int) -> int:
    """Return how many rows of ``vectors`` results fit in the registers beside a vector of b and one of a."""
    return max(1, (registers - vectors - (0 if vectors == 1 else 1)) // vectors - (vectors == 1) * 3)


def choose_tile(
    rows: int,
    above: int,
    vectors: int,
    registers: int,
    latency: float = MULTIPLY_ADD,
    window: int = 1,
    rank: int = 0,
    whole: bool = False,
) -> Tile:
    """Return the tile with the least estimated time for ``rows`` (times ``above``) by ``vectors`` results.

    A row may be a ``window`` of so many pixels. Of ``rank`` 1 is the next best tile, and so on. A ``whole`` one has all
    vectors.
    """
    found = _contraction(rows, above, vectors, registers, latency, window, whole)
    return found[min(rank, len(found) - 1)][1]


def choose_panel(rows: int, vectors: int, registers: int) -> int:
    """Return how many vectors wide equal panels of ``vectors`` in all are, for the least estimated time."""
    widths = [v for v in range(1, min(vectors, WIDEST) + 1) if vectors % v == 0]
    return min(reversed(widths), key=lambda v: _contraction(rows, 1, v, registers, MULTIPLY_ADD, 1)[0][0] / v)


@functools.cache
def _contraction(
    rows: int, above: int, vectors: int, registers: int, latency: float, window: int, whole: bool = False
) -> list[tuple[float, Tile]]:
    """Return the best tiles of a dense contraction, and the cycles each is estimated to take for one step of the ks.

    One step of the ks costs the larger of: multiply-adds at two per cycle, loads at two per cycle, and the cycles of
    ``latency`` that an accumulator waits for its own result. Loads cost a little beside: they do not all hit the first
    cache (64 x 6272 x 128, one thread: tiles of 6 x 4 run at 240, of 4 x 2 at 200 GFLOP/s).
    """

    def cost(h: int, w: int, v: int) -> float:
        pixels = h * w * window
        loads = pixels + v
        return max(pixels * v / 2, loads / 2, latency) + LOAD * loads

    widths = range(vectors if whole else 1, min(vectors, WIDEST) + 1)
    limits = {v: most_rows(v, registers) // window for v in widths if v == 1 or most_rows(v, registers) >= window}
    return _cheapest(rows, above, vectors, limits, cost)


@functools.cache
def choose_depthwise_tile(rows: int, above: int, vectors: int, registers: int, rank: int = 0) -> Tile:
    """Return the tile of a depthwise convolution: pixels of one vector of channels.

    Counted for a window of 3 x 3: the tile's pixels and those around it are loaded once, and the nine taps.
    """

    def cost(h: int, w: int, v: int) -> float:
        return max(9 * h * w / 2, ((h + 2) * (w + 2) + 9) / 2, 18.0)

    found = _cheapest(rows, above, vectors, {1: registers // 2}, cost)
    return found[min(rank, len(found) - 1)][1]


def _cheapest(
    rows: int, above: int, vectors: int, limits: dict[int, int], cost: Callable[[int, int, int], float]
) -> list[tuple[float, Tile]]:
    """Return the cheapest tiles and their costs; ``limits`` says how many rows fit for each number of vectors."""

    def cover(total: int, unit: int) -> list[tuple[int, int]]:
        """Return pieces and how many there are of each."""
        return [(size, count) for size, count in ((unit, total // unit), (total % unit, 1)) if size and count]

    found = []
    for v, limit in limits.items():
        for wide in range(1, min(limit, rows) + 1):
            for high in {1, min(above, limit // wide)} if wide == rows else {1}:
                total = sum(
                    cost(h, w, u) * (nu * nw * nh)
                    for u, nu in cover(vectors, v)
                    for w, nw in cover(rows, wide)
                    for h, nh in cover(above, high)
                )
                found.append((total, Tile(high, wide, v)))
    return heapq.nsmallest(RANKS, found, key=lambda each: round(each[0], 6)) or [(0.0, Tile(1, 1, 1))]
