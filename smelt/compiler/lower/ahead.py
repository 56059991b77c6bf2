"""Ask for memory before it is needed: what a tile will read may be in no cache near.

In: a tile and where it stands. Out: prefetches, of one cache line each. They change no value, and may name addresses
outside of a buffer. Activations that wait for the backward pass, and the optimizer's state, are the examples: by then
other kernels have moved more than the caches hold.
"""

from __future__ import annotations

from collections.abc import Iterable

from smelt.compiler.loops import ITEMSIZE, Builder, Index, Instr
from smelt.compiler.lower.evaluate import Evaluator, Point
from smelt.compiler.lower.parts import Part
from smelt.compiler.passes.fuse import Group
from smelt.compiler.passes.storage import Plan

FAR_BYTES = 1 << 20  # a buffer of this size does not stay in a second-level cache as a whole
LINE_BYTES = 64


def ask_for_what_follows(b: Builder, plan: Plan, group: Group, points: Iterable[Point]) -> None:
    """Ask for what the nodes that follow a contraction read at the points of a tile, before its sums begin."""
    probe = Builder("probe")
    e = Evaluator(plan, group, probe)
    e.given = {root: probe.value("f32", 1) for root in group.roots}
    for point in points:
        e.fresh()
        for node, _ in plan.stores[group]:
            e.full(node, point)
    asked = set()
    for s in probe.body:
        if isinstance(s, Instr) and s.op == "load" and s.imm[0].nbytes >= FAR_BYTES:
            buffer, index, *_ = s.imm
            line = (buffer, index.terms, index.const * ITEMSIZE[buffer.dtype] // LINE_BYTES)
            if line not in asked:
                asked.add(line)
                b.prefetch(buffer, index)


def ask_for_next_sample(b: Builder, p: Part, tiles: int, tile: Index, sample: Index, line: Index) -> None:
    """Ask for one tile's share of a line of the next sample, while all ``tiles`` work on the same line of this one."""
    for storage, stride in ((p.a, p.a_stride), (p.b, p.b_stride)):
        wide = LINE_BYTES // ITEMSIZE[storage.buffer.dtype]
        count = -(-stride[p.ks[1]] // (wide * tiles))
        start = (sample + 1) * stride[p.ks[0]] + line * stride[p.ks[1]] + tile * (count * wide) + storage.offset
        for n in range(count):
            b.prefetch(storage.buffer, start + n * wide)
