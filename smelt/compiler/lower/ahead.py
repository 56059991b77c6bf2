"""Ask for memory before it is needed: what a tile will read may be in no cache near.

In: a tile and where it stands. Out: prefetches, of one cache line each. They change no value, and may name addresses
outside of a buffer. Activations that wait for the backward pass, and the optimizer's state, are the examples: by then
other kernels have moved more than the caches hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from smelt.compiler.builder import Builder
from smelt.compiler.loops import ITEMSIZE, Index, Instr
from smelt.compiler.lower.evaluate import Evaluator, Point
from smelt.compiler.lower.parts import Part
from smelt.compiler.passes.fuse import Group
from smelt.compiler.passes.storage import Plan

FAR_BYTES = 1 << 20  # a buffer of this size does not stay in a second-level cache as a whole
LINE_BYTES = 64
STEPS = 128  # of the ks, in which a tile's share of the next image can arrive


def ask_for_what_follows(b: Builder, plan: Plan, group: Group, points: Iterable[Point], soon: bool = False) -> int:
    """Ask for what the nodes that follow a contraction read at points of a tile, before they are computed.

    Returns for how many lines. ``soon`` says that they are few, and written as well.
    """
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
                b.prefetch(buffer, index, soon)
    return len(asked)


def ask_for_next_sample(b: Builder, p: Part, tiles: int, tile: Index, sample: Index, line: Index) -> None:
    """Ask for one tile's share of a line of the next sample, while all ``tiles`` work on the same line of this one."""
    for storage, stride in ((p.a, p.a_stride), (p.b, p.b_stride)):
        wide = LINE_BYTES // ITEMSIZE[storage.buffer.dtype]
        count = -(-stride[p.ks[1]] // (wide * tiles))
        start = (sample + 1) * stride[p.ks[0]] + line * stride[p.ks[1]] + tile * (count * wide) + storage.offset
        for n in range(count):
            b.prefetch(storage.buffer, start + n * wide)


def ask_for_next_image(b: Builder, p: Part, at: dict[str, Index], pixels: int, asked: int) -> None:
    """Ask for one tile's share of the next image, where a convolution takes one after another.

    Not where a tile's sums take too short for it, or more lines than a quarter of its pixels were ``asked`` for.
    """
    steps = math.prod(p.extent[k] for k in p.ks)
    if "n" not in at or p.extent["n"] == 1 or p.a.buffer.nbytes < FAR_BYTES or steps < STEPS or 4 * asked > pixels:
        return
    wide, here, size = LINE_BYTES // ITEMSIZE[p.a.buffer.dtype], Index(), 1
    for r in reversed(p.rows[1:]):
        here = here + at[r] * size
        size *= p.extent[r]
    share = -(-p.a_stride["n"] // size)
    start = (at["n"] + 1) * p.a_stride["n"] + here * share + p.a.offset
    for n in range(-(-share * pixels // wide)):
        b.prefetch(p.a.buffer, start + n * wide)
