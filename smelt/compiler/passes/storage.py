"""Storage: decide where every value lies in memory, in which order of axes, and what must be copied.

In: the groups. Out: a :class:`Plan`: for every stored node its buffer, strides and offset, for every group what it
stores where, and the copies that bring an operand into the order a kernel needs.

Images are kept channels-last, convolution kernels with their output channels last, and a matrix that multiplies from
the right with its columns last: the axis that fills vectors is always the innermost. Everything linked by pointwise
operations shares one order, so that optimizer state follows its weight.

What a user's function reads or writes lies in C order, and no state is overwritten before the last of these functions
has run: one that fails leaves all state as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from smelt.compiler.isa import Isa
from smelt.compiler.loops import Buffer
from smelt.compiler.passes.fuse import COPY, Fusion, Group, needs_storage
from smelt.compiler.passes.layout import HWIO, NHWC, Order, Storage, dense, order_of, view_storage
from smelt.compiler.passes.operands import Operands
from smelt.graph.graph import Node
from smelt.ops.custom import Call
from smelt.ops.primitive import short_dtype
from smelt.ops.winograd import CONVOLUTIONS, WEIGHTS


@dataclass
class Plan:
    """Where everything is, and what each group writes."""

    fusion: Fusion
    own: bool = False  # the states are the program's own
    storage: dict[Node, Storage] = field(default_factory=dict)
    stores: dict[Group, list[tuple[Node, Storage]]] = field(default_factory=dict)
    fills: list[tuple[Node, Storage]] = field(default_factory=list)  # places whose surroundings must be filled
    extra_groups: list[Group] = field(default_factory=list)
    operands: dict[tuple[Node, int], Node] = field(default_factory=dict)  # copies that stand in for an operand
    defs: dict[Node, list[Node]] = field(default_factory=dict)  # region nodes: the nodes whose groups write them
    overwrites: dict[Group, list[Node]] = field(default_factory=dict)  # states a group overwrites
    buffers: list[Buffer] = field(default_factory=list)
    orders: dict[Node, Order] = field(default_factory=dict)
    pairs: dict[Node, str] = field(default_factory=dict)  # contractions by pairs, and the axis of their ks that pairs
    lane_rows: set[Node] = field(default_factory=set)  # products whose lanes run along the rows, not the columns
    arrays: list[np.ndarray] = field(default_factory=list)  # of the constants, by slot order
    calls: dict[Call, int] = field(default_factory=dict)  # slots of users' functions
    changed: set[Node] = field(default_factory=set)  # states that the step changes
    outputs: list[int] = field(default_factory=list)  # the number of each output among those of the step

    def groups(self) -> list[Group]:
        """Return all groups, the compiler's copies included."""
        return [*self.fusion.groups, *self.extra_groups]

    def operand(self, node: Node, i: int) -> Node:
        """Return what ``node`` reads as its operand ``i``: the operand, or a copy in a better order."""
        return self.operands.get((node, i), node.inputs[i])

    def base(self, node: Node) -> Node:
        """Return the stored or leaf node a chain of views looks at."""
        while self.fusion.kinds[node] == "view" and node not in self.fusion.inline:
            node = self.operand(node, 0)
        return node


class _Orders:
    """Union-find over nodes that should share an order of axes."""

    def __init__(self) -> None:
        self.parent: dict[Node, Node] = {}
        self.order: dict[Node, Order] = {}

    def find(self, n: Node) -> Node:
        """Return the representative of a node's set."""
        while self.parent.get(n, n) is not n:
            n = self.parent[n]
        return n

    def union(self, a: Node, b: Node) -> None:
        """Let two nodes share an order, unless each has one already and they differ."""
        a, b = self.find(a), self.find(b)
        if a is b:
            return
        if a in self.order and b in self.order and self.order[a] != self.order[b]:
            return
        order = self.order.get(a) or self.order.get(b)
        self.parent[b] = a
        if order:
            self.order[a] = order

    def prefer(self, n: Node, order: Order) -> None:
        """Ask for an order; the first wish wins."""
        self.order.setdefault(self.find(n), order)

    def of(self, n: Node) -> Order:
        """Return the order of a node's set, C order by default."""
        return self.order.get(self.find(n)) or tuple(range(len(n.shape)))


