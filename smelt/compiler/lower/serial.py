"""Lower contractions for one thread in the least memory: for a processor's vectors, or for a language without any.

In: a contract group. Out: one kernel. A tile is a few rows by a few vectors of results, as many as fit in registers; or
by a block of neighbouring results, over which the innermost loop of C then runs. Several ks of every row are one round
of the loop, so that each sum is read and written, and the loop counted, once for several multiply-adds. Where windows
reach into padding that is not in memory, the loops over the taps stop at the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from smelt.compiler.isa import Isa
from smelt.compiler.loops import Index, Kernel, Range, Value, as_index
from smelt.compiler.lower.contract import ContractLowering
from smelt.compiler.lower.microkernel import Steps, Widths
from smelt.compiler.lower.parts import Part
from smelt.compiler.lower.tiles import choose_tile, most_rows
from smelt.compiler.passes.fuse import Group
from smelt.compiler.passes.storage import Plan
from smelt.graph.graph import Node

MOST_ROWS = 5  # of a tile in C
ROUND = 16  # multiply-adds per result and round of the innermost loop, about
STRAIGHT = 40  # multiply-adds per result in one straight run of taps
Bounds = dict[str, tuple[Index, Index]]  # of axes of taps
At = dict[str, Index]


class SerialContraction(ContractLowering):
    """Builds the kernel of one contract group as loops for one thread."""

    def _merge(self, p: Part) -> None:
        self.grain: dict[str, int] = {}
        clipped = {*p.clip, *(row for row, *_ in p.clip.values())}
        if not clipped:
            super()._merge(p)
            return
        p.ks = [k for k in p.ks if p.extent[k] > 1 or k in clipped]
        p.rows = [r for r in p.rows if p.extent[r] > 1 or r in clipped]
        p.outer = [o for o in p.outer if p.extent[o] > 1]
        if p.ks[-2:] == ["kw", "ic"] and all(s["kw"] == s["ic"] * p.extent["ic"] for s in (p.a_stride, p.b_stride)):
            self.grain["kw"] = p.extent["ic"]  # neighbouring taps are one run of elements
            p.a_stride["kw"], p.b_stride["kw"] = p.a_stride["ic"], p.b_stride["ic"]
            p.ks.pop()

    def _emit(self) -> Range:
        for p in self.parts:
            self.vl = self.isa.width(self.dtype, p.extent[p.lane])
            vectors, self.most = self._shape(p)
            for lane, widths in self._lane_blocks(p, vectors):
                with lane as first:
                    self._nest(p.outer, p, {p.lane: first}, lambda at, p=p, w=widths: self._rows(p, p.rows, at, w, {}))  # type: ignore[misc]
        return Range(1)

    def _shape(self, p: Part) -> tuple[int, int]:
        """Return the vectors and the most rows of a tile."""
        if self.isa.block:
            return 1, MOST_ROWS
        if p.lane in p.a_stride:  # depthwise: as many vectors of a as of sums
            together = 4 if self.vl == 1 else 1
            return together, max(self.isa.registers // (2 * together) - 1, 1)
        wide = p.extent[p.rows[-1]] if p.rows else 1
        vectors = choose_tile(wide, 1, -(-p.extent[p.lane] // self.vl), self.isa.registers).vectors
        return vectors, most_rows(vectors, self.isa.registers)

    def _remainder(self, size: int) -> Widths:
        return [(0, size)] if self.isa.block else super()._remainder(size)

    # --- rows --------------------------------------------------------------------------------------------------

    def _rows(self, p: Part, rows: list[str], at: At, widths: Widths, bounds: Bounds) -> None:
        if not rows:
            self._one(p, at, [[]], widths, bounds)
        elif len(rows) == 1:
            self._line(p, rows[0], at, widths, bounds)
        else:
            (name, *rest) = rows
            with self.b.loop(name, 0, p.extent[name]) as i:
                here = {**at, name: i}
                self._rows(p, rest, here, widths, {**bounds, **self._clipped(p, name, i)})

    def _clipped(self, p: Part, row: str, i: Index) -> Bounds:
        """Return the taps that fall into the image, at position ``i`` of a row axis."""
        out: Bounds = {}
        for name, (axis, stride, before, size) in p.clip.items():
            if axis == row:
                inside = i * -stride + before
                low = self.b.let("low", "max", 0, inside)
                high = self.b.let("high", "min", p.extent[name], inside + size)
                grain = self.grain.get(name, 1)
                out[name] = (low * grain, high * grain)
        return out

    def _line(self, p: Part, name: str, at: At, widths: Widths, bounds: Bounds) -> None:
        """Emit tiles along the last row axis where all taps count, and single rows elsewhere."""
        size = p.extent[name]
        low, high = 0, size
        for tap, (axis, stride, before, image) in p.clip.items():
            if axis == name:
                low = min(-(-before // stride), size)
                high = max(low, min(size, (image + before - p.extent[tap]) // stride + 1))
        wide = _tile_rows(high - low, self.most)
        high -= (high - low) % wide
        if wide > 1 and low < high:
            with self.b.loop(name, low, high, wide) as i:
                self._one(p, {**at, name: i}, [[(name, k)] for k in range(wide)], widths, bounds)
        else:
            low = high = 0
        for i in self._others(name, low, high, size):
            self._one(p, {**at, name: i}, [[]], widths, {**bounds, **self._clipped(p, name, i)})

    def _others(self, name: str, low: int, high: int, size: int) -> Iterator[Index]:
        """Open one loop over the rows before ``low`` and from ``high`` on."""
        count = size - (high - low)
        if not count:
            return
        with self.b.loop(name, 0, count) as i:
            if low == 0:
                yield i + high
            elif high == size:
                yield i
            else:
                past = self.b.let("past", "min", i if low == 1 else self.b.let("past", "muldiv", i, 1, low), 1)
                yield i + past * (high - low)

    # --- tiles -------------------------------------------------------------------------------------------------

    def _one(self, p: Part, at: At, rows: Steps, widths: Widths, bounds: Bounds) -> None:
        self._finish(p, at, rows, widths, self._accumulate(p, at, rows, widths, bounds))

    def _accumulate(self, p: Part, at: At, rows: Steps, widths: Widths, bounds: Bounds) -> list[Value]:
        start_a, start_b = Index(p.a.offset + p.a_first), Index(p.b.offset + p.b_first)
        for name, i in at.items():
            start_a = start_a + i * p.a_stride.get(name, 0)
            start_b = start_b + i * p.b_stride.get(name, 0)
        shifts = [sum(i * p.a_stride.get(name, 0) for name, i in row) for row in rows]
        multiply = self._depthwise_step if p.a_stride.get(p.lane, 0) else self._step
        first = [self.b.const(0.0, self.dtype, w) for _ in rows for _, w in widths]

        def step(acc: list[Value], ia: Index, ib: Index) -> list[Value]:
            return multiply(p, acc, ia, ib, shifts, widths)

        return self._taps(p, p.ks, first, start_a, start_b, bounds, step)

    def _step(self, p: Part, acc: list[Value], ia: Index, ib: Index, shifts: list[int], widths: Widths) -> list[Value]:
        b = self.b
        vectors = [b.load(p.b.buffer, ib + off, w) for off, w in widths]
        pairs = []
        for s in shifts:
            x = b.load(p.a.buffer, ia + s)
            pairs += [(b.splat(x, v.lanes), v) for v in vectors]
        return [b.op("fma", x, v, sum_) for (x, v), sum_ in zip(pairs, acc, strict=True)]

    def _depthwise_step(
        self, p: Part, acc: list[Value], ia: Index, ib: Index, shifts: list[int], widths: Widths
    ) -> list[Value]:
        b = self.b
        vectors = [b.load(p.b.buffer, ib + off, w) for off, w in widths]
        pixels = [b.load(p.a.buffer, ia + (s + off), w) for s in shifts for off, w in widths]
        return [b.op("fma", x, v, sum_) for x, v, sum_ in zip(pixels, vectors * len(shifts), acc, strict=True)]

    def _taps(
        self,
        p: Part,
        ks: list[str],
        acc: list[Value],
        ia: Index,
        ib: Index,
        bounds: Bounds,
        step: Callable[[list[Value], Index, Index], list[Value]],
    ) -> list[Value]:
        """Loop over the ks, the innermost several at a time, or write a few of them out."""
        if not ks:
            return step(acc, ia, ib)
        (name, *rest) = ks
        grain = self.grain.get(name, 1)
        low, high = bounds.get(name, (Index(), Index(p.extent[name] * grain)))
        sa, sb = p.a_stride.get(name, 0), p.b_stride.get(name, 0)

        def at(acc: list[Value], i: Index | int) -> list[Value]:
            k = as_index(i)
            return self._taps(p, rest, acc, ia + k * sa, ib + k * sb, bounds, step)

        straight = len(acc)
        for axis in ks:
            straight *= p.extent[axis] * self.grain.get(axis, 1)
        soft = "fma" in self.isa.lacks  # what is done by a call takes the time it takes: code is kept short
        if straight <= (0 if soft else STRAIGHT) and not bounds.keys() & set(ks):
            for i in range(high.const):
                acc = at(acc, i)
            return acc
        if rest:
            with self.b.carry(name, low, high, acc) as (k, values):
                values[:] = at(list(values), k)
            return values
        most = 1 if soft else max(ROUND // len(acc), 4)
        if name in bounds:
            together, rest_of_it = _divisor(grain, most), 0
        else:
            together = _divisor(high.const, most)
            together = together if 2 * together >= min(most, high.const) else most
            rest_of_it = high.const % together
        with self.b.carry(name, low, high + -rest_of_it, acc, step=together) as (k, values):
            after = list(values)
            for i in range(together):
                after = at(after, k + i)
            values[:] = after
        acc = values
        for i in range(rest_of_it):
            acc = at(acc, high + (i - rest_of_it))
        return acc


def _divisor(number: int, most: int) -> int:
    return max(u for u in range(1, most + 1) if number % u == 0)


def _tile_rows(count: int, most: int) -> int:
    """Return how many rows make a tile: each tile costs a little beside its rows, and a row alone costs more."""
    if min(count, most) < 2:
        return 1
    return min(range(2, min(most, count) + 1), key=lambda r: count // r * (r + 1.5) + count % r * 2.5)


def lower_serial_contract(plan: Plan, group: Group, isa: Isa, name: str) -> tuple[list[Kernel], set[Node]]:
    """Return the kernels of a contract group and the nodes they load."""
    return SerialContraction(plan, group, isa, name).kernels()
