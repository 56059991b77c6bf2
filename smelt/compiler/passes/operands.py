"""Operands: bring what contractions read into an order their kernels can.

In: a contraction whose operands are stored somewhere. Out: copies, where an operand has no contiguous axis for the
lanes, where a processor that multiplies pairs of bfloat16 needs pairs side by side, and where 16-bit numbers are
multiplied in float32.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from smelt import ops
from smelt.compiler.loops import Buffer
from smelt.compiler.lower.tiles import choose_panel
from smelt.compiler.passes.fuse import COPY
from smelt.compiler.passes.layout import HWIO, HWOI, NHWC, Order, Storage, dense, order_of
from smelt.compiler.passes.pairs import Pairing, dense_pairs, pairing
from smelt.graph.graph import Node
from smelt.ops.primitive import FLOAT32, Spec, is_half, short_dtype
from smelt.ops.winograd import CONVOLUTIONS

B_COLUMNS = 1 << 17  # from this size on, blocks of the columns of an operand are walked before the rows of the other
ACROSS = 7  # elements copied in the time of one that lanes along rows gather: 1.2 ns and 0.17 on two threads of Zen 4

if TYPE_CHECKING:
    from smelt.compiler.passes.storage import Assign


class Operands:
    """Decides for one contraction after the other, in the order in which storage is assigned."""

    def __init__(self, assign: Assign) -> None:
        self.assign, self.p, self.f, self.orders = assign, assign.p, assign.f, assign.orders
        self._paired: dict[tuple, Node] = {}
        self._wide: dict[Node, Node] = {}

    def prepare(self, node: Node) -> None:
        """Make sure that the kernel of ``node`` can read its operands."""
        if node.opname in ("neighbours", "conv2d_winner_grad"):
            self._dense_images(node)
            return
        self._bring(node)
        self._cut_in_panels(node)

    def _dense_images(self, node: Node) -> None:
        """Let a kernel read images channels-last: without gaps within a line, and where it pools, without any."""
        for i, x in enumerate(node.inputs):
            x = self.assign.stored(x, node, i)
            if x.opname == "neighbours":
                continue
            within = (1, 3) if node.opname == "neighbours" else (0, 1, 2, 3)
            lies = zip(x.shape, self.p.storage[x].strides, dense(x.shape, NHWC), strict=True)
            if any(d > 1 and s != t for axis, (d, s, t) in enumerate(lies) if axis in within):
                self.reorder(node, i, NHWC)

    def _bring(self, node: Node) -> None:
        for i, x in enumerate(node.inputs):
            self.assign.stored(x, node, i)
        a, b = (self.p.operand(node, i) for i in (0, 1))
        if node.opname == "matmul":
            self._matmul(node, a, b)
            return
        if node.opname in CONVOLUTIONS:
            if not self.unit(a, 1):
                self.reorder(node, 0, NHWC)
            return
        if self._by_pairs(node):
            return
        groups = node.attrs["groups"]
        w = b if node.opname != "conv2d_weight_grad" else node
        depthwise = groups > 1 and w.shape[0] == groups and w.shape[1] == 1
        if node.opname == "conv2d_input_grad" and not depthwise:
            if not self.unit(b, 1):
                self.reorder(node, 1, HWOI)
            self._widen(node)
            return
        if node.opname == "conv2d_weight_grad":
            if not self.unit(b, 1):
                self.reorder(node, 1, NHWC)
        elif not self.unit(b, 0):
            self.reorder(node, 1, HWIO)
        if depthwise and not self.unit(a, 1):
            self.reorder(node, 0, NHWC)
        if not depthwise:
            self._widen(node)

    def unit(self, node: Node, axis: int) -> bool:
        """Return whether the elements of an axis lie side by side."""
        storage = self.p.storage[node]
        axis %= len(node.shape)
        return storage.strides[axis] == 1 or node.shape[axis] == 1

    def reorder(self, node: Node, i: int, order: Order, panels: int | None = None) -> None:
        """Let ``node`` read a copy of its operand ``i`` in another order; in ``panels`` for so many rows of results."""
        x = self.p.operand(node, i)
        where = self.assign.arena(x, order)
        if panels is not None:
            where = self._in_panels(where, x, order[-1], panels)
        why = f"{node.opname} fills its vectors along another axis of this operand"
        self.p.operands[(node, i)] = self.assign.copy(x, where, why)

    def _widen(self, node: Node) -> None:
        """Let a contraction read 16-bit operands in float32: converting them once is less than at every use."""
        for i in (0, 1):
            x = self.p.operand(node, i)
            if is_half(x.dtype) and x.kind != "state":  # weights of inference are converted as they are loaded
                if x not in self._wide:
                    order = order_of(x.shape, self.p.storage[x].strides)
                    spec = Spec(x.shape, FLOAT32, x.spec.rows)
                    wide = Node("op", spec, ops.cast, (x,), {"dtype": FLOAT32.name}, line=x.line, layer=x.layer)
                    self.f.kinds[wide] = "point"
                    self.f.inline.add(wide)
                    why = f"{node.opname} multiplies in float32"
                    self._wide[x] = self.assign.copy(wide, self.assign.arena(wide, order), why)
                self.p.operands[(node, i)] = self._wide[x]

    def _matmul(self, node: Node, a: Node, b: Node) -> None:
        """Let the lanes run along the columns of b, or along the rows of a; copy the cheaper one if neither can."""
        rank = len(node.shape)
        swapped = (*range(rank - 2), rank - 1, rank - 2)
        columns = self.unit(b, -1) and not self._ragged_lane(b, -1)
        rows = self.unit(a, -2) and not self._ragged_lane(a, -2)
        if rows:
            along_rows = not columns or self.orders.of(node)[-1] == rank - 2
        else:
            moved = a.spec.size + node.spec.size + ACROSS * self._across(node)
            along_rows = not columns and moved < b.spec.size
        if along_rows:
            self.orders.prefer(node, swapped)
            self.p.lane_rows.add(node)
        if self._by_pairs(node):
            return
        if along_rows and not rows:
            arank = len(a.shape)
            self.reorder(node, 0, (*range(arank - 2), arank - 1, arank - 2))
        elif not along_rows and not columns:
            plain = len(a.shape) == len(b.shape) == 2
            self.reorder(node, 1, tuple(range(len(b.shape))), node.shape[0] if plain else None)
        self._widen(node)

    def _ragged_lane(self, node: Node, axis: int) -> bool:
        """Return whether lanes along ``axis`` could reach beyond a short batch in the caller's own array."""
        rows = node.spec.rows
        base = self.p.storage[node].buffer
        return rows is not None and rows.axis == axis % len(node.shape) and base.kind == "input"

    def _cut_in_panels(self, node: Node) -> None:
        """Let a large weight of the program's own lie in panels as wide as the tile: it is then read in one stream.

        With rows of several KB, every step of the ks is in another page, which nothing prefetches.
        """
        b, rank = self.p.operand(node, 1), len(node.shape)
        where = self.p.storage[b]
        mine = self.p.own and b.kind == "state" and len(self.f.consumers[b]) == 1
        if not mine or where.pair is not None or node in self.p.pairs or node in self.p.lane_rows:
            return
        if node.opname == "conv2d" and node.attrs["groups"] == 1:
            lane, rows = 0, node.shape[2] * node.shape[3]
        elif node.opname == "matmul" and rank == 2:
            lane, rows = 1, node.shape[0]
        else:
            return
        a = self.p.operand(node, 0)
        if where.buffer.nbytes > self.p.storage[a].buffer.nbytes:
            self.p.storage[b] = self._in_panels(where, b, lane, rows)

    def _in_panels(self, where: Storage, b: Node, lane: int, rows: int) -> Storage:
        """Return where a right operand lies: if it is large, in panels along ``lane`` for so many rows of results."""
        size, lanes = b.shape[lane], self.assign.isa.lanes("f32")
        small = where.buffer.nbytes <= B_COLUMNS
        if small or self.assign.isa.block or size % lanes or where.strides[lane] != 1:
            return where
        width = choose_panel(rows, size // lanes, self.assign.isa.registers) * lanes
        if width == size:
            return where
        strides = tuple(s if s == 1 else s // size * width for s in where.strides)
        return replace(where, strides=strides, panel=(width, b.spec.size // size * width))

    # --- pairs -------------------------------------------------------------------------------------------------

    def _across(self, node: Node) -> int:
        """Return how many elements what follows a product reads of values whose columns lie side by side."""
        group, read = self.f.group_of[node], set()
        for i in (self.f.narrow(i) for n in group.nodes for i in n.inputs):
            if (
                i.shape == node.shape
                and i in self.p.storage
                and self.unit(i, -1)
                and self.f.group_of.get(i) is not group
            ):
                read.add(i)
        return sum(i.spec.size for i in read)

    def _by_pairs(self, node: Node) -> bool:
        """Let a contraction of bfloat16 read pairs, if the processor multiplies them and the axes allow it."""
        if not self.assign.isa.bf16 or short_dtype(node.inputs[0].dtype) != "bf16":
            return False
        how = pairing(node, node in self.p.lane_rows)
        if how is None:
            return False
        self.p.pairs[node] = how.name
        for i, axis in enumerate(how.axes):
            x = self.p.operand(node, i)
            if i == how.lanes or not self.unit(x, axis):
                self.p.operands[(node, i)] = self._in_pairs(x, axis, how, i)
        return True

    def _in_pairs(self, x: Node, axis: int, how: Pairing, i: int) -> Node:
        """Return ``x`` with neighbours along ``axis`` side by side, and the axis of the lanes next."""
        storage = self.p.storage[x]
        order = list(order_of(x.shape, storage.strides))
        if i == how.lanes:
            order.remove(how.lane_axis)
            order.append(how.lane_axis)
        elif order[-1] == axis and len(order) > 1:
            order.insert(0, order.pop())
        key = (x, tuple(order), axis)
        if key not in self._paired:
            strides, size = dense_pairs(x.shape, order, axis)
            buffer = Buffer(f"t{self.assign.next_number()}", short_dtype(x.dtype), size, "arena")
            self._paired[key] = self._delivered(x, Storage(buffer, strides, 0, axis))
        return self._paired[key]

    def _delivered(self, x: Node, storage: Storage) -> Node:
        """Let the kernel that computes ``x`` store it in pairs as well, if it can, else a copy."""
        if x.kind == "state" and len(self.f.consumers[x]) == 1:  # a weight of inference lies as it is read
            there = self.p.storage[x].buffer
            buffer = Buffer(there.name, there.dtype, storage.buffer.size, there.kind, there.slot)
            self.p.storage[x] = replace(storage, buffer=buffer)
            return x
        base, axes = x, list(range(len(x.shape)))
        while base.opname == "permute":  # axes[i]: the axis of x that is axis i of the base
            inverse = {old: new for new, old in enumerate(base.attrs["axes"])}
            axes = [axes[inverse[old]] for old in range(len(axes))]
            base = self.p.operand(base, 0)
        pair = axes.index(storage.pair) if storage.pair is not None else -1
        strides = tuple(storage.strides[a] for a in axes)
        group = self.f.group_of.get(base)
        if group is None or not self._can_pair(base, pair, strides):
            return self.assign.copy(x, storage, "products of pairs read an operand in pairs")
        paired = Storage(storage.buffer, strides, 0, pair)
        if x is base and self._only_summed(x, paired):
            self.p.stores[group] = [(n, paired if n is x else s) for n, s in self.p.stores[group]]
            self.p.storage[x] = paired
            return x
        alias = Node("op", x.spec, COPY, (x,), line=x.line, layer=x.layer)
        self.f.kinds[alias] = "point"
        self.f.group_of[alias] = group
        self.p.storage[alias] = storage
        self.p.stores[group].append((base, paired))
        return alias

    def _only_summed(self, node: Node, paired: Storage) -> bool:
        """Return whether one contraction reads a value, and otherwise only sums along the pairs: one place will do.

        The gradient that goes to a convolution's kernels and its bias is the example.
        """
        (outer, lane), rows = order_of(node.shape, paired.strides)[-2:], node.spec.rows
        readers = list(self.f.consumers[node])
        sums = [s for w in readers if self.f.narrow(w) is node for s in self.f.consumers[w]]
        contractions = [r for r in readers if self.f.narrow(r) is not node]
        kept = node in self.f.graph.outputs or len(self.p.stores[self.f.group_of[node]]) != 1 or rows is None
        return (
            not kept
            and len(contractions) == 1
            and self.f.kinds[contractions[0]] == "contract"
            and outer == paired.pair
            and all(s.opname == "sum" and {rows.axis, outer} <= set(s.attrs["axes"]) - {lane} for s in sums)  # type: ignore[union-attr]
        )

    def _can_pair(self, base: Node, pair: int, strides: tuple[int, ...]) -> bool:
        """Return whether the kernel of ``base`` walks its elements so that it has pairs at hand."""
        group = self.f.group_of[base]
        have = {s.pair for _, s in self.p.stores.get(group, ()) if s.pair is not None}
        if group.kind != "map" or base not in group.nodes or have - {pair} or base not in self.p.storage:
            return False
        plain = order_of(base.shape, self.p.storage[base].strides)
        rows = base.spec.rows
        windows = [n for n in group.nodes if "stride" in n.attrs]
        apart = pair in (2, 3) and any(n.attrs["stride"][pair - 2] % 2 for n in windows)
        return plain[-1] != pair and strides[plain[-1]] == 2 and (rows is None or rows.axis != pair) and not apart