def plan_storage(
    f: Fusion, state_strides: dict[Node, tuple[int, ...] | None] | None, isa: Isa, last: Plan | None = None
) -> Plan:
    """Return the plan. ``state_strides`` gives element strides of states bound before, None for new ones.

    Without it, all states belong to the program, and lie as the kernels read them best. A round before the ``last``
    shares with that what is kept from round to round, and the table of pointers.
    """
    p = Plan(f, own=state_strides is None, changed=set(f.graph.updates))
    p.outputs = list(range(len(f.graph.outputs)))
    state_strides = state_strides or {}
    if last is not None:
        p.outputs = [i for i, n in enumerate(last.fusion.graph.outputs) if n.spec.rows is not None]
        state_strides = {n: s.strides for n, s in last.storage.items() if n.kind == "state"}
        p.arrays, p.changed = last.arrays, p.changed | last.changed
    orders = _choose_orders(f, state_strides)
    _leaves(p, orders, state_strides, last)
    Assign(p, orders, isa).run()
    return p


def _choose_orders(f: Fusion, state_strides: Mapping[Node, tuple[int, ...] | None]) -> _Orders:
    orders = _Orders()
    for state, strides in state_strides.items():
        if strides is not None and len(state.shape) > 1:
            orders.prefer(state, order_of(state.shape, strides))
    for n in f.nodes:
        if n.opname in ("conv2d", "conv2d_input_grad"):
            _prefer_base(f, orders, n.inputs[1], HWIO)
        if n.opname in WEIGHTS:
            _prefer_base(f, orders, n.inputs[0], HWIO)
        if n.opname in CONVOLUTIONS:
            _prefer_base(f, orders, n.inputs[0], NHWC)
        if n.opname in ("conv2d_weight_grad", "conv2d_winner_grad"):
            orders.prefer(n, HWIO)
        if n.opname == "matmul":
            rank = len(n.inputs[1].shape)
            _prefer_base(f, orders, n.inputs[1], tuple(range(rank)))
    for n in f.nodes:
        if f.kinds[n] == "window" or n.opname in ("conv2d", "conv2d_input_grad", *CONVOLUTIONS):
            orders.prefer(n, NHWC)
    for n in f.nodes:
        if f.kinds[n] in ("point", "window", "region"):
            for i in n.inputs:
                if len(i.shape) == len(n.shape) >= 2 and i.kind != "input":
                    same = f.kinds[n] != "point" or i.shape == n.shape
                    if same:
                        orders.union(n, i)
    for state, value in f.graph.updates.items():
        if len(state.shape) > 1:
            orders.union(state, value)
    return orders


def _prefer_base(f: Fusion, orders: _Orders, node: Node, order: Order) -> None:
    """Ask that ``node`` lies in ``order``: through permutations, of what it looks at."""
    while node.opname == "permute":
        axes = node.attrs["axes"]
        order = tuple(axes[a] for a in order)
        node = node.inputs[0]
    if node.kind != "input" and f.kinds[node] != "view":
        orders.prefer(node, order)


def _leaves(p: Plan, orders: _Orders, state_strides: Mapping[Node, tuple[int, ...] | None], last: Plan | None) -> None:
    g = p.fusion.graph
    slot = 0
    for node in g.inputs:
        buffer = Buffer(node.name, short_dtype(node.dtype), node.spec.size, "input", slot)
        p.storage[node] = Storage(buffer, dense(node.shape, tuple(range(len(node.shape)))))
        slot += 1
    slot += len((last or p).fusion.graph.outputs)
    for node in g.states:
        buffer = Buffer(node.name, short_dtype(node.dtype), node.spec.size, "state", slot)
        order = orders.of(node)
        strides = state_strides.get(node) or dense(node.shape, order)
        p.storage[node] = Storage(buffer, strides)
        p.orders[node] = order
        slot += 1
    for node in p.fusion.nodes:
        if p.fusion.kinds[node] == "leaf" and node.kind == "constant":
            assert node.value is not None
            at = slot + len(p.arrays)
            buffer = Buffer(f"constant{len(p.arrays)}", short_dtype(node.dtype), node.spec.size, "constant", at)
            p.storage[node] = Storage(buffer, dense(node.shape, tuple(range(len(node.shape)))))
            p.arrays.append(np.ascontiguousarray(node.value))
        elif node.kind == "state" and node not in p.storage:  # a sum over the rounds of a batch
            p.orders[node] = orders.of(node)
            buffer = Buffer(node.name, short_dtype(node.dtype), node.spec.size, "arena", kept=1)
            p.storage[node] = last.storage[node] if last else Storage(buffer, dense(node.shape, p.orders[node]))


