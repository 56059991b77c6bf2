"""Lower contractions whose tiles end with much work: a tile is finished during the sums of the next one.

In: a contract group whose units are tiles, with an epilogue that reads and writes several values per result, as the
optimizer's update of a weight gradient does. Out: the same results, bit for bit. A tile's sums wait on the stack; some
are finished after every few steps of the next tile's ks, where roots and divisions, which have a unit of their own,
and stores run beside the multiply-adds. What the tile itself will need is asked for meanwhile.

Sums of 64 samples, 6 x 4 vectors, and Adam, on Zen 4: 0.60 of 0.75 ms (written in C, by turns, medians of 200).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from smelt.compiler.builder import Builder
from smelt.compiler.loops import Index, Instr, Value
from smelt.compiler.lower.ahead import ask_for_what_follows
from smelt.compiler.lower.contract import ContractLowering, coordinates
from smelt.compiler.lower.evaluate import Evaluator, Point
from smelt.compiler.lower.microkernel import Steps, Widths, accumulate
from smelt.compiler.lower.parts import Part
from smelt.compiler.lower.tiles import Tile

ACCESSES = 4  # of an epilogue for each result, from which it is worth waiting for
LEAST_STEPS = 24  # of the ks
MOST_STEPS = 512  # of the ks: for more, the epilogue is a small part of a tile
KEPT = 2  # registers of the 32 that a tile leaves to an epilogue, beside the one that all sums of a row share
VECTOR_BYTES = 64  # processors with AVX-512; with NEON's 32 registers, LLVM loads ahead and spills 73 vectors a round


class OverlappedLowering(ContractLowering):
    """Builds the kernel of one contract group; its tiles overlap where the end of each is long."""

    def _share(self, p: Part, tile: Tile, axes: list[tuple[str, int]], low: Index, high: Index) -> None:
        if tile.high > 1 or not self._is_long(p) or not self._has_whole_tiles(p, tile):
            super()._share(p, tile, axes, low, high)
            return
        self.b.choose("memory", "a tile is finished during the sums of the next, and what it needs asked for before")
        row, lanes = p.rows[-1], tile.vectors * self.vl
        rows, widths = whole = _whole(p, tile, self.vl)
        waiting = self.b.local("waiting", self.dtype, tile.wide * lanes)
        (k,) = p.ks
        steps = p.stop(k)
        if k == p.pair:
            steps = self.b.let("pairs", "muldiv", steps + 1, 1, 2)
        chunk = self._chunk(p, tile)
        chunks = self.b.let("chunks", "muldiv", steps, 1, chunk)

        def finish(line: Index, lane: int) -> None:
            self._finish_vector(p, last, line, lane, self.b.load(waiting, line * lanes + lane, self.vl))

        with self.b.loop("unit", low, high + 1) as unit:
            numbers, before = self._numbers(axes, unit), self._numbers(axes, unit + -1)
            now = self._is_whole(p, tile, numbers, high + unit * -1)
            then = self._is_whole(p, tile, before, unit + low * -1)
            at = {**numbers, row: numbers[row] * tile.wide, p.lane: numbers[p.lane] * lanes}
            last = {**before, row: before[row] * tile.wide, p.lane: before[p.lane] * lanes}
            both = self.b.let("both", "min", now, then)
            rounds = self.b.let("rounds", "min", chunks, both * tile.wide)
            with self.b.loop("line", rounds, then * tile.wide) as line:
                for lane, _ in widths:
                    finish(line, lane)
            with self.b.when(0, now):
                sums = [self.b.const(0.0, self.dtype, self.vl)] * (tile.wide * tile.vectors)
                with self.b.carry("line", 0, rounds, sums) as (line, values):
                    done, acc = 0, list(values)
                    for v, (lane, _) in enumerate(widths):
                        count = chunk * (v + 1) // tile.vectors - done
                        part = replace(p, extent={**p.extent, k: count}, batch={})
                        acc = accumulate(self.b, part, {**at, k: line * chunk + done}, rows, widths, acc)
                        done += count
                        finish(line, lane)
                        point = self._point(p, {**at, row: at[row] + line}, lane)
                        ask_for_what_follows(self.b, self.plan, self.group, [point], soon=True)
                    values[:] = acc
                with self.b.carry(k, rounds * chunk, steps, values) as (step, values):
                    values[:] = accumulate(self.b, replace(p, ks=[]), {**at, k: step}, rows, widths, list(values))
                for i, value in enumerate(values):
                    self.b.store(waiting, i * self.vl, value)
            self._one_unit(p, tile, numbers, partial(self._smaller_tile, p, whole, high + unit * -1))
        self._note_rows(p)

    def _pick(self, p: Part, rows: list[str], kept: int = 0) -> Tile:
        return super()._pick(p, rows, KEPT if self._is_long(p) else kept)

    def _is_long(self, p: Part) -> bool:
        """Return whether the end of a tile is long enough to wait, and its sums are of a kind that leaves room."""
        if len(self.parts) > 1 or p.window or p.clip or len(p.ks) != 1 or p.lane in p.a_stride or self.dtype != "f32":
            return False
        if not p.rows or any(name in p.batch for name in [*p.outer, *p.rows, p.lane]):
            return False
        if self.isa.vector_bytes < VECTOR_BYTES or not LEAST_STEPS <= _steps(p) <= MOST_STEPS:
            return False
        probe = Builder("probe")
        e = Evaluator(self.plan, self.group, probe)
        e.given = {self.root: probe.value(self.dtype, self.vl)}
        for node, storage in self.stores:
            point = Point(p.out, p.lane_axis, self.vl)
            e.store(node, storage, point, e.full(node, point))
        wide = [s for s in probe.body if isinstance(s, Instr) and s.op in ("load", "store")]
        return sum((s.out or s.args[0]).lanes > 1 for s in wide) >= ACCESSES

    def _has_whole_tiles(self, p: Part, tile: Tile) -> bool:
        return p.extent[p.lane] >= tile.vectors * self.vl and p.extent[p.rows[-1]] >= tile.wide

    def _chunk(self, p: Part, tile: Tile) -> int:
        """Return how many steps of the ks a line of the tile before is finished in: 8, or less where there are few."""
        return next(n for n in (8, 4, 2, 1) if n == 1 or _steps(p) >= n * tile.wide)

    def _is_whole(self, p: Part, tile: Tile, numbers: dict[str, Index], valid: Index) -> Index:
        """Return 1 for a unit that exists (``valid`` is then positive) and is a tile of full size, else 0."""
        out = self.b.let("whole", "min", valid, 1)
        for name, unit in ((p.rows[-1], tile.wide), (p.lane, tile.vectors * self.vl)):
            whole, rest = divmod(p.extent[name], unit)
            if rest:
                out = self.b.let("whole", "min", out, numbers[name] * -1 + whole)
        return self.b.let("whole", "max", out, 0)

    def _point(self, p: Part, at: dict[str, Index], lane: int) -> Point:
        return Point(coordinates(p.out, at, [], p.lane, lane), p.lane_axis, self.vl)

    def _finish_vector(self, p: Part, at: dict[str, Index], line: Index, lane: int, value: Value) -> None:
        """Compute what follows for one vector of a tile's results, and store it."""
        self.e.fresh()
        self.e.given = {self.root: value}
        point = self._point(p, {**at, p.rows[-1]: at[p.rows[-1]] + line}, lane)
        results = [(n, s, self.e.full(n, point)) for n, s in self.stores]
        for node, storage, value in results:
            self.e.store(node, storage, point, value)
        self.e.given = {}

    def _smaller_tile(
        self,
        p: Part,
        whole: tuple[Steps, Widths],
        valid: Index,
        at: dict[str, Index],
        rows: Steps,
        widths: Widths,
    ) -> None:
        """Emit a tile at the end of an axis, which is summed and finished at once."""
        if (rows, widths) != whole:
            with self.b.when(0, valid):
                self._tile(p, at, rows, widths)


def _steps(p: Part) -> int:
    """Return how many steps the ks of a full batch have."""
    return p.extent[p.ks[0]] // (2 if p.pair else 1)


def _whole(p: Part, tile: Tile, lanes: int) -> tuple[Steps, Widths]:
    """Return the rows and vectors of a tile of full size."""
    return [[(p.rows[-1], i)] for i in range(tile.wide)], [(v * lanes, lanes) for v in range(tile.vectors)]
