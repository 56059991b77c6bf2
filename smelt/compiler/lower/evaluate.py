"""Evaluate a node of a group at one point of its shape, for a whole vector of lanes.

In: coordinates as indices, the axis the lanes run along. Out: a value. Nodes of the group are computed, everything
else is loaded from where the plan stored it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from smelt.compiler.builder import Builder
from smelt.compiler.loops import Index, Instr, Loop, Stmt, Value, dot, var
from smelt.compiler.lower import math
from smelt.compiler.passes.fuse import Group
from smelt.compiler.passes.layout import Storage, dense
from smelt.compiler.passes.storage import Plan
from smelt.graph.graph import Node
from smelt.ops.primitive import Shape, short_dtype

NO_WINNER = 255  # index of a window without one
STRAIGHT = 64  # elements of a window that are combined without a loop


@dataclass(frozen=True)
class Point:
    """Coordinates per axis, the axis along which lanes advance by one (or None), and how many lanes."""

    coords: tuple[Index, ...]
    lane: int | None
    lanes: int

    def within(self, shape: Shape, sub: Shape) -> Point:
        """Return the point of an operand of shape ``sub`` that broadcasts to ``shape``."""
        extra = len(shape) - len(sub)
        coords = tuple(Index() if d == 1 else self.coords[i + extra] for i, d in enumerate(sub))
        lane = None if self.lane is None else self.lane - extra
        if lane is not None and (lane < 0 or sub[lane] == 1):
            lane = None
        return Point(coords, lane, self.lanes if lane is not None else 1)


def pixel(shape: Shape, coords: Sequence[Index]) -> tuple[Index, ...]:
    """Return coordinates that are equal for equal pixels however they were arrived at."""
    pairs = zip(shape, coords, strict=True)
    return tuple(Index() if d == 1 else Index(c.const, tuple(sorted(c.terms))) for d, c in pairs)


class Evaluator:
    """Computes the nodes of one group. ``given`` holds values computed by the kernel itself (reductions, products)."""

    def __init__(self, plan: Plan, group: Group, builder: Builder, row: Index | None = None) -> None:
        self.plan, self.group, self.b, self.row = plan, group, builder, row
        self.span = 1  # rows from ``row`` on that are the kernel's own
        self.slices = False  # rows are walked within slices of their own
        self.given: dict[Node, Value] = {}
        self.tile: tuple[Node, dict[tuple[Index, ...], Value]] | None = (
            None  # a node whose values at some points are given
        )
        self.used: set[Node] = set()
        self._mine = set(group.nodes)
        self._uniform: dict[Node, Value] = {}
        self._memo: dict[tuple, Value] = {}

    def fresh(self) -> None:
        """Forget values of the point before: a new loop body begins."""
        self._memo = {}

    def hoist(self, nodes: Sequence[Node], lanes: int) -> None:
        """Load scalars that ``nodes`` read once, before the loops."""
        seen: set[int] = set()
        stack = list(nodes)
        while stack:
            n = stack.pop()
            if id(n) in seen:
                continue
            seen.add(id(n))
            if n in self._mine or n in self.group.roots or n in self.plan.fusion.inline:
                stack.extend(n.inputs)
            elif n.spec.size == 1 and n in self.plan.storage and n.opname not in ("random_uniform",):
                point = Point((Index(),) * len(n.shape), None, 1)
                value = self._load(n, point)
                self.b.splat(value, lanes)
                self._uniform[n] = value

    def at(self, node: Node, point: Point) -> Value:
        """Return the node's value at a point of its own shape; 1 lane when it is the same in all."""
        if node in self.given:
            return self.given[node]
        if node in self._uniform:
            return self._uniform[node]
        if self.tile is not None and node is self.tile[0]:
            return self.tile[1][pixel(node.shape, point.coords)]
        key = (node, point)
        if key not in self._memo:
            self._memo[key] = self._compute(node, point)
        return self._memo[key]

    def _compute(self, node: Node, point: Point) -> Value:
        if node.kind == "constant" and node.spec.shape == () and node not in self.plan.storage:
            assert node.value is not None
            return self.b.const(node.value.item(), short_dtype(node.dtype))
        inside = node in self._mine or node in self.plan.fusion.inline
        if not inside:
            return self._load(node, point)
        special = getattr(self, f"_{node.opname}", None)
        if special is not None:
            return special(node, point)
        args = [self._operand(node, i, point) for i in range(len(node.inputs))]
        lanes = max(a.lanes for a in args)
        return math.lower(self.b, node.opname, [self.b.splat(a, lanes) for a in args])

    def _operand(self, node: Node, i: int, point: Point) -> Value:
        x = self.plan.operand(node, i)
        return self.at(x, point.within(node.shape, x.shape))

    def full(self, node: Node, point: Point) -> Value:
        """Return the value with exactly the point's lanes."""
        return self.b.splat(self.at(node, point), point.lanes)

    # --- memory ------------------------------------------------------------------------------------------------

    def offset(self, storage: Storage, coords: Sequence[Index]) -> Index:
        """Return the element index of a coordinate, which is even along an axis of pairs."""
        if storage.pair is not None:
            coords = [c.half() if axis == storage.pair else c for axis, c in enumerate(coords)]
        flat = dot(coords, storage.strides, storage.offset)
        if storage.panel is None:
            return flat
        width, stride = storage.panel
        return flat + self._panel(coords[storage.strides.index(1)], width) * (stride - width)

    def _panel(self, i: Index, width: int) -> Index:
        """Return the number of the panel of so many elements in which the ``i``-th is."""
        if not i.terms:
            return Index(i.const // width)
        return self.b.let("panel", "muldiv", i, 1, width)

    def _note(self, node: Node, storage: Storage, coords: Sequence[Index]) -> None:
        rows = node.spec.rows
        own = self.slices
        if self.row is not None and rows is not None:
            beyond = coords[rows.axis] + self.row * -1
            own |= not beyond.terms and 0 <= beyond.const < self.span
        if rows is None or rows.per != 1 or not own:
            self.b.unaligned.add(storage.buffer)

    def _load(self, node: Node, point: Point) -> Value:
        storage = self.plan.storage[node]
        self.used.add(node)
        self._note(node, storage, point.coords)
        if storage.pair is not None:
            return self._load_from_pairs(storage, point)
        step = 0 if point.lane is None else storage.strides[point.lane]
        return self.b.load(storage.buffer, self.offset(storage, point.coords), point.lanes if step else 1, step)

    def _load_from_pairs(self, storage: Storage, point: Point) -> Value:
        """Return one of each pair of bfloat16, in float32: the even or the odd one, as the coordinate says."""
        odd = point.coords[storage.pair].const % 2  # type: ignore[index]
        coords = [c + -odd if axis == storage.pair else c for axis, c in enumerate(point.coords)]
        both = self.b.load_pairs(storage.buffer, self.offset(storage, coords), point.lanes)
        return self.b.op("unpair", both, dtype="f32", imm=(odd,))

    def store(self, node: Node, storage: Storage, point: Point, value: Value) -> None:
        """Store a node's value at a point."""
        self._note(node, storage, point.coords)
        step = 1 if point.lane is None else storage.strides[point.lane]
        value = self.b.splat(value, point.lanes)
        self.b.store(storage.buffer, self.offset(storage, point.coords), value, step)

    def store_pairs(self, node: Node, storage: Storage, point: Point, even: Value, odd: Value) -> None:
        """Store a node's values at a point and at its neighbour along the axis of pairs."""
        self._note(node, storage, point.coords)
        values = (self.b.splat(v, point.lanes) for v in (even, odd))
        self.b.store_pairs(storage.buffer, self.offset(storage, point.coords), *values)

    # --- primitives that are not functions of their operands' values at the same point -------------------------

    def _copy(self, node: Node, point: Point) -> Value:
        return self._operand(node, 0, point)

    def _reshape(self, node: Node, point: Point) -> Value:
        (x,) = node.inputs  # only values of one element are recomputed through a reshape
        return self.at(x, Point((Index(),) * len(x.shape), None, 1))

    _permute = _broadcast_to = _slice = _reshape

    def _cast(self, node: Node, point: Point) -> Value:
        x = self._operand(node, 0, point)
        return self.b.op("cast", x, dtype=short_dtype(node.dtype)) if x.dtype != short_dtype(node.dtype) else x

    def _iota(self, node: Node, point: Point) -> Value:
        axis = node.attrs["axis"]
        along = point.lane == axis
        return self.b.index(point.coords[axis], short_dtype(node.dtype), point.lanes if along else 1, 1 if along else 0)

    def _count(self, node: Node, point: Point, rows_of: str = "n") -> Value:
        (x,) = node.inputs
        rows = x.spec.rows
        size = int(np.prod([x.shape[a] for a in node.attrs["axes"]], dtype=np.int64))
        if rows is None or rows.axis not in node.attrs["axes"]:
            return self.b.const(size, short_dtype(node.dtype))
        per_row = size // (x.shape[rows.axis] // rows.per)
        return self.b.index(var(rows_of) * per_row, short_dtype(node.dtype))

    def _count_all(self, node: Node, point: Point) -> Value:
        return self._count(node, point, "batch")

    def _later_round(self, node: Node, point: Point) -> Value:
        return self.b.op("lt", self.b.const(0, "i64"), self.b.index(var("first_row"), "i64"), dtype="bool")

    def _random_uniform(self, node: Node, point: Point) -> Value:
        state = node.inputs[0]
        words = [self.at(state, Point((Index(i),), None, 1)) for i in range(3)]
        strides = dense(node.shape, tuple(range(len(node.shape))))
        index = self.offset(Storage(self.plan.storage[state].buffer, strides), point.coords)
        if node.spec.rows is not None and node.spec.rows.axis == 0:
            index = index + var("first_row") * (node.spec.rows.per * strides[0])
        step = 0 if point.lane is None else strides[point.lane]
        lanes = point.lanes
        counter = self.b.index(index, "u32", lanes, step)
        key0, key1, high = (self.b.splat(w, lanes) for w in words)
        bits = math.random_bits(self.b, (key0, key1), counter, high)
        top = self.b.op("bitcast", self.b.op("lshr", bits, self.b.const(8, "u32", lanes)), dtype="i32")
        value = self.b.op("cast", top, dtype="f32")
        value = self.b.op("mul", value, self.b.const(2.0**-24, "f32", lanes))
        return value if node.dtype == np.float32 else self.b.op("cast", value, dtype=short_dtype(node.dtype))

    def _advance_random(self, node: Node, point: Point) -> Value:
        x = self._operand(node, 0, point)
        along = point.lane is not None
        where = self.b.index(point.coords[0], "u32", x.lanes, 1 if along else 0)
        hit = self.b.op("eq", where, self.b.const(2, "u32", x.lanes), dtype="bool")
        return self.b.op("select", hit, self.b.op("add", x, self.b.const(1, "u32", x.lanes)), x, dtype="u32")

    # --- windows -----------------------------------------------------------------------------------------------

    def _window(self, node: Node, point: Point, i: int | Index, j: int | Index) -> Value:
        """Return the operand's element (i, j) of the window at an output point."""
        x = self.plan.operand(node, 0)
        n, c, y, z = point.coords
        (sy, sz) = node.attrs["stride"]
        at = Point((n, c, y * sy + i, z * sz + j), point.lane, point.lanes)
        if point.lane in (2, 3) and node.attrs["stride"][point.lane - 2] != 1:
            raise AssertionError("lanes along a strided window axis")
        return self.at(x, at)

    def _positions(self, node: Node) -> list[tuple[int, int]]:
        kh, kw = node.attrs["kernel"]
        return [(i, j) for i in range(kh) for j in range(kw)]

    def _pooled(self, node: Node, point: Point, op: str) -> Value:
        """Combine a window from its first element to its last: in a straight run, or a loop where it is large."""
        kh, kw = node.attrs["kernel"]
        total = self._window(node, point, 0, 0)
        if kh * kw <= STRAIGHT:
            rest = [self._window(node, point, *at) for at in self._positions(node)[1:]]
            if op == "max" and total.lanes > 1:
                return self._largest([total, *rest])
            for x in rest:
                total = self.b.op(op, total, x)
            return total
        outside = dict(self._memo)  # what a loop computes is not there after it
        start = total if op == "max" else self._zero(node, total.lanes)
        with self.b.carry("wy", 0, kh, [start]) as (i, lines):
            with self.b.carry("wx", 0, kw, lines) as (j, acc):
                acc[0] = self.b.op(op, acc[0], self._window(node, point, i, j))
            lines[:] = acc
        self._memo = outside
        return lines[0]

    def _largest(self, values: list[Value]) -> Value:
        """Return the largest of several values, or NaN if one is: asked once, not at each step as ``max`` would.

        The comparisons are those that find the winner.
        """
        best, *rest = values
        for x in rest:
            best = self.b.op("select", self.b.op("lt", best, x, dtype="bool"), x, best, dtype=x.dtype)
        odd = [self.b.op("ne", x, x, dtype="bool") for x in values]
        nan = functools.reduce(functools.partial(self.b.op, "or"), odd)
        return self.b.op("select", nan, self.b.const(float("nan"), best.dtype, best.lanes), best, dtype=best.dtype)

    def _max_pool2d(self, node: Node, point: Point) -> Value:
        return self._pooled(node, point, "max")

    def _sum_pool2d(self, node: Node, point: Point) -> Value:
        return self._pooled(node, point, "add")

    def _max_pool2d_index(self, node: Node, point: Point) -> Value:
        (first, *rest) = self._positions(node)
        best = self._window(node, point, *first)
        lanes = best.lanes
        index = self.b.const(0, "i32", lanes)
        for k, (i, j) in enumerate(rest, 1):
            x = self._window(node, point, i, j)
            wins = self.b.op("lt", best, x, dtype="bool")
            best = self.b.op("select", wins, x, best, dtype=x.dtype)
            index = self.b.op("select", wins, self.b.const(k, "i32", lanes), index, dtype="i32")
        return self.b.op("cast", index, dtype="u8")

    def _covering(self, node: Node, point: Point) -> list[tuple[int, Point]]:
        """Return (position in the window, point of the output) for every window over an input point.

        The kernel's loops run over every ``stride``-th pixel, so the remainder of a coordinate is a constant.
        """
        a = node.attrs
        per_axis = []
        for axis in (0, 1):
            at = point.coords[2 + axis]
            s = a["stride"][axis]
            assert all(c % s == 0 for _, c in at.terms)
            reach = at.const + a["padding"][axis][0]
            q = Index(0, tuple((v, c // s) for v, c in at.terms))
            hits = [
                (k, q + ((reach - k) // s + a["origin"][axis]))
                for k in range(a["kernel"][axis])
                if (reach - k) % s == 0
            ]
            per_axis.append(hits)
        n, c = point.coords[:2]
        width = a["kernel"][1]
        return [
            (i * width + j, Point((n, c, y, x), point.lane, point.lanes))
            for i, y in per_axis[0]
            for j, x in per_axis[1]
        ]

    def _zero(self, node: Node, lanes: int) -> Value:
        return self.b.const(0.0, short_dtype(node.dtype), lanes)

    def _sum_pool2d_grad(self, node: Node, point: Point) -> Value:
        total: Value | None = None
        for _, at in self._covering(node, point):
            g = self.at(self.plan.operand(node, 0), at)
            total = g if total is None else self.b.op("add", total, g)
        return self._zero(node, point.lanes) if total is None else total

    def _won(self, node: Node, point: Point) -> Value:
        g, winner = (self.b.splat(self._operand(node, i, point), point.lanes) for i in (0, 1))
        none = self.b.op("eq", winner, self.b.const(NO_WINNER, "u8", winner.lanes), dtype="bool")
        return self.b.op("select", none, self._zero(node, g.lanes), g, dtype=g.dtype)

    def _max_pool2d_grad(self, node: Node, point: Point) -> Value:
        total: Value | None = None
        for k, at in self._covering(node, point):
            g = self.at(self.plan.operand(node, 0), at)
            index = self.b.op("cast", self.at(self.plan.operand(node, 1), at), dtype="i32")
            won = self.b.op("eq", index, self.b.const(k, "i32", index.lanes), dtype="bool")
            part = self.b.op("select", won, g, self._zero(node, g.lanes), dtype=g.dtype)
            total = part if total is None else self.b.op("add", total, part)
        return self._zero(node, point.lanes) if total is None else total


def accesses(body: Sequence[Stmt]) -> list[Index]:
    """Return every address and index number in a body, to see which axes may be merged."""
    out: list[Index] = []
    for s in body:
        if isinstance(s, Instr):
            if s.op in ("load", "store"):
                out.append(s.imm[1])
            elif s.op == "index":
                out.append(s.imm[0])
        elif isinstance(s, Loop):
            out += accesses(s.body)
    return out


def merge_axes(order: Sequence[int], shape: Shape, seen: Sequence[Index], fixed: set[int]) -> list[list[int]]:
    """Return runs of adjacent axes that every access walks as if they were one; ``fixed`` axes stay alone.

    Accesses name axis ``i`` by the variable ``a{i}``.
    """
    runs: list[list[int]] = []
    for axis in order:
        if shape[axis] == 1 and axis not in fixed:
            continue
        if runs and axis not in fixed and not fixed.intersection(runs[-1]):
            last = runs[-1][-1]
            if all(i.coef(f"a{last}") == i.coef(f"a{axis}") * shape[axis] for i in seen):
                runs[-1].append(axis)
                continue
        runs.append([axis])
    return runs


def pieces(extent: int, lanes: int) -> list[tuple[int, int]]:
    """Return (start, width) covering the remainder of ``extent`` after whole vectors, in powers of two."""
    out = []
    at = extent - extent % lanes
    width = lanes
    while at < extent:
        while width > extent - at:
            width //= 2
        out.append((at, width))
        at += width
    return out
