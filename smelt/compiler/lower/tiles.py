"""Choose how many rows and vectors of results a micro-kernel holds in registers.

In: the size of a result and the processor's registers. Out: a :class:`Tile`. The cost model counts cycles of the
innermost loop; it is exact enough that its best tile is the best or close to it in measurements.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

MULTIPLY_ADD, DOT = 4.0, 6.0  # cycles until the result of a multiply-add, or of a product of pairs, can be added to


@dataclass(frozen=True)
class Tile:
    """Rows and vectors of results held in registers: ``high`` steps of the second row axis by ``wide`` of the last."""

    high: int
    wide: int
    vectors: int


def most_rows(vectors: int, registers: int) -> int:
    """Return how many rows of ``vectors`` results fit in the registers beside a vector of b and one of a."""
    return max(1, (registers - vectors - (0 if vectors == 1 else 1)) // vectors - (vectors == 1) * 3)


@functools.cache
def choose_tile(
    rows: int, above: int, vectors: int, registers: int, depthwise: bool, latency: float = MULTIPLY_ADD
) -> Tile:
    """Return the tile with the least estimated time for ``rows`` (times ``above``) by ``vectors`` results.

    One step of the ks costs the larger of: multiply-adds at two per cycle, loads at two per cycle, and the cycles of
    ``latency`` that an accumulator waits for its own result.
    """
    best, best_cost = Tile(1, 1, 1), float("inf")

    def step(r: int, v: int) -> float:
        loads = r * v + v if depthwise else r + v
        return max(r * v / 2, loads / 2, latency)

    def cover(total: int, unit: int) -> list[tuple[int, int]]:
        """Return pieces and how many there are of each."""
        return [(size, count) for size, count in ((unit, total // unit), (total % unit, 1)) if size and count]

    for v in range(1, min(vectors, 6) + 1):
        limit = most_rows(v, registers)
        for wide in range(1, min(limit, rows) + 1):
            for high in {1, min(above, limit // wide)} if wide == rows else {1}:
                cost = sum(
                    step(h * w, u) * (nu * nw * nh)
                    for u, nu in cover(vectors, v)
                    for w, nw in cover(rows, wide)
                    for h, nh in cover(above, high)
                )
                if cost < best_cost - 1e-9:
                    best, best_cost = Tile(high, wide, v), cost
    return best
