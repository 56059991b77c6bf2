"""Lower contractions that sum over the samples of a batch: gradients of convolutions' kernels.

In: a contract group. Out: two kernels: the sums of fixed slices of the samples, then their sums in order and what
follows. A thread works on the samples it has worked on before, all tiles for one sample before the next; how many
slices there are depends on sizes alone, and so do the bits. Other contractions become one kernel.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from smelt.compiler.builder import Builder
from smelt.compiler.loops import Index, Range, Value, var
from smelt.compiler.lower.ahead import ask_for_next_sample
from smelt.compiler.lower.contract import OnTile
from smelt.compiler.lower.evaluate import Evaluator
from smelt.compiler.lower.microkernel import Ahead, Steps, Widths, accumulate
from smelt.compiler.lower.overlapped import OverlappedLowering
from smelt.compiler.lower.parts import Part
from smelt.compiler.lower.sums import SLICES, Sums, few, slices
from smelt.compiler.lower.tiles import Tile

OPERANDS_BYTES = 1 << 20  # from this size of both operands on
SHARE = 4  # sums of all slices are at most one part in so many of the operands
STEPS = 32  # of the ks in one sample, for sums that are loaded and saved once per sample


class SlicedLowering(OverlappedLowering):
    """Builds the kernels of one contract group, two where its sums are sliced."""

    def _emit(self) -> Range:
        (p, *more) = self.parts
        if more or not self._is_sliced(p):
            return super()._emit()
        tile = self._pick(p, p.rows)
        count = _slices(p)
        name, self.b = self.b.name, Builder(f"{self.b.name}_slices")
        sums = Sums(self.b, p, self.dtype, count)
        units = self._sum_slices(p, tile, count, sums)
        for i in (0, 1):
            x = self.plan.operand(self.root, i)
            if x.spec.rows is None or x.spec.rows.per != 1:
                self.b.unaligned.add(self.plan.storage[x].buffer)
        self.before = (self.b.finish(units),)
        self.b = sums.b = Builder(name)
        self.b.unaligned.add(sums.buffer)
        self.e = Evaluator(self.plan, self.group, self.b)
        self.e.hoist(self.group.members(), self.vl)
        return self._add_slices(p, few(tile), count, sums)

    def _sum_slices(self, p: Part, tile: Tile, count: int, sums: Sums) -> Range:
        """Sum every slice of the samples. A unit is a tile of a slice, so that threads can also share a slice."""
        self.b.choose("shared", f"tiles of the result, for each of {count} fixed slices of the samples")
        self.b.choose(
            "memory", "sums wait in the arena while one sample is finished for all tiles, and the next asked for"
        )
        self._say_tile(p, tile)
        axes = self._unit_axes(p, tile)
        tiles = math.prod(count for _, count in axes)
        (sample, *rest) = p.ks
        samples = p.stop(sample)
        if sample == p.pair:
            samples = self.b.let("pairs", "muldiv", samples + 1, 1, 2)
        first = self.b.let("first", "muldiv", var("lo"), 1, tiles)
        last = self.b.let("last", "muldiv", var("hi") + (tiles - 1), 1, tiles)
        with self.b.loop("slice", first, last) as s:
            low = self.b.let("tile", "max", var("lo") + s * -tiles, 0)
            high = self.b.let("tiles", "min", var("hi") + s * -tiles, tiles)

            def each(body: OnTile) -> None:
                self._units(p, tile, axes, low, high, lambda at, *rest: body({**at, "slice": s}, *rest))

            each(lambda at, rows, widths: sums.clear(at, rows, widths))
            start = self.b.let("low", "muldiv", samples, s, count)
            stop = self.b.let("high", "muldiv", samples, s + 1, count)
            with self.b.loop(sample, start, stop) as i:
                part = replace(p, ks=rest)

                def add(at: dict[str, Index], rows: Steps, widths: Widths) -> None:
                    before = sums.load(at, rows, widths)
                    ahead = partial(ask_for_next_sample, self.b, p, tiles, at["unit"], i)
                    values = self._accumulate(part, {**at, sample: i}, rows, widths, before, ahead)
                    sums.save(at, rows, widths, values)

                each(add)
        follows = count >= SLICES and sample != p.pair and p.batch[sample] == 1
        return Range(count * tiles, slices=count if follows else 0)

    def _accumulate(
        self, p: Part, at: dict[str, Index], rows: Steps, widths: Widths, before: list[Value], ahead: Ahead
    ) -> list[Value]:
        """Add a tile's products of one sample."""
        return accumulate(self.b, p, at, rows, widths, before, ahead)

    def _is_sliced(self, p: Part) -> bool:
        """Return whether samples are summed, and several tiles would each read more of them than a cache holds."""
        steps = math.prod(p.extent[k] for k in p.ks[1:])
        batched = len(p.ks) > 1 and p.ks[0] in p.batch and not any(r in p.batch for r in [*p.outer, *p.rows])
        return batched and steps >= STEPS and p.a.buffer.nbytes + p.b.buffer.nbytes > OPERANDS_BYTES

    def _add_slices(self, p: Part, tile: Tile, count: int, sums: Sums) -> Range:
        """Add the slices in order, and compute what follows."""
        self.b.choose("shared", "results, from all slices")
        self._say_tile(p, tile)
        axes = self._unit_axes(p, tile)

        def body(at: dict[str, Index], rows: Steps, widths: Widths) -> None:
            total = self._total(at, rows, widths, count, sums)
            self._finish(p, at, rows, widths, total)

        self._units(p, tile, axes, var("lo"), var("hi"), body)
        return Range(math.prod(count for _, count in axes))

    def _total(self, at: dict[str, Index], rows: Steps, widths: Widths, count: int, sums: Sums) -> list[Value]:
        """Return the sums of a tile over all slices."""
        first = sums.load({**at, "slice": Index(0)}, rows, widths)
        with self.b.carry("slice", 1, count, first) as (s, total):
            values = sums.load({**at, "slice": s}, rows, widths)
            total[:] = [self.b.op("add", t, v) for t, v in zip(total, values, strict=True)]
        return total


def _slices(p: Part) -> int:
    """Return the number of slices: at most the samples, and as many as are small beside the operands."""
    results = 4 * math.prod(p.extent[name] for name in [*p.outer, *p.rows, p.lane])
    nbytes = p.a.buffer.nbytes + p.b.buffer.nbytes
    return slices(nbytes, p.extent[p.ks[0]], nbytes // (SHARE * results))
