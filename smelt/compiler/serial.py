"""Lower a graph for one thread in the least memory: for C, and wherever memory counts more than threads.

In: the graph of an inference, with a fixed batch. Out: a :class:`Serial`: kernels in the order they run, every buffer
of the arena placed. Padding is not stored, results overwrite operands where they can, branches are taken in the order
that needs least, and the places are found by search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smelt.compiler.isa import Isa
from smelt.compiler.kernels import kernels_of, simplified
from smelt.compiler.loops import ITEMSIZE, Buffer, Kernel
from smelt.compiler.passes.inplace import in_place
from smelt.compiler.passes.order import order
from smelt.compiler.passes.packing import Block, Packing, pack
from smelt.compiler.passes.storage import Plan
from smelt.graph.graph import Graph


@dataclass(frozen=True)
class Arena:
    """The memory of all intermediates of one dtype: its elements, and whether fewer are impossible in this order.

    ``blocks`` are the parts of it with the kernels in which they are in use, each shared by buffers that take turns.
    """

    dtype: str
    size: int
    proven: bool
    blocks: tuple[tuple[tuple[Buffer, ...], Block], ...]

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return self.size * ITEMSIZE[self.dtype]


@dataclass
class Serial:
    """A graph as kernels in the order one thread runs them, in arenas by dtype."""

    graph: Graph
    plan: Plan
    kernels: list[Kernel]
    arenas: dict[str, Arena]

    @property
    def arena_bytes(self) -> int:
        """Bytes of all arenas, the largest elements first, rounded up to a whole number of these."""
        widest = max((ITEMSIZE[d] for d in self.arenas), default=1)
        return -(-sum(a.nbytes for a in self.arenas.values()) // widest) * widest


def lower_serial(graph: Graph, isa: Isa, ends: bool = False) -> Serial:
    """Return the kernels of a graph for one thread; with ``ends``, inputs and outputs lie in the arena too."""
    made = kernels_of(simplified(graph, isa), dict.fromkeys(graph.states), isa)
    kernels = order(made.all())
    return Serial(made.graph, made.plan, kernels, place(kernels, ends))


def place(kernels: Sequence[Kernel], ends: bool = False) -> dict[str, Arena]:
    """Set the offsets of all buffers of the arena, in bytes within the arena of their dtype."""
    kinds = ("arena", "input", "output") if ends else ("arena",)
    life: dict[Buffer, tuple[int, int]] = {}
    for i, kernel in enumerate(kernels):
        for b in sorted(kernel.reads | kernel.writes, key=lambda b: (b.kind, b.slot, b.name)):
            if b.kind in kinds:
                first = -1 if b.kind == "input" else i
                life[b] = (life.get(b, (first, 0))[0], len(kernels) if b.kind == "output" else i)
    shared = {b: [b] for b in life}
    for i, kernel in enumerate(kernels):
        for operand, result in in_place(kernel):
            if operand in life and result in life and life[operand][1] == i == life[result][0]:
                group, other = shared[operand], shared[result]
                if group is not other and len(other) == 1:
                    group.append(result)
                    shared[result] = group
                    break
    arenas = {}
    for dtype in sorted({b.dtype for b in life}, key=lambda d: (-ITEMSIZE[d], d)):
        groups = list({id(g): g for b, g in shared.items() if b.dtype == dtype}.values())
        blocks = [Block(g[0].size, min(life[b][0] for b in g), max(life[b][1] for b in g)) for g in groups]
        packing: Packing = pack(blocks)
        for group, offset in zip(groups, packing.offsets, strict=True):
            for b in group:
                b.offset = offset * ITEMSIZE[dtype]
        parts = tuple((tuple(g), block) for g, block in zip(groups, blocks, strict=True))
        arenas[dtype] = Arena(dtype, max(packing.total, 1), packing.proven, parts)  # C has no arrays of no elements
    return arenas
