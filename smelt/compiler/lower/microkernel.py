"""The micro-kernel: the sums of one tile of results, kept in registers while the ks run.

In: a part's axes and strides, where the tile starts, its rows and vectors. Out: one accumulated value per row and
vector. Each step of the ks loads the tile's vectors of b and, for every row, one element of a, and multiplies and
adds; or a pair of neighbours along the ks at once, where the processor can. Short inner ks are unrolled. In depthwise
convolutions b and a are both vectors; the taps are unrolled, and an image's vector is loaded once for all pixels of the
tile whose windows hold it.
"""

from __future__ import annotations

from collections.abc import Callable

from smelt.compiler.builder import Builder
from smelt.compiler.loops import Buffer, Index, Value
from smelt.compiler.lower.parts import Part

Ahead = Callable[[Index], None]  # asks for memory at each round of the outermost loop of the ks
Steps = list[list[tuple[str, int]]]  # rows of a tile, each as steps along axes
Widths = list[tuple[int, int]]  # (first lane, lanes) of a tile's vectors


def accumulate(
    b: Builder,
    p: Part,
    at: dict[str, Index],
    rows: Steps,
    widths: Widths,
    first: list[Value] | None = None,
    ahead: Ahead | None = None,
) -> list[Value]:
    """Return the sums of a tile that starts ``at`` the given indices, row by row, starting from ``first`` or 0."""
    start_a, start_b = Index(p.a.offset + p.a_first), Index(p.b.offset + p.b_first)
    for name, i in at.items():
        start_a = start_a + i * p.a_stride.get(name, 0)
        start_b = start_b + i * p.b_stride.get(name, 0)
    shifts = [sum(i * p.a_stride.get(name, 0) for name, i in row) for row in rows]
    depthwise = p.a_stride.get(p.lane, 0) != 0
    dtype = "f64" if p.a.buffer.dtype == "f64" else "f32"
    if first is None:
        first = [b.const(0.0, dtype, w) for _ in rows for _, w in widths]
    if p.empty:
        return first
    loops = list(p.ks)
    straight: list[str] = []
    size = len(first)
    limit = p.unroll // 2 if p.pair else p.unroll * 2 if depthwise else p.unroll
    while (
        loops and loops[-1] not in p.batch and size * p.extent[loops[-1]] <= limit and _fits(p, loops[-1], rows, widths)
    ):
        straight.insert(0, loops.pop())
        size *= p.extent[straight[0]]

    def load(buffer: Buffer, index: Index, lanes: int = 1) -> Value:
        value = b.load(buffer, index, lanes)
        return value if value.dtype == dtype else b.op("cast", value, dtype=dtype)

    def step(acc: list[Value], ia: Index, ib: Index) -> list[Value]:
        if p.pair:
            return pairs(acc, ia, ib)
        vectors = [load(p.b.buffer, ib + off, w) for off, w in widths]
        out = []
        for r, shift in enumerate(shifts):
            scalar = load(p.a.buffer, ia + shift)
            for v, (_, w) in enumerate(widths):
                out.append(b.op("fma", b.splat(scalar, w), vectors[v], acc[r * len(widths) + v]))
        return out

    def pairs(acc: list[Value], ia: Index, ib: Index) -> list[Value]:
        vectors = [b.load_pairs(p.b.buffer, ib + off * p.b_stride[p.lane], w) for off, w in widths]
        out = []
        for r, shift in enumerate(shifts):
            both = b.load_pairs(p.a.buffer, ia + shift)
            for v, (_, w) in enumerate(widths):
                out.append(b.op("dot", acc[r * len(widths) + v], b.splat(both, w), vectors[v]))
        return out

    def windows(acc: list[Value], ia: Index, ib: Index) -> list[Value]:
        """Multiply and add all taps, in the order in which they lie in the image."""
        taps = [(0, 0)]
        for name in straight:
            steps = [(i * p.a_stride.get(name, 0), i * p.b_stride.get(name, 0)) for i in range(p.extent[name])]
            taps = [(a + da, c + dc) for a, c in taps for da, dc in steps]
        uses: dict[int, list[tuple[int, int]]] = {}
        for a, c in taps:
            for r, shift in enumerate(shifts):
                uses.setdefault(a + shift, []).append((r, c))
        sums = list(acc)
        for v, (off, w) in enumerate(widths):
            kernels = {c: load(p.b.buffer, ib + (c + off), w) for _, c in taps}
            for a in sorted(uses, reverse=taps != [] and taps[-1][0] < 0):
                pixel = load(p.a.buffer, ia + (a + off), w)
                for r, c in uses[a]:
                    i = r * len(widths) + v
                    sums[i] = b.op("fma", pixel, kernels[c], sums[i])
        return sums

    def unrolled(rest: list[str], acc: list[Value], ia: Index, ib: Index) -> list[Value]:
        if not rest:
            return step(acc, ia, ib)
        (name, *more) = rest
        for i in range(p.extent[name]):
            acc = unrolled(more, acc, ia + i * p.a_stride.get(name, 0), ib + i * p.b_stride.get(name, 0))
        return acc

    def looped(rest: list[str], acc: list[Value], ia: Index, ib: Index) -> list[Value]:
        if not rest:
            return windows(acc, ia, ib) if depthwise else unrolled(straight, acc, ia, ib)
        (name, *more) = rest
        stop = p.stop(name)
        if name == p.pair and name in p.batch:
            stop = b.let("pairs", "muldiv", stop + 1, 1, 2)
        with b.carry(name, 0, stop, acc) as (k, values):
            if ahead is not None and rest is loops:
                ahead(k)
            values[:] = looped(more, list(values), ia + k * p.a_stride.get(name, 0), ib + k * p.b_stride.get(name, 0))
        return values

    return looped(loops, first, start_a, start_b)


def _fits(p: Part, k: str, rows: Steps, widths: Widths) -> bool:
    """Return whether a step of ``k`` may follow another in a straight run.

    Where neighbouring rows read what a row's next step reads, the run keeps all of that in registers at once.
    """
    step = p.a_stride.get(k, 0)
    strides = [p.a_stride.get(name, 0) for name, _ in rows[-1]]
    if p.lane in p.a_stride or not any(s and step % s == 0 and step < s * len(rows) for s in strides):
        return True
    return len(rows) * len(widths) + len(rows) + p.extent[k] + len(widths) <= p.registers
