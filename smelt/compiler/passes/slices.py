"""Choose how many samples an inference program takes through all of its kernels at a time.

In: a frozen graph. Out: rows per slice. Few rows keep what one kernel leaves for the next in the cache; many rows read
the weights less often.
"""

from __future__ import annotations

from smelt.compiler.passes.fuse import kind_of
from smelt.graph.graph import Graph, Node

CACHE_BYTES = 1 << 20  # a second-level cache
FAR = 4  # how much longer data takes to come from beyond it
MOST_ROWS = 64
MOST_BYTES = 1 << 25  # of activations


def rows_per_slice(graph: Graph) -> int:
    """Return the power of two from 2 to 64 with the least estimated time of moving data.

    A batch of one is traced as what broadcasts. It is one nevertheless where images are large, whose kernels then take
    turns, see bands.py; the caller checks that what was traced still works on samples of their own.

    Measured at batch 64 on two threads, slices of 4 rows against 32: ds_cnn 715 to 778 µs, mobilenet_v1 2375 to 3536.
    """
    moved = [n for n in graph.nodes() if kind_of(n) in ("contract", "reduce", "window")]
    rows = next(n.shape[n.spec.rows.axis] for n in graph.inputs if n.spec.rows is not None)

    def nbytes(node: Node) -> int:
        return node.spec.size * node.dtype.itemsize

    weights = sum(nbytes(i) for n in moved for i in n.inputs if i.spec.rows is None)
    activations = [(nbytes(n) + sum(nbytes(i) for i in n.inputs if i.spec.rows is not None)) // rows for n in moved]
    if not activations:
        return MOST_ROWS
    if weights and max(activations) > 2 * CACHE_BYTES:
        return 1
    best, least = 2, float("inf")
    count = 2
    while count <= MOST_ROWS and (count == 2 or count * max(activations) <= MOST_BYTES):
        live = count * max(activations)
        cost: float = sum(activations) * (FAR if live > CACHE_BYTES else 1)
        cost += weights / count * (FAR if live + weights > CACHE_BYTES else 1)
        if cost < least:
            best, least = count, cost
        count *= 2
    return best