class Assign:
    """Walks the nodes once and gives each stored one its place."""

    def __init__(self, plan: Plan, orders: _Orders, isa: Isa) -> None:
        self.p, self.f, self.orders, self.isa = plan, plan.fusion, orders, isa
        self.g = self.f.graph
        self.count = 0
        self.operands = Operands(self)

    def run(self) -> None:
        """Place every node, then deliver outputs and updates that no group computes."""
        self._outputs: dict[Node, list[Storage]] = {}
        for i, node in zip(self.p.outputs, self.g.outputs, strict=True):
            slot = len(self.g.inputs) + i
            buffer = Buffer(f"out{i}", short_dtype(node.dtype), node.spec.size, "output", slot)
            storage = Storage(buffer, dense(node.shape, tuple(range(len(node.shape)))))
            self._outputs.setdefault(node, []).append(storage)
        self._updates: dict[Node, list[Node]] = {}
        for state, node in self.g.updates.items():
            self._updates.setdefault(node, []).append(state)
        for node in self.f.nodes:
            kind = self.f.kinds[node]
            if kind in ("contract", "neighbours"):
                self.operands.prepare(node)
            elif kind == "winograd_weights":
                self.stored(node.inputs[0], node, 0)
            elif kind == "window" and self.f.group_of[node].kind == "map" and not self._turns(node):
                for i, x in enumerate(node.inputs):
                    reader, j = (x, 0) if self.f.narrow(x) is not x else (node, i)
                    self.stored(reader.inputs[j], reader, j)
                    order = self.orders.of(node)
                    if not self.operands.unit(self.p.operand(reader, j), order[-1]):
                        self.operands.reorder(reader, j, order)
            elif kind == "call":
                self._call(node)
            if kind == "view" and node not in self.f.inline:
                self._view(node)
            elif kind == "region":
                self._region(node)
            elif node in self.f.group_of and kind != "call":
                self._computed(node)
        for node in {**self._outputs, **self._updates}:
            self._deliver(node)

    def _turns(self, node: Node) -> bool:
        """Return whether the kernel of a node transposes what it reads."""
        return node.opname == "won" and len(self.f.group_of[node].nodes) == 1

    # --- places ------------------------------------------------------------------------------------------------

    def next_number(self) -> int:
        """Return a number for the name of a buffer."""
        self.count += 1
        return self.count - 1

    def arena(self, node: Node, order: Order) -> Storage:
        """Return a new place for a value."""
        buffer = Buffer(f"t{self.next_number()}", short_dtype(node.dtype), node.spec.size, "arena")
        self.p.buffers.append(buffer)
        return Storage(buffer, dense(node.shape, order))

    def _region_storage(self, node: Node) -> Storage:
        if node not in self.p.storage:
            self.p.storage[node] = self.arena(node, self.orders.of(node))
            self.p.defs[node] = []
            if node.opname == "place" and node.spec.size:
                self.p.fills.append((node, self.p.storage[node]))
        return self.p.storage[node]

    def _part(self, node: Node, i: int) -> Storage:
        """Return the storage of operand ``i`` inside of a region node."""
        whole = self._region_storage(node)
        a = node.attrs
        if node.opname == "place":
            offset = whole.offset + sum(x * s for x, s in zip(a["start"], whole.strides, strict=True))
            return Storage(whole.buffer, tuple(t * s for t, s in zip(a["step"], whole.strides, strict=True)), offset)
        before = sum(x.shape[a["axis"]] for x in node.inputs[:i])
        return Storage(whole.buffer, whole.strides, whole.offset + before * whole.strides[a["axis"]])

    def _store(self, group: Group, node: Node, storage: Storage) -> None:
        self.p.stores.setdefault(group, []).append((node, storage))

    def copy(self, node: Node, storage: Storage, why: str) -> Node:
        """Add a group that copies ``node`` to ``storage``, and say why; return the copy's node."""
        copy = Node("op", node.spec, COPY, (node,), line=node.line, layer=node.layer)
        self.f.kinds[copy] = "point"
        order = order_of(node.shape, storage.strides)
        group = Group(
            len(self.f.groups) + len(self.p.extra_groups), "map", node.shape, node.spec.rows, order=order, why=why
        )
        group.nodes.append(copy)
        self.p.extra_groups.append(group)
        self.f.group_of[copy] = group
        self.p.storage[copy] = storage
        self._store(group, copy, storage)
        return copy

    # --- kinds of nodes ----------------------------------------------------------------------------------------

    def _computed(self, node: Node) -> None:
        """Store a computed node where the first thing that wants it has it for nothing, and wherever else."""
        if not needs_storage(self.f, node):
            return
        group = self.f.group_of[node]
        for state in self._updates.get(node, ()):
            if self._may_overwrite(group, state):
                self._put(group, node, self.p.storage[state])
                self.p.overwrites.setdefault(group, []).append(state)
            else:
                self._put(group, node, self.arena(node, self.orders.of(node)))
                copy = self.copy(node, self.p.storage[state], "the state it replaces is still read at that time")
                self.p.overwrites.setdefault(self.f.group_of[copy], []).append(state)
        for c in self.f.consumers[node]:
            if self.f.kinds[c] == "region":
                for i, x in enumerate(c.inputs):
                    if x is node:
                        self._put(group, node, self._part(c, i))
                        if node not in self.p.defs[c]:
                            self.p.defs[c].append(node)
        for storage in self._outputs.get(node, ()):
            self._put(group, node, storage)
        if node not in self.p.storage:
            self._put(group, node, self.arena(node, self.orders.of(node)))

    def _put(self, group: Group, node: Node, storage: Storage) -> None:
        self.p.storage.setdefault(node, storage)
        self._store(group, node, storage)

    def _may_overwrite(self, group: Group, state: Node) -> bool:
        """Return whether the group may write over a state: everyone else has read it, and it reads it in step."""
        for reader in self._readers(state):
            other = self.f.group_of.get(reader)
            if other is group:
                same_point = reader in group.nodes and state in reader.inputs and reader.shape == state.shape
                if not same_point or self.f.kinds[reader] == "window":
                    return False
                if any(self.f.kinds[i] == "view" and self._looks_at(i, state) for i in reader.inputs):
                    return False
            elif other is not None and self.f.depends(other.number, group.number):
                return False
        return not any(self.f.depends(call.number, group.number) for call in self.f.calls())

    def _looks_at(self, node: Node, state: Node) -> bool:
        while self.f.kinds[node] == "view":
            node = node.inputs[0]
        return node is state

    def _readers(self, state: Node) -> set[Node]:
        """Return the grouped nodes that read a state, through views, regions and inlined nodes."""
        out: set[Node] = set()
        stack = list(self.f.consumers[state])
        while stack:
            n = stack.pop()
            if n in self.f.group_of:
                out.add(n)
            else:
                stack.extend(self.f.consumers[n])
        return out

    def _view(self, node: Node) -> None:
        (x,) = node.inputs
        base = self.p.storage.get(x)
        if base is None:
            x = self.stored(x, node, 0)
            base = self.p.storage[x]
        storage = view_storage(node, base)
        if storage is None:  # a reshape that moves elements: copy into C order first
            copy = self.copy(
                x, self.arena(x, tuple(range(len(x.shape)))), "a reshape goes through its elements in order"
            )
            self.p.operands[(node, 0)] = copy
            storage = view_storage(node, self.p.storage[copy])
            assert storage is not None
        self.p.storage[node] = storage

    def stored(self, x: Node, node: Node, i: int) -> Node:
        """Make sure operand ``i`` is in memory: values computed wherever they are used are copied there."""
        have = self.p.operand(node, i)
        if have in self.p.storage:
            return have
        copy = self.copy(x, self.arena(x, self.orders.of(x)), f"{node.opname} reads its operands from memory")
        self.p.operands[(node, i)] = copy
        return copy

    def _region(self, node: Node) -> None:
        self._region_storage(node)
        for i, x in enumerate(node.inputs):
            if x not in self.f.group_of or self.f.kinds[x] == "call":
                copy = self.copy(x, self._part(node, i), f"{node.opname} joins what no kernel puts there")
                self.p.defs[node].append(copy)

    def _deliver(self, node: Node) -> None:
        """Copy outputs and updates that no group puts there: leaves, views, regions and results of calls."""
        if node in self.f.group_of and self.f.kinds[node] != "call":
            return
        for storage in self._outputs.get(node, ()):
            self.copy(node, storage, "no kernel computes this output")
        for state in self._updates.get(node, ()):
            why = "no kernel computes this new value of a state"
            staged = self.copy(node, self.arena(node, self.orders.of(node)), why)
            copy = self.copy(staged, self.p.storage[state], why)
            self.p.overwrites.setdefault(self.f.group_of[copy], []).append(state)

    # --- calls of users' functions -----------------------------------------------------------------------------

    def _call(self, node: Node) -> None:
        """Give a result C order, and the call's operands too."""
        group = self.f.group_of[node]
        self._put(group, node, self.arena(node, tuple(range(len(node.shape)))))
        if node is group.roots[0]:
            for i, x in enumerate(node.inputs):
                lies = self.p.storage[self.stored(x, node, i)].strides
                order = tuple(range(len(x.shape)))
                if any(d > 1 and s != t for d, s, t in zip(x.shape, lies, dense(x.shape, order), strict=True)):
                    self.operands.reorder(node, i, order)
