"""Lower matrix products and convolutions: one register-blocked micro-kernel generator serves them all.

In: a contract group. Out: one kernel. A tile keeps rows x vectors of results in registers while the ks run,
broadcasting elements of a against vectors of b; what follows the contraction is computed on the tile before it is
stored. :mod:`smelt.compiler.lower.parts` says what rows, lanes and ks are in each contraction.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from smelt.compiler.builder import Builder
from smelt.compiler.isa import Isa
from smelt.compiler.loops import ITEMSIZE, Index, Kernel, Range, Sweep, Value, var
from smelt.compiler.lower.ahead import ask_for_next_image, ask_for_what_follows
from smelt.compiler.lower.evaluate import Evaluator, Point, accesses, pieces, pixel
from smelt.compiler.lower.microkernel import Steps, Widths, accumulate
from smelt.compiler.lower.parts import Part, describe
from smelt.compiler.lower.sums import Sums, few
from smelt.compiler.lower.tiles import DOT, MULTIPLY_ADD, WIDEST, Tile, choose_depthwise_tile, choose_tile
from smelt.compiler.passes.fuse import POOLING, Group
from smelt.compiler.passes.operands import B_COLUMNS
from smelt.compiler.passes.storage import Plan
from smelt.compiler.passes.winograd import why_direct
from smelt.graph.graph import Node
from smelt.ops.primitive import short_dtype

K_BLOCK = 512  # ks accumulated before the next rows, when operand b does not fit in a cache
B_BYTES = 1 << 19  # from this size of operand b on
# MACs of a product that takes a microsecond or so, registers of its tile, and multiply-adds in one straight run: more
# would save it a few percent of that, and take much longer to compile (resnet8's last layer and its gradients were 5000
# of 31000 lines).
SMALL, FEW_REGISTERS, FEW_UNROLLED = 10**5, 20, 32
OnTile = Callable[[dict[str, Index], Steps, Widths], None]  # emits something for a tile


def _substitute(index: Index, at: dict[str, Index]) -> Index:
    out = Index(index.const)
    for name, coef in index.terms:
        out = out + at.get(name, Index()) * coef
    return out


def coordinates(
    out: tuple[Index, ...], at: dict[str, Index], row: list[tuple[str, int]], lane: str, off: int
) -> tuple[Index, ...]:
    """Return the coordinates of a tile's result."""
    here = dict(at)
    for name, i in [*row, (lane, off)]:
        here[name] = here.get(name, Index()) + i
    return tuple(_substitute(c, here) for c in out)


def _depthwise(p: Part) -> bool:
    return p.lane in p.a_stride


def rows_along(name: str, count: int) -> Steps:
    """Return ``count`` rows that follow each other along an axis."""
    return [[(name, i)] for i in range(count)]


