"""Lower a group of pointwise and window nodes: loops over its shape, vectors along the innermost axis.

In: a group without reduction or contraction. Out: one kernel. Axes that all operands walk alike are merged; where a
node gathers over windows with a stride, the image's axes are walked one residue at a time.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

from smelt.compiler.builder import Builder
from smelt.compiler.isa import Isa
from smelt.compiler.loops import Index, Kernel, Range, Value, var
from smelt.compiler.lower.evaluate import Evaluator, Point, accesses, merge_axes, pieces
from smelt.compiler.passes.fuse import Group
from smelt.compiler.passes.layout import Storage, order_of
from smelt.compiler.passes.storage import Plan
from smelt.graph.graph import Node
from smelt.ops.primitive import short_dtype

TURNING = ("copy", "won")  # may read their first operand along another axis than they write
GRAIN = 1024  # elements one thread takes at least from a flat loop


class MapLowering:
    """Builds the kernel of one map group."""

    def __init__(self, plan: Plan, group: Group, isa: Isa) -> None:
        self.plan, self.group, self.isa = plan, group, isa
        self.stores = plan.stores[group]
        self.shape = group.shape
        widest = max((short_dtype(n.dtype) for n in group.nodes), key=lambda d: {"f64": 8, "i64": 8}.get(d, 4))
        self.lanes = isa.lanes(widest)
        self.pair = next((s.pair for _, s in self.stores if s.pair is not None), None)  # walked two by two

    def kernel(self, name: str) -> tuple[Kernel, set[Node]]:
        """Return the kernel and the nodes it loads."""
        self.b = Builder(name)
        order = list(self.group.order or order_of(self.shape, self.stores[0][1].strides))
        residues = self._residues()
        rows = self.group.rows
        parallel: int | None = None
        along = rows is not None and (rows.axis == order[-1] or self._copies_along(rows.axis)) and len(order) > 1
        if rows is not None and (not along or self._reads_input()):
            parallel = rows.axis
            order.remove(parallel)
        fixed = {a + 2 for a in (0, 1) if residues[a] > 1} | ({parallel} if parallel is not None else set())
        fixed |= {self.pair} if self.pair is not None else set()
        runs = merge_axes(order, self.shape, self._probe(), fixed)
        if runs:
            self.b.choose("registers", f"vectors of {self.lanes}")
        self.runs, self.residues, self._parallel = runs, residues, parallel
        if 0 in self.shape:
            self.e = Evaluator(self.plan, self.group, self.b)
            return self.b.finish(Range(0)), set()
        self.across = self._transposed_axis(runs)
        if parallel is not None and parallel != self.pair and self._one_large_sample(parallel):
            with self.b.loop("row", 0, var("n")) as row:
                return self._without_rows(runs, {parallel: row})
        if parallel is not None:
            assert rows is not None
            self.b.choose("shared", "samples")
            with self._loop_rows(parallel) as row:
                self._nest(runs, {parallel: self._place(parallel, row)})
            return self.b.finish(Range(per=rows.per, grain=2 if parallel == self.pair else 1)), self.e.used
        return self._without_rows(runs, {})

    def _read_first(self, node: Node) -> Node:
        """Return the first operand of a node, or what that is converted from as it is read."""
        source = self.plan.operand(node, 0)
        cast = source in self.plan.fusion.inline and source.opname == "cast"
        return self.plan.operand(source, 0) if cast else source

    def _copies_along(self, axis: int) -> bool:
        """Return whether this turns what lies contiguously along ``axis``: it is better not cut there."""
        (node, *more) = self.group.nodes
        if node.opname not in TURNING or more:
            return False
        source = self.plan.storage.get(self._read_first(node))
        return source is not None and source.strides[axis] == 1 and self.shape[axis] >= self.lanes

    def _reads_input(self) -> bool:
        """Return whether a caller's own array is read: it must not be read beyond its true rows."""
        stack, seen = list(self.group.nodes), set()
        while stack:
            n = stack.pop()
            if id(n) in seen:
                continue
            seen.add(id(n))
            storage = self.plan.storage.get(n)
            if storage is not None and storage.buffer.kind == "input":
                return True
            if n in self.group.nodes or n in self.plan.fusion.inline:
                stack.extend(self.plan.operand(n, i) for i in range(len(n.inputs)))
        return False

    def _loop_rows(self, parallel: int):  # type: ignore[no-untyped-def]
        row = var("row")
        self.e = Evaluator(self.plan, self.group, self.b, row)
        self.e.hoist(self.group.nodes, self.lanes)
        return self.b.loop("row", var("lo"), var("hi"))

    def _one_large_sample(self, rows: int) -> bool:
        """Return whether the batch is one sample, large enough to be shared by the threads at the cost of a barrier."""
        return self.shape[rows] == 1 and math.prod(self.shape) >= 16 * GRAIN

    def _without_rows(self, runs: list[list[int]], coords: dict[int, Index]) -> tuple[Kernel, set[Node]]:
        """Share elements among the threads; ``coords`` are those of the axes that are walked already."""
        self.e = Evaluator(self.plan, self.group, self.b)
        self.e.hoist(self.group.nodes, self.lanes)
        if not runs:
            self.b.choose("shared", "one thread: one number")
            self._nest([], coords)
            return self.b.finish(Range(1)), self.e.used
        sizes = [self._rounds(r) for r in runs]
        outer = max(
            (i for i in range(len(runs) - 1) if runs[i] is not self.across),
            key=lambda i: min(sizes[i], 64),
            default=None,
        )
        if outer is not None and (sizes[outer] >= 8 or sizes[outer] * 64 >= sizes[-1]) and not self._split(runs[outer]):
            run = runs[outer]
            self.b.choose("shared", "elements along an outer axis")
            if self.across is not None and len(runs) == 3:
                self._squares(runs[-1], coords, along=run)
                return self.b.finish(Range(sizes[outer])), self.e.used
            with self.b.loop("i", var("lo"), var("hi")) as i:
                self._nest([r for r in runs if r is not run], {**coords, run[-1]: self._place(run[-1], i)})
            return self.b.finish(Range(sizes[outer])), self.e.used
        if self.across is not None and len(runs) == 2:
            self.b.choose("shared", "bands of transposed squares")
            self._squares(runs[-1], coords, shared=True)
            return self.b.finish(Range(self._size(self.across), grain=self.lanes)), self.e.used
        if len(runs) == 1 and not self._split(runs[0]) and self.pair is None and sizes[0] > 4 * GRAIN:
            return self._flat(runs[0], sizes[0], coords)
        self.b.choose("shared", "one thread: too little to share")
        self._nest(runs, coords)
        return self.b.finish(Range(1)), self.e.used

    def _flat(self, run: list[int], size: int, coords: dict[int, Index]) -> tuple[Kernel, set[Node]]:
        self.b.choose("shared", f"runs of {GRAIN} elements")
        axis = run[-1]
        whole = size - size % self.lanes
        stop = self.b.let("stop", "min", var("hi") * GRAIN, whole)
        with self.b.loop("i", var("lo") * GRAIN, stop, self.lanes) as i:
            self._body({**coords, axis: i}, axis, self.lanes)
        if whole < size:
            with self.b.when(size - 1, var("hi") * GRAIN):
                for start, width in pieces(size, self.lanes):
                    self._body({**coords, axis: Index(start)}, axis, width)
        return self.b.finish(Range(size, grain=GRAIN)), self.e.used

    def _size(self, run: Sequence[int]) -> int:
        size = 1
        for a in run:
            size *= self.shape[a]
        return size

    def _rounds(self, run: Sequence[int]) -> int:
        """Return how often a loop over a run of axes goes round."""
        return -(-self._size(run) // 2) if run[-1] == self.pair else self._size(run)

    def _place(self, axis: int, i: Index) -> Index:
        return i * 2 if axis == self.pair else i

    # --- loops -------------------------------------------------------------------------------------------------

    def _residues(self) -> tuple[int, int]:
        """Return the stride of window gradients along the image's two axes (1 where there are none)."""
        strides = {n.attrs["stride"] for n in self.group.nodes if n.opname in ("max_pool2d_grad", "sum_pool2d_grad")}
        if not strides:
            return (1, 1)
        (only,) = strides
        return only

    def _split(self, run: Sequence[int]) -> bool:
        return len(run) == 1 and len(self.shape) == 4 and run[0] in (2, 3) and self.residues[run[0] - 2] > 1

    def _strided_window(self, axis: int) -> bool:
        """Return whether lanes along ``axis`` would step over pixels in a window node."""
        return any(
            n.opname in ("max_pool2d", "max_pool2d_index", "sum_pool2d") and n.attrs["stride"][axis - 2] != 1
            for n in self.group.nodes
            if len(self.shape) == 4 and axis in (2, 3)
        )

    def _nest(self, runs: list[list[int]], coords: dict[int, Index]) -> None:
        if not runs:
            self._body(coords, None, 1)
            return
        (run, *rest) = runs
        axis, size = run[-1], self._size(run)
        if self._split(run):
            stride = self.residues[axis - 2]
            for r in range(0, min(stride, size), 2 if axis == self.pair else 1):
                with self.b.loop(f"q{axis}", 0, -(-(size - r) // stride)) as q:
                    self._nest(rest, {**coords, axis: q * stride + r})
            return
        if run is self.across and len(rest) > 1:
            self._nest([*rest[:-1], run, rest[-1]], coords)
            return
        if run is self.across:
            self._squares(rest[0], coords)
            return
        if rest or axis == self.pair:
            with self.b.loop(f"i{axis}", 0, self._rounds(run)) as i:
                self._nest(rest, {**coords, axis: self._place(axis, i)})
            return
        self._lanes(run, coords)

    def _lanes(self, run: list[int], coords: dict[int, Index]) -> None:
        axis, size = run[-1], self._size(run)
        lanes = 1 if self._strided_window(axis) else self.lanes
        if size >= lanes:
            with self.b.loop(f"i{axis}", 0, size - size % lanes, lanes) as i:
                self._body({**coords, axis: i}, axis, lanes)
        for start, width in pieces(size, lanes):
            self._body({**coords, axis: Index(start)}, axis, width)

    # --- between orders ---------------------------------------------------------------------------------

    def _transposed_axis(self, runs: list[list[int]]) -> list[int] | None:
        """Return the run of axes a node reads its first operand along contiguously, when it writes along another one.

        Squares of lanes x lanes are then transposed in registers: both sides move whole vectors.
        """
        (node,) = self.group.nodes[:1]
        if node.opname not in TURNING or len(self.group.nodes) > 1 or len(self.stores) > 1 or len(runs) < 2:
            return None
        if self.pair is not None:
            return None
        source = self._read_first(node)
        if source not in self.plan.storage or self.lanes < 4:
            return None
        read, written = self.plan.storage[source].strides, self.stores[0][1].strides
        last = runs[-1]
        across = next((r for r in runs[:-1] if read[r[-1]] == 1 and r[-1] != self._parallel), None)
        big = across is not None and self._size(across) >= self.lanes and self._size(last) >= self.lanes
        return across if big and written[last[-1]] == 1 and read[last[-1]] != 1 else None

    @contextlib.contextmanager
    def _share_along(self, run: list[int] | None, coords: dict[int, Index]) -> Iterator[dict[int, Index]]:
        """Loop over a thread's share of a run, if there is one; yields the coordinates with it."""
        if run is None:
            yield coords
            return
        with self.b.loop("i", var("lo"), var("hi")) as i:
            yield {**coords, run[-1]: self._place(run[-1], i)}

    def _squares(
        self, run: list[int], coords: dict[int, Index], shared: bool = False, along: list[int] | None = None
    ) -> None:
        """Compute the plane of two axes: whole squares transposed in registers, the margins in vectors or less.

        When the plane is all there is, bands of squares are ``shared`` among the threads. Else it may be a third run
        ``along`` which they share: each square of all planes comes before the next, for processors ask ahead for a few
        streams of lines, not for those of a whole plane (mnist_cnn's pooling gradient: 38 instead of 47 us).
        """
        assert self.across is not None
        (node, target), source = self.stores[0], self.plan.operand(self.group.nodes[0], 0)
        w, a, n = run[-1], self.across[-1], self.lanes
        wide, high = self._size(run), self._size(self.across)
        whole_w, whole_a = wide - wide % n, high - high % n
        first = var("lo") * n if shared else Index()
        stop = self.b.let("stop", "min", var("hi") * n, whole_a) if shared else Index(whole_a)
        with (
            self.b.loop(f"i{a}", first, stop, n) as j,
            self.b.loop(f"i{w}", 0, whole_w, n) as i,
            self._share_along(along, coords) as here,
        ):
            self.e.fresh()
            points = [Point(self._coords({**here, w: i + k, a: j}), a, n) for k in range(n)]
            for k, value in enumerate(self.b.transpose([self.e.full(source, p) for p in points])):
                point = Point(self._coords({**here, w: i, a: j + k}), w, n)
                self.e.given = {source: value}
                self.e.store(node, target, point, self.e.full(node, point))
            self.e.given = {}
        if whole_w < wide:
            with self._share_along(along, coords) as here, self.b.loop(f"i{a}", first, stop) as j:
                for start, width in pieces(wide, n):
                    self._body({**here, a: j, w: Index(start)}, w, width)
        if whole_a < high:
            last = self.b.when(high - 1, var("hi") * n) if shared else contextlib.nullcontext()
            with last, self._share_along(along, coords) as here, self.b.loop(f"i{a}", whole_a, high) as j:
                self._lanes(run, {**here, a: j})

    def _coords(self, coords: dict[int, Index]) -> tuple[Index, ...]:
        return tuple(coords.get(a, Index()) for a in range(len(self.shape)))

    def _body(self, coords: dict[int, Index], lane: int | None, lanes: int) -> None:
        self.e.fresh()
        point = Point(self._coords(coords), lane if lanes > 1 else None, lanes)
        values = [(node, storage, self.e.full(node, point)) for node, storage in self.stores]
        if self.pair is not None:
            self._pairs(self.pair, point, [value for _, _, value in values])
            return
        for node, storage, value in values:
            self.e.store(node, storage, point, value)

    def _pairs(self, axis: int, point: Point, even: list[Value]) -> None:
        """Compute the neighbours along the axis of pairs as well, zeros beyond a batch that is odd; store both."""
        at = point.coords[axis] + 1
        rows = self.group.rows
        valid = None
        if rows is not None and rows.axis == axis:
            end = var("n") * rows.per
            valid = self.b.op("lt", self.b.index(at, "i32"), self.b.index(end, "i32"), dtype="bool")
            at = self.b.let("odd", "min", at, end + -1)
        beside = Point((*point.coords[:axis], at, *point.coords[axis + 1 :]), point.lane, point.lanes)
        odd = [self.e.full(node, beside) for node, _ in self.stores]
        for (node, storage), first, second in zip(self.stores, even, odd, strict=True):
            if valid is not None:
                zero = self.b.const(0, second.dtype, second.lanes)
                second = self.b.op("select", self.b.splat(valid, second.lanes), second, zero, dtype=second.dtype)
            if storage.pair is not None:
                self.e.store_pairs(node, storage, point, first, second)
            else:
                self.e.store(node, storage, point, first)
                self.e.store(node, storage, beside, second)

    def _probe(self) -> list[Index]:
        """Return every access of one scalar evaluation, with axis ``i`` at ``a{i}`` (or 0 in split axes)."""
        builder = Builder("probe")
        e = Evaluator(self.plan, self.group, builder)
        coords = []
        for axis in range(len(self.shape)):
            split = len(self.shape) == 4 and axis in (2, 3)
            step = self._residues()[axis - 2] if split else 1
            coords.append(var(f"a{axis}") * (step * 2 if axis == self.pair and step % 2 else step))
        point = Point(tuple(coords), None, 1)
        for node, storage in self.stores:
            e.store(node, storage, point, e.full(node, point))
        return accesses(builder.body)


def lower_map(plan: Plan, group: Group, isa: Isa, name: str) -> tuple[list[Kernel], set[Node]]:
    """Return the kernels of a map group and the nodes they load."""
    kernel, used = MapLowering(plan, group, isa).kernel(name)
    return [kernel], used


def lower_fill(node: Node, storage: Storage, isa: Isa, name: str) -> Kernel:
    """Return the kernel that fills what a ``place`` leaves around its input: slabs per axis, or all of it."""
    b = Builder(name)
    b.choose("shared", "samples" if node.spec.rows else "one thread: too little to share")
    dtype, lanes = short_dtype(node.dtype), isa.lanes(short_dtype(node.dtype))
    fill, shape = node.attrs["fill"], node.shape
    (x,) = node.inputs
    start, step = node.attrs["start"], node.attrs["step"]
    dense_step = all(s == 1 or d <= 1 for s, d in zip(step, x.shape, strict=True)) and x.spec.size > 0
    ranges = [(0, d) for d in shape]
    slabs: list[list[tuple[int, int]]] = []
    if dense_step:
        inner = list(ranges)
        for axis in range(len(shape)):
            low, high = start[axis], start[axis] + x.shape[axis]
            for a, z in ((0, low), (high, shape[axis])):
                if a < z:
                    slabs.append([*inner[:axis], (a, z), *ranges[axis + 1 :]])
            inner[axis] = (low, high)
    else:
        slabs = [ranges]
    order = order_of(shape, storage.strides)
    rows = node.spec.rows
    if rows is None or rows.axis == order[-1]:
        rows = None

    def emit(slab: list[tuple[int, int]], axes: Sequence[int], at: Index) -> None:
        (axis, *rest) = axes
        low, high = slab[axis]
        stride = storage.strides[axis]
        if rest:
            with b.loop(f"i{axis}", low, high) as i:
                emit(slab, rest, at + i * stride)
            return
        count = high - low
        if count >= lanes:
            with b.loop(f"i{axis}", low, high - count % lanes, lanes) as i:
                b.store(storage.buffer, at + i * stride, b.const(fill, dtype, lanes), stride)
        for offset, width in pieces(count, lanes):
            b.store(storage.buffer, at + (low + offset) * stride, b.const(fill, dtype, width), stride)

    if rows is not None:
        axes = [a for a in order if a != rows.axis]
        with b.loop("row", var("lo"), var("hi")) as row:
            for slab in slabs:
                emit(slab, axes, row * storage.strides[rows.axis] + storage.offset)
        return b.finish(Range(per=rows.per))
    for slab in slabs:
        emit(slab, order, Index(storage.offset))
    return b.finish(Range(1))
