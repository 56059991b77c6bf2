"""Lower products with large weights that the same step changes: every thread reads those that it will change.

In: a contract group whose rows are those of the batch. Out: two kernels: the sums of fixed slices of the ks, for all
rows, and their sums in order with what follows. A thread has whole slices, and so reads a part of the weights; its
update is shared in the same order. Where threads shared the rows, each would read all weights, and every line of them
would be asked back from the other's cache to be changed: lenet_300_100's step takes 254 instead of 304 us by turns on
Zen 4, and 287 instead of 375 while its processors share no cache.
"""

from __future__ import annotations

import math
from dataclasses import replace

from smelt.compiler.builder import Builder
from smelt.compiler.loops import ITEMSIZE, Index, Range, var
from smelt.compiler.lower.contract import B_BYTES, rows_along
from smelt.compiler.lower.evaluate import Evaluator
from smelt.compiler.lower.microkernel import Widths, accumulate
from smelt.compiler.lower.parts import Part
from smelt.compiler.lower.sliced import SHARE, SlicedLowering
from smelt.compiler.lower.sums import SLICES, Sums, few
from smelt.compiler.lower.tiles import Tile

FEWEST = 4  # slices that are worth their sums


class OwnedLowering(SlicedLowering):
    """Builds the kernels of one contract group; in slices of the ks where it reads weights that change."""

    def _emit(self) -> Range:
        (p, *more) = self.parts
        count = 0 if more or not self._changes(p) else _slices(p, self.dtype)
        if count < FEWEST:
            return super()._emit()
        tile = self._choose(p, p.extent[p.rows[0]], 1, self.isa.registers)
        name, self.b = self.b.name, Builder(f"{self.b.name}_slices")
        sums = Sums(self.b, p, self.dtype, count)
        self._sum_ks(p, tile, count, sums)
        self.b.unaligned |= {self.plan.storage[self.plan.operand(self.root, i)].buffer for i in (0, 1)}
        self.before = (self.b.finish(Range(count)),)
        self.b = sums.b = Builder(name)
        self.b.unaligned.add(sums.buffer)
        self.e = Evaluator(self.plan, self.group, self.b, var("row"))
        self.e.hoist(self.group.members(), self.vl)
        return self._add_ks(p, few(tile), count, sums)

    def _changes(self, p: Part) -> bool:
        """Return whether rows of the batch meet a large right operand that is not the same in every step."""
        rows = [r for r in p.rows if r in p.batch]
        plain = p.ks == ["k"] and "k" not in p.batch and p.rows == rows and len(rows) == 1 and not p.outer
        if not plain or p.lane in p.batch or p.batch[rows[0]] != 1 or self.dtype != "f32" or self.isa.serial:
            return False
        b = self.plan.base(self.plan.operand(self.root, 1 - (self.root in self.plan.lane_rows)))
        large = p.extent["k"] * p.extent[p.lane] * ITEMSIZE[p.b.buffer.dtype] > B_BYTES
        return large and (b.kind != "state" or b in self.plan.changed) and b.kind != "constant"

    def _sum_ks(self, p: Part, tile: Tile, count: int, sums: Sums) -> None:
        """Sum every slice of the ks, for all rows."""
        self.b.choose("shared", f"{count} fixed slices of the sums: each thread reads the weights that it changes")
        self._say_tile(p, tile)
        size = -(-p.extent["k"] // count)
        (row,) = p.rows
        with self.b.loop("slice", var("lo"), var("hi")) as s:
            start = self.b.let("low", "min", s * size, p.extent["k"])
            stop = self.b.let("high", "min", (s + 1) * size, p.extent["k"])
            for lane, widths in self._lane_blocks(p, tile.vectors):
                with lane as first:

                    def tile_of(at: Index, rows: int, first: Index = first, widths: Widths = widths) -> None:
                        here, shape = {p.lane: first, row: at}, rows_along(row, rows)
                        zeros = [self.b.const(0.0, self.dtype, w) for _ in shape for _, w in widths]
                        with self.b.carry("k", start, stop, zeros) as (k, values):
                            one = replace(p, ks=[])
                            values[:] = accumulate(self.b, one, {**here, "k": k}, shape, widths, list(values))
                        sums.save({**here, "slice": s}, shape, widths, values)

                    self._each_ragged(tile.wide, tile_of, Index(), p.stop(row))

    def _add_ks(self, p: Part, tile: Tile, count: int, sums: Sums) -> Range:
        """Add the slices in order, and compute what follows."""
        self.b.choose("shared", "samples")
        (row,) = p.rows
        for lane, widths in self._lane_blocks(p, tile.vectors):
            with lane as first:

                def finish(at: Index, rows: int, first: Index = first, widths: Widths = widths) -> None:
                    here, shape = {p.lane: first, row: at}, rows_along(row, rows)
                    total = self._total(here, shape, widths, count, sums)
                    self._finish(p, here, shape, widths, total)

                self._each_ragged(tile.wide, finish)
        return Range(per=1)


def _slices(p: Part, dtype: str) -> int:
    """Return into how many slices the ks are cut: a power of two, whose sums are small beside the weights."""
    results = math.prod(p.extent[name] for name in [*p.rows, p.lane]) * ITEMSIZE[dtype]
    weights = p.extent["k"] * p.extent[p.lane] * ITEMSIZE[p.b.buffer.dtype]
    return min(SLICES, 1 << max(weights // (SHARE * results), 1).bit_length() - 1)