class ContractLowering:
    """Builds the kernel of one contract group, and those that must run before it."""

    before: tuple[Kernel, ...] = ()

    def __init__(self, plan: Plan, group: Group, isa: Isa, name: str) -> None:
        self.plan, self.group, self.isa = plan, group, isa
        (self.root,) = group.roots
        op = self.root.op
        assert op is not None
        self.macs = op.macs(tuple(i.spec for i in self.root.inputs), self.root.spec, self.root.attrs)
        self.registers = min(isa.registers, FEW_REGISTERS) if self.macs < SMALL else isa.registers
        self.dtype = short_dtype(self.root.dtype)
        self.vl = isa.lanes(self.dtype)
        self.b = Builder(name)
        self.stores = plan.stores[group]
        self.sweep: Sweep | None = None

    def kernels(self) -> tuple[list[Kernel], set[Node]]:
        """Return the kernels in the order they run, and the nodes they load. The first has the MACs."""
        kernel, used = self.kernel()
        kernel.sweep = self.sweep
        kernels = [*self.before, kernel]
        kernels[0].macs = self.macs
        return kernels, used

    def kernel(self) -> tuple[Kernel, set[Node]]:
        """Return the kernel and the nodes it loads."""
        parts = describe(self.plan, self.root)
        if 0 in self.root.shape:
            return self.b.finish(Range(0)), set()
        for p in parts:
            p.registers = self.isa.registers
            p.unroll = FEW_UNROLLED if self.macs < SMALL and not _depthwise(p) else p.unroll
            self._merge(p)
        self.parts = parts
        self.row = var("row")
        self.e = Evaluator(self.plan, self.group, self.b, self.row)
        self.e.hoist(self.group.members(), self.vl)
        units = self._emit()
        self.e.used |= {self.plan.operand(self.root, i) for i in (0, 1)}
        return self.b.finish(units), self.e.used

    # --- axes --------------------------------------------------------------------------------------------------

    def _probe(self, p: Part) -> list[Index]:
        builder = Builder("probe")
        e = Evaluator(self.plan, self.group, builder)
        value = builder.value(self.dtype, 1)
        e.given = {self.root: value, **{n: value for n in self.group.nodes if n.opname in POOLING}}
        for node, storage in self.stores:
            point = Point(p.pooled if node.shape == self.group.pooled else p.out, None, 1)
            e.store(node, storage, point, e.full(node, point))
        return accesses(builder.body)

    def _merge(self, p: Part) -> None:
        """Drop axes of size 1, and merge neighbours that both operands (and the results) walk as one."""
        seen = self._probe(p)
        for axes, results in ((p.ks, False), (p.rows, True)):
            kept: list[str] = []
            for name in axes:
                if p.extent[name] == 1 and name not in p.batch:
                    continue
                if kept and name not in p.batch and kept[-1] not in p.batch:
                    last, size = kept[-1], p.extent[name]
                    if (
                        p.a_stride.get(last, 0) == p.a_stride.get(name, 0) * size
                        and p.b_stride.get(last, 0) == p.b_stride.get(name, 0) * size
                        and (not results or all(i.coef(last) == i.coef(name) * size for i in seen))
                    ):
                        p.extent[name] *= p.extent[last]
                        kept[-1] = name
                        continue
                kept.append(name)
            axes[:] = kept
        p.outer = [o for o in p.outer if p.extent[o] > 1 or o in p.batch]

    # --- loops -------------------------------------------------------------------------------------------------

    def _emit(self) -> Range:
        first = self.parts[0]
        batch_row = next((r for r in [*first.outer, *first.rows] if r in first.batch), None)
        if batch_row is not None and (first.extent[batch_row] >= 4 or self._only(first, batch_row)):
            return self._by_batch(batch_row)
        return self._by_units()

    def _only(self, p: Part, name: str) -> bool:
        return all(p.extent[o] == 1 for o in [*p.rows, *p.outer] if o != name) and p.extent[p.lane] <= self.vl

    def _by_batch(self, name: str) -> Range:
        """Share the rows of the batch among the threads."""
        self.b.choose("shared", "samples")
        per = self.parts[0].batch[name]
        innermost = self.parts[0].rows[-1] == name if self.parts[0].rows else False
        if innermost and per == 1 and name not in self.parts[0].outer:
            for p in self.parts:
                self._ragged_rows(p, name)
        else:
            with self.b.loop("row", var("lo"), var("hi")) as row:
                for p in self.parts:
                    rest = [o for o in p.outer if o != name]
                    self._outer(p, rest, [r for r in p.rows if r != name], {name: row})
        return Range(per=per)

    def _ragged_rows(self, p: Part, name: str) -> None:
        """Tile rows lo..hi, whose number is known only now: whole tiles, then the last tile again from the end."""
        tile = self._choose(p, max(p.extent[name] // 2, 1), 1, self.registers)
        self._say_tile(p, tile)
        above = [r for r in p.rows if r != name]
        blocked = not above and p.ks == ["k"] and "k" not in p.batch and p.extent["k"] >= 2 * K_BLOCK
        big = p.extent["k"] * p.extent[p.lane] * ITEMSIZE[self.dtype] > B_BYTES if blocked else False

        def whole_ks(at: dict[str, Index], widths: Widths) -> None:
            self._each_ragged(
                tile.wide,
                lambda row, count: self._nest(
                    above,
                    p,
                    {**at, name: row},
                    lambda deep: self._tile(p, deep, rows_along(name, count), widths),
                ),
            )

        def rows_loop(at: dict[str, Index]) -> None:
            if big:
                self._blocked_ks(p, name, tile, at)
                return
            for lane, widths in self._lane_blocks(p, tile.vectors):
                with lane as first:
                    whole_ks({**at, p.lane: first}, widths)

        self._nest(p.outer, p, {}, rows_loop)

    def _each_ragged(
        self, wide: int, body: Callable[[Index, int], None], start: Index | None = None, stop: Index | None = None
    ) -> None:
        """Walk rows lo..hi, or others, in tiles of ``wide``, then in tiles of the powers of two below it."""
        start, stop = start or var("lo"), stop or var("hi")
        sizes = [wide, *(1 << i for i in range(wide.bit_length() - 1, -1, -1) if 1 << i < wide)]
        for i, size in enumerate(sizes):
            last = i == len(sizes) - 1
            left = stop + start * -1
            end = stop if last else start + self.b.let("tiles", "muldiv", left, 1, size) * size
            with self.b.loop("row", start, end, size) as row:
                self.e.row, self.e.span = row, size
                body(row, size)
            start = end

    def _blocked_ks(self, p: Part, name: str, tile: Tile, at: dict[str, Index]) -> None:
        """Accumulate a block of the ks for all rows before the next: b is then read from memory once, not per tile.

        All lanes of some rows come before the next rows, so that a is read from memory once as well. Between blocks,
        sums wait in the arena. They are float32 there as in registers: no bit changes.
        """
        self.b.choose(
            "memory", f"sums wait in the arena while {K_BLOCK} ks of the large right operand are used for all rows"
        )
        sums = Sums(self.b, p, self.dtype)

        def each(body: OnTile) -> None:
            def rows(row: Index, count: int) -> None:
                for lane, widths in self._lane_blocks(p, tile.vectors):
                    with lane as first:
                        body({**at, name: row, p.lane: first}, rows_along(name, count), widths)

            self._each_ragged(tile.wide, rows)

        def block(start: Index, count: int) -> OnTile:
            part = replace(p, extent={**p.extent, "k": count})

            def body(at: dict[str, Index], rows: Steps, widths: Widths) -> None:
                before = sums.load(at, rows, widths)
                sums.save(at, rows, widths, accumulate(self.b, part, {**at, "k": start}, rows, widths, before))

            return body

        each(sums.clear)
        whole = p.extent["k"] - p.extent["k"] % K_BLOCK
        with self.b.loop("block", 0, whole, K_BLOCK) as k:
            each(block(k, K_BLOCK))
        if whole < p.extent["k"]:
            each(block(Index(whole), p.extent["k"] - whole))
        each(lambda at, rows, widths: self._finish(p, at, rows, widths, sums.load(at, rows, widths)))

    def _nest(self, axes: list[str], p: Part, at: dict[str, Index], body: Callable[[dict[str, Index]], None]) -> None:
        if not axes:
            body(at)
            return
        (name, *rest) = axes
        with self.b.loop(name, 0, p.stop(name)) as i:
            self._nest(rest, p, {**at, name: i}, body)

    def _outer(self, p: Part, outer: list[str], rows: list[str], at: dict[str, Index]) -> None:
        self._nest(outer, p, at, lambda here: self._static_rows(p, rows, here))

    def _pick(self, p: Part, rows: list[str], kept: int = 0) -> Tile:
        """Return the tile for ``rows``, with so many registers ``kept`` for other values."""
        registers = self.registers - kept
        wide = p.extent[rows[-1]] if rows and rows[-1] not in p.batch else 1
        above = p.extent[rows[-2]] if len(rows) > 1 and rows[-2] not in p.batch else 1
        vectors = -(-p.extent[p.lane] // self.vl)
        if p.empty:
            return few(Tile(1, wide, min(vectors, WIDEST)))
        if _depthwise(p):
            return choose_depthwise_tile(wide, above, vectors, self.isa.registers - kept, self.group.rank)
        window = math.prod(k for _, k in p.window)
        return self._choose(p, wide, above, registers, window)

    def _choose(self, p: Part, rows: int, above: int, registers: int, window: int = 1) -> Tile:
        """Return the tile for so many results in registers; less lanes than a vector has are several narrow ones."""
        lanes = p.extent[p.lane]
        vectors = -(-lanes // self.vl) if lanes >= self.vl else len(pieces(lanes, self.vl))
        latency = DOT if p.pair else MULTIPLY_ADD
        return choose_tile(rows, above, vectors, registers, latency, window, self.group.rank, lanes < self.vl)

    def _say_tile(self, p: Part, tile: Tile) -> None:
        rows, window = tile.high * tile.wide, math.prod(k for _, k in p.window)
        high = f"{rows}" if window == 1 else f"{rows} windows of {window}"
        sums = f"vectors of {self.vl} sums" if self.vl > 1 else "sums"
        held = f"{rows * window * tile.vectors} of {self.isa.registers} registers"
        why = why_direct(self.root, self.isa)
        direct = f"; 36 products for 4 results, not Winograd's 16: {why}" if why else ""
        self.b.choose("registers", f"{high} × {tile.vectors} {sums}, {held}{direct}")

    def _static_rows(self, p: Part, rows: list[str], at: dict[str, Index]) -> None:
        """Emit lane blocks, then loops over tiles of rows whose numbers are constants."""
        tile = self._pick(p, rows)
        self._say_tile(p, tile)

        def lanes(rows: list[str], at: dict[str, Index]) -> None:
            for lane, widths in self._lane_blocks(p, tile.vectors):
                with lane as first:
                    self._tiles(p, rows, {**at, p.lane: first}, tile, widths)

        if _depthwise(p) and tile.high == 1 and len(rows) > 1:  # all channels of a line of pixels, before the next line
            self._nest(rows[:-1], p, at, lambda here: lanes(rows[-1:], here))
        else:
            lanes(rows, at)

    def _tiles(self, p: Part, rows: list[str], at: dict[str, Index], tile: Tile, widths: Widths) -> None:
        if not rows or rows[-1] in p.batch:  # a batch of a few rows: no tile along it
            self._nest(rows, p, at, lambda here: self._tile(p, here, [[]], widths))
            return
        if len(rows) == 1 or tile.high == 1:
            self._nest(rows[:-1], p, at, lambda here: self._along_last(p, tile, here, [[]], widths))
            return
        second = rows[-2]

        def along_second(here: dict[str, Index]) -> None:
            self._along(
                p, second, tile.high, here, lambda h, n: self._along_last(p, tile, h, rows_along(second, n), widths)
            )

        self._nest(rows[:-2], p, at, along_second)

    def _along_last(self, p: Part, tile: Tile, at: dict[str, Index], above: Steps, widths: Widths) -> None:
        """Emit tiles along the last row axis, each with the ``above`` steps of the axis before it."""
        last = p.rows[-1]
        self._along(
            p,
            last,
            tile.wide,
            at,
            lambda h, n: self._tile(p, h, [u + w for u in above for w in rows_along(last, n)], widths),
        )

    def _along(
        self,
        p: Part,
        name: str,
        unit: int,
        at: dict[str, Index],
        body: Callable[[dict[str, Index], int], None],
    ) -> None:
        size = p.extent[name]
        whole = size - size % unit
        if whole:
            with self.b.loop(name, 0, whole, unit) as i:
                body({**at, name: i}, unit)
        if whole < size:
            body({**at, name: Index(whole)}, size - whole)

    def _lane_blocks(self, p: Part, vectors: int) -> Iterator[tuple]:
        """Yield (context manager of the block's first lane, [(offset, width) of its vectors])."""
        size, block = p.extent[p.lane], vectors * self.vl
        whole = size - size % block
        full = [(v * self.vl, self.vl) for v in range(vectors)]
        if whole:
            yield self.b.loop(p.lane, 0, whole, block), full
        if whole < size:
            yield _Fixed(Index(whole)), self._remainder(size - whole)

    def _remainder(self, size: int) -> Widths:
        """Return the vectors of the last, smaller block of lanes: whole ones, then one that ends with the block.

        The last one computes some lanes again: vectors of one width keep to the registers, where 16 and 8 lanes spill
        (144 to 24 channels: 220 instead of 120 GFLOP/s). In a block of less than a vector, powers of two.
        """
        if size < self.vl:
            return pieces(size, self.vl)
        return [(at, self.vl) for at in (*range(0, size - self.vl, self.vl), size - self.vl)]

    # --- sharing without a batch -------------------------------------------------------------------------------

    def _by_units(self) -> Range:
        """Share the tiles of the result among the threads, all of them counted as one axis of units."""
        self.b.choose("shared", "tiles of the result")
        counts = []
        for p in self.parts:
            tile = self._pick(p, p.rows)
            self._say_tile(p, tile)
            axes = self._unit_axes(p, tile)
            total = 1
            for _, count in axes:
                total *= count
            counts.append(total)
            share = total / counts[0]
            low = var("lo") if share == 1 else self.b.let("first", "muldiv", var("lo"), total, counts[0])
            high = var("hi") if share == 1 else self.b.let("last", "muldiv", var("hi"), total, counts[0])
            self._share(p, tile, axes, low, high)
            self.sweep = self._sweep(p, tile, axes) if len(self.parts) == 1 else None
        return Range(counts[0])

    def _share(self, p: Part, tile: Tile, axes: list[tuple[str, int]], low: Index, high: Index) -> None:
        """Emit the tiles of units ``low`` to ``high``."""
        self._units(p, tile, axes, low, high, partial(self._tile, p))

    def _sweep(self, p: Part, tile: Tile, axes: list[tuple[str, int]]) -> Sweep | None:
        """Return how the units walk down an image, if they do."""
        (first, _), *rest = axes
        if self.root.opname != "conv2d" or p.window or first not in ("y", "x") or p.clip:
            return None
        *_, height, width = self.root.shape
        merged = "y" not in p.rows
        if first == "x":
            if not merged or p.extent["x"] != height * width:
                return None
            pixels = tile.wide
        else:
            pixels = width * (tile.high if len(p.rows) > 1 and p.rows[-2] == "y" else 1)
        image, kernel = self.plan.operand(self.root, 0), self.root.inputs[1].shape[2]
        above = image.attrs["start"][2] if image.opname == "place" else 0
        reach = (kernel - 1) * self.root.attrs["dilation"][0] + 1 - above
        storage = self.plan.storage
        reads = {storage[n].buffer: (1, 0, 1) for n in self.e.used if n.shape == self.root.shape}
        reads[storage[image].buffer] = (self.root.attrs["stride"][0], -above, reach)
        return Sweep(height * width, width, pixels, math.prod(count for _, count in rest), reads)

    def _unit_axes(self, p: Part, tile: Tile) -> list[tuple[str, int]]:
        """Return (axis, count) of what a unit is one of: outer axes, rows, tiles along the rows, blocks of lanes.

        Lanes come last: with them first, large weights and their optimizer state were walked once per block. They come
        first where operand b is large itself: a block of its columns then stays in the cache for all rows.
        """
        axes = [(o, p.extent[o]) for o in p.outer if o not in p.batch]
        tiled = {p.rows[-1]: tile.wide} if p.rows and p.rows[-1] not in p.batch else {}
        if tile.high > 1:
            tiled[p.rows[-2]] = tile.high
        axes += [(r, -(-p.extent[r] // tiled.get(r, 1))) for r in p.rows if r not in p.batch]
        lanes = (p.lane, -(-p.extent[p.lane] // (tile.vectors * self.vl)))
        large = p.b.buffer.nbytes > max(B_COLUMNS, p.a.buffer.nbytes) and p.lane not in p.batch
        axes = [lanes, *axes] if large else [*axes, lanes]
        return [(name, count) for name, count in axes if count > 1 or name in (p.lane, *tiled)]

    def _units(self, p: Part, tile: Tile, axes: list[tuple[str, int]], low: Index, high: Index, body: OnTile) -> None:
        """Loop over units."""
        ragged = [r for r in [*p.outer, *p.rows] if r in p.batch]
        with self.b.loop("unit", low, high) as unit:
            at = {"unit": unit, **self._numbers(axes, unit)}
            self._nest(ragged, p, at, lambda here: self._one_unit(p, tile, here, body))

    def _numbers(self, axes: list[tuple[str, int]], unit: Index) -> dict[str, Index]:
        """Return a unit's number along each axis."""
        at = {}
        for name, count in reversed(axes):
            above = self.b.let("above", "muldiv", unit, 1, count) if count > 1 else unit
            at[name] = unit + above * -count if count > 1 else Index()
            unit = above
        return at

    def _one_unit(self, p: Part, tile: Tile, at: dict[str, Index], body: OnTile) -> None:
        """Turn a unit's numbers into indices; the last tile along an axis may be smaller than the others."""
        block = tile.vectors * self.vl
        full = [(v * self.vl, self.vl) for v in range(tile.vectors)]

        def along(name: str, unit: int, here: dict[str, Index], then: Callable[[dict[str, Index], int], None]) -> None:
            size = p.extent[name]
            whole, index = size // unit, here[name]
            for count, left, right in ((unit, index, Index(whole)), (size % unit, Index(whole - 1), index)):
                if count and (whole or count != unit):
                    ragged = whole and size % unit
                    with self.b.when(left, right) if ragged else contextlib.nullcontext():
                        then({**here, name: index * unit if count == unit else Index(whole * unit)}, count)

        def lanes(here: dict[str, Index]) -> None:
            along(p.lane, block, here, lambda h, n: last(h, full if n == block else self._remainder(n)))

        def last(here: dict[str, Index], widths: Widths) -> None:
            if not p.rows or p.rows[-1] in p.batch:
                body(here, [[]], widths)
                return
            name = p.rows[-1]
            along(name, tile.wide, here, lambda h, n: above(h, rows_along(name, n), widths))

        def above(here: dict[str, Index], steps: Steps, widths: Widths) -> None:
            if tile.high == 1:
                body(here, steps, widths)
                return
            name = p.rows[-2]
            along(
                name, tile.high, here, lambda h, n: body(h, [u + w for u in rows_along(name, n) for w in steps], widths)
            )

        lanes(at)

    # --- tiles -------------------------------------------------------------------------------------------------

    def _tile(self, p: Part, at: dict[str, Index], rows: Steps, widths: Widths) -> None:
        """Emit one tile: accumulate over the ks, then what follows, then the stores."""
        if not p.window:
            each = itertools.product(rows, widths)
            points = (
                Point(coordinates(p.out, at, r, p.lane, off), p.lane_axis if w > 1 else None, w) for r, (off, w) in each
            )
            asked = ask_for_what_follows(self.b, self.plan, self.group, points)
            if p.rows[:1] == ["n"] and p is self.parts[0] and not _depthwise(p):
                ask_for_next_image(self.b, p, at, len(rows), asked)
            self._finish(p, at, rows, widths, accumulate(self.b, p, at, rows, widths))
            return
        window = itertools.product(*([(name, i) for i in range(size)] for name, size in p.window))
        every = [row + list(shift) for row, shift in itertools.product(rows, list(window))]
        self._finish_pooled(p, at, rows, every, widths, accumulate(self.b, p, at, every, widths))

    def _finish_pooled(
        self, p: Part, at: dict[str, Index], rows: Steps, pixels: Steps, widths: Widths, acc: list[Value]
    ) -> None:
        """Store what is asked for of the pixels, and of the windows they form."""
        self.e.fresh()
        values: dict[tuple[Index, ...], Value] = {}
        every = list(itertools.product(pixels, widths))
        for (row, (off, _)), value in zip(every, acc, strict=True):
            values[pixel(self.root.shape, coordinates(p.out, at, row, p.lane, off))] = value
        self.e.tile = (self.root, values)
        results = []
        for node, storage in self.stores:
            pooled = node.shape == self.group.pooled
            coords = p.pooled if pooled else p.out
            for row, (off, w) in itertools.product(rows if pooled else pixels, widths):
                point = Point(coordinates(coords, at, row, p.lane, off), p.lane_axis if w > 1 else None, w)
                results.append((node, storage, point, self.e.full(node, point)))
        for node, storage, point, value in results:
            self.e.store(node, storage, point, value)
        self.e.tile = None
        self._note_rows(p)

    def _finish(self, p: Part, at: dict[str, Index], rows: Steps, widths: Widths, acc: list[Value]) -> None:
        self.e.fresh()
        overlap = any(off + w > after for (off, w), (after, _) in itertools.pairwise(widths))
        for r, row in enumerate(rows):
            results = []
            for v, (off, w) in enumerate(widths):
                point = Point(coordinates(p.out, at, row, p.lane, off), p.lane_axis if w > 1 else None, w)
                self.e.given = {self.root: acc[r * len(widths) + v]}
                results += [(n, s, point, self.e.full(n, point)) for n, s in self.stores]
                if not overlap or v == len(widths) - 1:  # lanes that are computed twice are read before they are stored
                    for n, s, where, value in results:
                        self.e.store(n, s, where, value)
                    results = []
        self.e.given = {}
        self._note_rows(p)

    def _note_rows(self, p: Part) -> None:
        """Operands are read at the kernel's own rows only if the batch axis of the operand is the shared one."""
        for i in (0, 1):
            x = self.plan.operand(self.root, i)
            rows = x.spec.rows
            shared = rows is not None and rows.per == 1 and self.root.spec.rows is not None
            if not shared:
                self.b.unaligned.add(self.plan.storage[x].buffer)


class _Fixed:
    """A context manager that stands where a loop of one round would."""

    def __init__(self, index: Index) -> None:
        self.index = index

    def __enter__(self) -> Index:
        return self.index

    def __exit__(self, *exc: object) -> None:
        return None
