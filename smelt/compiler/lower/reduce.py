"""Lower a group of reductions over the same axes, with the pointwise nodes before and after them.

In: a reduce group. Out: one kernel, or two when few results are reduced from much: then fixed slices of the outermost
reduced axis are summed apart and added in order, whatever the number of threads. Lanes run along a kept axis
where one is contiguous, else along the reduced axis with a fixed tree at the end. Each nested loop starts its own
sum, which keeps rounding errors small.
"""

from __future__ import annotations

from collections.abc import Sequence

from smelt.compiler.builder import Builder
from smelt.compiler.isa import Isa
from smelt.compiler.loops import ITEMSIZE, Buffer, Index, Instr, Kernel, Range, Value, as_index, var
from smelt.compiler.lower.evaluate import Evaluator, Point, pieces
from smelt.compiler.lower.sums import SLICES, slices
from smelt.compiler.passes.fuse import Group
from smelt.compiler.passes.storage import Plan
from smelt.graph.graph import Node
from smelt.ops.primitive import short_dtype

SLICED_WORK = 16384  # elements from which slicing pays
FEW = 8  # elements that one of a slice's results stands for, at least
WAYS = 4  # independent sums in the innermost loop


LOWEST = {"i8": -(2**7), "i32": -(2**31), "i64": -(2**63), "u8": 0, "u32": 0, "bool": 0}


def lowest(dtype: str) -> float:
    """Return what every element of a type is at least."""
    return LOWEST.get(dtype, float("-inf"))


class ReduceLowering:
    """Builds the kernels of one reduce group."""

    def __init__(self, plan: Plan, group: Group, isa: Isa, name: str) -> None:
        self.plan, self.group, self.isa, self.name = plan, group, isa, name
        self.full, self.axes = group.full, group.axes
        self.kept = [a for a in range(len(self.full)) if a not in self.axes]
        self.roots = group.roots
        self.inputs = [plan.operand(r, 0) for r in self.roots]
        self.dtype = short_dtype(self.inputs[0].dtype)
        self.used: set[Node] = set()
        self.rows = next((i.spec.rows for i in self.inputs if i.spec.rows), None)
        stored = [plan.storage.get(plan.fusion.narrow(x)) for x in self.inputs]
        self.pair = next((s.pair for s in stored if s is not None and s.pair is not None), None)
        self.lane, self.order = self._choose_lane()
        self.work = 1
        for d in self.full:
            self.work *= d

    def _choose_lane(self) -> tuple[int | None, list[int]]:
        """Return the axis that most operands have contiguous, and the axes by stride, outermost first."""
        b = Builder("probe")
        e = Evaluator(self.plan, self.group, b)
        point = Point(tuple(var(f"a{i}") * (2 if i == self.pair else 1) for i in range(len(self.full))), None, 1)
        for x in self.inputs:
            e.at(x, point)
        loads = [s.imm[1] for s in b.body if isinstance(s, Instr) and s.op == "load"]
        side = {s.imm[1]: 2 for s in b.body if isinstance(s, Instr) and s.out is not None and s.out.dtype == "pair"}
        weight = [0] * len(self.full)
        for index in loads:
            for a, d in enumerate(self.full):
                weight[a] += index.coef(f"a{a}") == side.get(index, 1) and d > 1 and a != self.pair
        main = max(loads, key=lambda i: len(i.terms), default=Index())
        order = sorted(range(len(self.full)), key=lambda a: (-abs(main.coef(f"a{a}")), a))
        lane = max(range(len(self.full)), key=lambda a: weight[a], default=None)
        if lane is None or weight[lane] == 0 or (self.roots[0].opname == "argmax" and lane in self.axes):
            lane = None
        if lane in self.axes and (self.isa.block or self.isa.lanes(self.dtype) == 1):
            lane = None  # without vectors, a sum of several partial sums is quicker
        if lane is not None and self.rows is not None and lane == self.rows.axis:
            lane = None  # a short batch must not be read beyond its end
        return lane, order

    def kernels(self) -> list[Kernel]:
        """Return the kernels in the order they run."""
        if 0 in self.group.shape:
            return [Builder(self.name).finish(Range(0))]
        outer = self._outer_reduced()
        results = self.work // max(self._size(self.axes), 1)
        few = results <= 8 * (1 if self.isa.serial else self.isa.lanes(self.dtype)) and not self._rows_kept()
        if outer is not None and few and self.work >= SLICED_WORK and self.roots[0].opname != "argmax":
            return self._sliced(outer)
        return [self._whole()]

    def _size(self, axes: Sequence[int]) -> int:
        out = 1
        for a in axes:
            out *= self.full[a]
        return out

    def _rows_kept(self) -> bool:
        return self.rows is not None and self.rows.axis in self.kept

    def _outer_reduced(self) -> int | None:
        """Return the outermost reduced axis that has something to slice."""
        if self.rows is not None and self.rows.axis in self.axes:
            return self.rows.axis
        return next((a for a in self.order if a in self.axes and a != self.lane and self.full[a] >= SLICES), None)

    def _extent(self, axis: int) -> Index:
        """Return how far a loop over an axis goes: over the rows present, where it follows the batch."""
        if self.rows is not None and axis == self.rows.axis and axis in self.axes:
            return var("n") * self.rows.per
        return Index(self.full[axis])

    # --- accumulation ------------------------------------------------------------------------------------------

    def _start(self, root: Node, lanes: int) -> Value:
        return self.b.const(lowest(self.dtype) if root.opname == "max" else 0, self.dtype, lanes)

    def _combine(self, root: Node, a: Value, b: Value) -> Value:
        return self.b.op("max" if root.opname == "max" else "add", a, b)

    def _point(self, coords: dict[int, Index], lanes: int) -> Point:
        lane = self.lane if lanes > 1 else None
        return Point(tuple(coords.get(a, Index()) for a in range(len(self.full))), lane, lanes)

    def _terms(self, coords: dict[int, Index], lanes: int) -> list[Value]:
        self.e.fresh()
        return [self.e.full(x, self._point(coords, lanes)) for x in self.inputs]

    def _reduce(self, coords: dict[int, Index], lanes: int, bounds: dict[int, tuple[Index, Index]]) -> list[Value]:
        """Return each root's reduction at kept coordinates, of ``lanes`` results or one."""
        axes = [a for a in self.order if a in self.axes and (self.full[a] != 1 or a in bounds)]
        if self.lane in axes:
            axes = [a for a in axes if a != self.lane] + [self.lane]
        if self.roots[0].opname == "argmax":
            return [self._argmax(axes, coords, lanes)]
        return self._level(axes, coords, lanes, bounds)

    def _level(
        self, axes: list[int], coords: dict[int, Index], lanes: int, bounds: dict[int, tuple[Index, Index]]
    ) -> list[Value]:
        if not axes:
            return self._terms(coords, lanes)
        (axis, *rest) = axes
        low, high = bounds.get(axis, (Index(), self._extent(axis)))
        if axis == self.lane:
            return self._along_lanes(axis, coords)
        first = [self._start(r, lanes) for r in self.roots]
        if rest:
            with self.b.carry(f"r{axis}", low, high, first) as (i, acc):
                part = self._level(rest, {**coords, axis: i}, lanes, bounds)
                acc[:] = [self._combine(r, a, p) for r, a, p in zip(self.roots, acc, part, strict=True)]
            return acc
        return self._innermost(axis, low, high, coords, lanes)

    def _innermost(self, axis: int, low: Index, high: Index, coords: dict[int, Index], lanes: int) -> list[Value]:
        """Reduce a loop with several independent sums, then what is left over."""
        count = len(self.roots)
        if not low.terms and not high.terms and high.const - low.const < 2 * WAYS:
            return self._one_by_one(axis, low, high, [self._start(r, lanes) for r in self.roots], coords, lanes)
        quarter = self.b.let("quarter", "muldiv", high + low * -1, 1, WAYS)
        many = [self._start(r, lanes) for _ in range(WAYS) for r in self.roots]
        with self.b.carry(f"r{axis}", 0, quarter, many) as (i, acc):
            after = []
            for way in range(WAYS):
                part = self._terms({**coords, axis: low + i * WAYS + way}, lanes)
                mine = acc[way * count : (way + 1) * count]
                after += [self._combine(r, a, p) for r, a, p in zip(self.roots, mine, part, strict=True)]
            acc[:] = after
        ways = [acc[w * count : (w + 1) * count] for w in range(WAYS)]
        total = [
            self._combine(r, self._combine(r, a, b), self._combine(r, c, d))
            for r, a, b, c, d in zip(self.roots, *ways, strict=True)
        ]
        left = low + quarter * WAYS if axis != self.pair else Index(high.const - high.const % WAYS)
        return self._one_by_one(axis, left, high, total, coords, lanes)

    def _one_by_one(
        self, axis: int, low: Index, high: Index, total: list[Value], coords: dict[int, Index], lanes: int
    ) -> list[Value]:
        """Add to one sum; along an axis of pairs without a loop, for which of a pair is read must be known here."""
        if axis == self.pair:
            for at in range(low.const, high.const):
                part = self._terms({**coords, axis: Index(at)}, lanes)
                total = [self._combine(r, a, p) for r, a, p in zip(self.roots, total, part, strict=True)]
            return total
        with self.b.carry(f"r{axis}", low, high, total) as (i, acc):
            part = self._terms({**coords, axis: i}, lanes)
            acc[:] = [self._combine(r, a, p) for r, a, p in zip(self.roots, acc, part, strict=True)]
        return acc

    def _along_lanes(self, axis: int, coords: dict[int, Index]) -> list[Value]:
        """Reduce a contiguous axis: vectors, a fixed tree over the lanes, then the remainder."""
        size, wide = self.full[axis], self.isa.lanes(self.dtype)
        total: list[Value] | None = None
        if size >= wide:
            first = [self._start(r, wide) for r in self.roots]
            with self.b.carry(f"r{axis}", 0, size - size % wide, first, step=wide) as (i, acc):
                part = self._terms({**coords, axis: i}, wide)
                acc[:] = [self._combine(r, a, p) for r, a, p in zip(self.roots, acc, part, strict=True)]
            total = [self._tree(r, a) for r, a in zip(self.roots, acc, strict=True)]
        for start, width in pieces(size, wide):
            part = [
                self._tree(r, t)
                for r, t in zip(self.roots, self._terms({**coords, axis: Index(start)}, width), strict=True)
            ]
            total = (
                part
                if total is None
                else [self._combine(r, a, p) for r, a, p in zip(self.roots, total, part, strict=True)]
            )
        return total if total is not None else [self._start(r, 1) for r in self.roots]

    def _tree(self, root: Node, value: Value) -> Value:
        while value.lanes > 1:
            half = value.lanes // 2
            low = self.b.op("half", value, lanes=half, imm=(0,))
            high = self.b.op("half", value, lanes=half, imm=(1,))
            value = self._combine(root, low, high)
        return value

    def _argmax(self, axes: list[int], coords: dict[int, Index], lanes: int) -> Value:
        """Return the flat index of the first largest element, walking the axes in C order."""
        axes = sorted(axes)
        best = self.b.const(lowest(self.dtype), self.dtype, lanes)
        at = self.b.const(0, "i64", lanes)
        stride = {}
        step = 1
        for a in reversed(self.axes):
            stride[a] = step
            step *= self.full[a]

        def level(rest: list[int], here: dict[int, Index], carried: list[Value]) -> list[Value]:
            if not rest:
                (x,) = self._terms(here, lanes)
                wins = self.b.op("lt", carried[0], x, dtype="bool")
                flat = Index()
                for a in self.axes:
                    flat = flat + as_index(here.get(a, Index())) * stride[a]
                index = self.b.splat(self.b.index(flat, "i64"), lanes)
                return [
                    self.b.op("select", wins, x, carried[0], dtype=x.dtype),
                    self.b.op("select", wins, index, carried[1], dtype="i64"),
                ]
            (axis, *more) = rest
            with self.b.carry(f"r{axis}", 0, self._extent(axis), carried) as (i, acc):
                acc[:] = level(more, {**here, axis: i}, list(acc))
            return acc

        return level(axes, dict(coords), [best, at])[1]

    # --- kernels -----------------------------------------------------------------------------------------------

    def _finish_point(self, coords: dict[int, Index], values: list[Value], lanes: int) -> None:
        """Compute what follows the reductions at one point of the result, and store."""
        self.e.fresh()
        self.e.given = dict(zip(self.roots, values, strict=True))
        lane = self.kept.index(self.lane) if lanes > 1 and self.lane in self.kept else None
        point = Point(tuple(coords.get(a, Index()) for a in self.kept), lane, lanes)
        stores = self.plan.stores[self.group]
        results = [(n, s, self.e.full(n, point)) for n, s in stores]
        for n, s, v in results:
            self.e.store(n, s, point, v)
        self.e.given = {}

    def _each_kept(self, body, parallel_rows: bool) -> Range:  # type: ignore[no-untyped-def]
        """Loop over the kept axes and call ``body(coords, lanes)``; return the range of the outermost loop."""
        axes = [a for a in self.order if a in self.kept and self.full[a] != 1 and a != self.lane]
        lanes_axis = self.lane if self.lane in self.kept else None
        units: Range
        if parallel_rows and self._rows_kept():
            assert self.rows is not None
            outer: int | None = self.rows.axis
            units = Range(per=self.rows.per)
        else:
            outer = max(axes, key=lambda a: self.full[a], default=None)
            units = Range(self.full[outer]) if outer is not None else Range(1)
        inner = [a for a in axes if a != outer]
        vectors = lanes_axis is not None and self.full[lanes_axis] > 1
        if outer is None and vectors:
            return self._lane_blocks(lanes_axis, body)  # type: ignore[arg-type]

        def nest(rest: list[int], coords: dict[int, Index]) -> None:
            if rest:
                with self.b.loop(f"i{rest[0]}", 0, self.full[rest[0]]) as i:
                    nest(rest[1:], {**coords, rest[0]: i})
            elif vectors:
                self._lanes(lanes_axis, coords, body)  # type: ignore[arg-type]
            else:
                body(coords, 1)

        if outer is None:
            nest(inner, {})
        else:
            with self.b.loop("row" if units.per else "i", var("lo"), var("hi")) as i:
                nest(inner, {outer: i})
        return units

    def _lanes(self, axis: int, coords: dict[int, Index], body) -> None:  # type: ignore[no-untyped-def]
        size, wide = self.full[axis], self.isa.width(self.dtype, self.full[axis])
        if size >= wide:
            with self.b.loop(f"i{axis}", 0, size - size % wide, wide) as i:
                body({**coords, axis: i}, wide)
        for start, width in pieces(size, wide):
            body({**coords, axis: Index(start)}, width)

    def _lane_blocks(self, axis: int, body) -> Range:  # type: ignore[no-untyped-def]
        """Share vectors of results among the threads; the remainder belongs to the last unit."""
        size, wide = self.full[axis], self.isa.width(self.dtype, self.full[axis])
        whole = size - size % wide
        if whole:
            stop = self.b.let("stop", "min", var("hi") * wide, whole)
            with self.b.loop("i", var("lo") * wide, stop, wide) as i:
                body({axis: i}, wide)
        if whole < size:
            with self.b.when(size - 1, var("hi") * wide):
                for start, width in pieces(size, wide):
                    body({axis: Index(start)}, width)
        return Range(size, grain=wide)

    def _new_builder(self, name: str, row: Index | None) -> None:
        self.b = Builder(name)
        self.e = Evaluator(self.plan, self.group, self.b, row)

    def _say_lanes(self) -> None:
        wide = f"vectors of {self.isa.lanes(self.dtype)}"
        if self.lane is None:
            self.b.choose("registers", "one number at a time: along no axis may its operands be read in vectors")
        else:
            self.b.choose("registers", f"{wide} results" if self.lane in self.kept else f"{wide}, then a tree")

    def _whole(self) -> Kernel:
        rows = self._rows_kept()
        self._new_builder(self.name, var("row") if rows else None)
        self.e.hoist(self.group.members(), self.isa.lanes(self.dtype))
        self._say_lanes()
        self.b.choose("shared", "samples" if rows else "results")

        def body(coords: dict[int, Index], lanes: int) -> None:
            self._finish_point(coords, self._reduce(coords, lanes, {}), lanes)

        units = self._each_kept(body, rows)
        self.used |= self.e.used
        return self.b.finish(units)

    def _sliced(self, outer: int) -> list[Kernel]:
        """Return two kernels: partial results of every slice, then their sum and what follows."""
        results = self.work // self._size(self.axes)
        count = SLICES
        follows = self.rows is not None and (outer, 1) == (self.rows.axis, self.rows.per) and outer != self.pair
        if follows:
            nbytes = self.work * ITEMSIZE[self.dtype]
            count = max(SLICES, slices(nbytes, self.full[outer], self.work // (FEW * results)))
        partial = [Buffer(f"{self.name}_{i}", self.dtype, count * results, "arena") for i in range(len(self.roots))]
        strides, step = {}, 1
        ordered = [a for a in self.order if a in self.kept and a != self.lane] + (
            [self.lane] if self.lane in self.kept else []
        )
        for a in reversed(ordered):
            strides[a] = step
            step *= self.full[a]

        def place(coords: dict[int, Index], s: Index) -> Index:
            at = s * results
            for a, i in coords.items():
                if a in strides:
                    at = at + i * strides[a]
            return at

        self._new_builder(f"{self.name}_slices", None)
        self.e.slices = follows
        self.e.hoist([*self.inputs], self.isa.lanes(self.dtype))
        self._say_lanes()
        self.b.choose("shared", "fixed slices of the data")
        with self.b.loop("s", var("lo"), var("hi")) as s:
            extent = self._extent(outer)
            low = self.b.let("low", "muldiv", extent, s, count)
            high = self.b.let("high", "muldiv", extent, s + 1, count)

            def slice_body(coords: dict[int, Index], lanes: int) -> None:
                values = self._reduce(coords, lanes, {outer: (low, high)})
                for buffer, value in zip(partial, values, strict=True):
                    self.b.store(buffer, place(coords, s), self.b.splat(value, lanes))

            self._serial_kept(slice_body)
        self.b.unaligned.update(partial)
        first = self.b.finish(Range(count, slices=count if follows else 0))
        self.used |= self.e.used

        self._new_builder(self.name, None)
        self.e.hoist(self.group.nodes, self.isa.lanes(self.dtype))
        self._say_lanes()
        self.b.choose("shared", "results, from all slices")

        def sum_body(coords: dict[int, Index], lanes: int) -> None:
            values = [self.b.load(p, place(coords, Index()), lanes) for p in partial]
            with self.b.carry("s", 1, count, values) as (s, total):
                more = [self.b.load(p, place(coords, s), lanes) for p in partial]
                total[:] = [self._combine(r, a, m) for r, a, m in zip(self.roots, total, more, strict=True)]
            self._finish_point(coords, total, lanes)

        units = self._each_kept(sum_body, False)
        self.used |= self.e.used
        return [first, self.b.finish(units)]

    def _serial_kept(self, body) -> None:  # type: ignore[no-untyped-def]
        axes = [a for a in self.order if a in self.kept and self.full[a] != 1 and a != self.lane]
        lanes_axis = self.lane if self.lane in self.kept else None

        def nest(rest: list[int], coords: dict[int, Index]) -> None:
            if rest:
                with self.b.loop(f"i{rest[0]}", 0, self.full[rest[0]]) as i:
                    nest(rest[1:], {**coords, rest[0]: i})
            elif lanes_axis is not None:
                self._lanes(lanes_axis, coords, body)
            else:
                body(coords, 1)

        nest(axes, {})


def lower_reduce(plan: Plan, group: Group, isa: Isa, name: str) -> tuple[list[Kernel], set[Node]]:
    """Return the kernels of a reduce group and the nodes they load."""
    lowering = ReduceLowering(plan, group, isa, name)
    kernels = lowering.kernels()
    return kernels, lowering.used
