"""Fuse: put the graph's nodes into groups, each of which becomes one kernel.

In: a simplified graph. Out: groups. A contraction or a reduction starts a group; a pointwise node joins the group
that computes one of its operands at the same shape, unless that would make two groups wait for each other. Pointwise
nodes that only reductions read are computed inside of them and never stored. A call of a user's function is a group of
its own, which holds all of its results.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from smelt.graph.graph import Graph, Node
from smelt.ops.contraction import CONTRACTIONS
from smelt.ops.custom import Custom
from smelt.ops.elementwise import Elementwise
from smelt.ops.primitive import FLOAT32, Primitive, Rows, Shape, Spec, is_half
from smelt.ops.winograd import CONVOLUTIONS, TILE, WEIGHTS

VIEWS = {"reshape", "permute", "broadcast_to", "slice"}
REDUCTIONS = {"sum", "max", "argmax"}
WINDOWS = {"max_pool2d", "max_pool2d_index", "sum_pool2d", "max_pool2d_grad", "sum_pool2d_grad", "won"}
REGIONS = {"place", "concat"}
POOLING = {"max_pool2d", "max_pool2d_index", "sum_pool2d"}
MOST_POOLED = 4  # pixels in a window that is pooled on a convolution's tile
POINTS = {"cast", "random_uniform", "advance_random", "copy"}
CHEAP = {"add", "sub", "mul"}
FEW = 64  # an operand of one part in so many stays in a cache


class Copy(Primitive):
    """Store a value again in another order; made by the compiler only."""

    def __init__(self) -> None:
        self.name, self._samples = "copy", ()

    def infer(self, *specs: Spec, **attrs: object) -> Spec:
        """Return the operand's spec."""
        return specs[0]


COPY = Copy()


def kind_of(node: Node) -> str:
    """Return leaf, number, view, point, window, reduce, contract, weights, neighbours, region, call, or free.

    What is free is computed where it is used.
    """
    name = node.opname
    if node.op is None:
        return "number" if node.kind == "constant" and node.value is not None and node.value.ndim == 0 else "leaf"
    if isinstance(node.op, Elementwise) or name in POINTS:
        return "point"
    if isinstance(node.op, Custom):
        return "call"
    for kind, names in (
        ("view", VIEWS),
        ("contract", (*CONTRACTIONS, "conv2d_winner_grad", *CONVOLUTIONS)),
        ("winograd_weights", WEIGHTS),
        ("reduce", REDUCTIONS),
        ("window", WINDOWS),
        ("region", REGIONS),
        ("neighbours", {"neighbours"}),
        ("free", {"iota", "count", "count_all", "later_round"}),
    ):
        if name in names:
            return kind
    raise ValueError(f"primitive {name} has no lowering")


@dataclass(eq=False)
class Group:
    """Nodes computed together.

    ``shape`` is what its pointwise nodes iterate over; a reduction's ``full`` shape and ``axes`` say what it reads.
    """

    number: int
    kind: str
    shape: Shape
    rows: Rows | None
    roots: list[Node] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    full: Shape = ()
    axes: tuple[int, ...] = ()
    order: tuple[int, ...] = ()  # a copy's order of axes in memory, outermost first
    window: tuple[int, int] = (1, 1)  # of pooling behind a convolution: pixels of results that become one
    pooled: Shape = ()  # what nodes behind the pooling iterate over
    why: str = ""  # a copy is made
    rank: int = 0  # which of the tiles that the cost model finds cheapest a contraction takes

    def members(self) -> list[Node]:
        """Return roots and pointwise nodes."""
        return [*self.roots, *self.nodes]


@dataclass
class Fusion:
    """The groups, and which nodes are recomputed where they are used."""

    graph: Graph
    nodes: list[Node]
    kinds: dict[Node, str]
    groups: list[Group]
    group_of: dict[Node, Group]
    inline: set[Node]
    consumers: dict[Node, list[Node]]
    ancestors: list[int]
    pooling: bool = True
    refused: dict[tuple[Node, Group], str] = field(default_factory=dict)  # why a node is not in a group it reads from

    @staticmethod
    def narrow(node: Node) -> Node:
        """Return the 16-bit value that a cast to float32 reads, of any other node the node itself."""
        widens = node.opname == "cast" and node.dtype == FLOAT32 and is_half(node.inputs[0].dtype)
        return node.inputs[0] if widens else node

    def dependencies(self, node: Node) -> set[int]:
        """Return the numbers of the groups that must have run before ``node`` can be read."""
        out: set[int] = set()
        stack = [node]
        seen: set[int] = set()
        while stack:
            n = stack.pop()
            if id(n) in seen:
                continue
            seen.add(id(n))
            group = self.group_of.get(n)
            if group is not None:
                out.add(group.number)
            elif self.kinds.get(n) != "free":
                stack.extend(n.inputs)
        return out

    def depends(self, group: int, on: int) -> bool:
        """Return whether ``group`` needs a result of ``on``, directly or not."""
        return bool(self.ancestors[group] >> on & 1)

    def calls(self) -> list[Group]:
        """Return the groups that call a user's function, which can fail."""
        return [g for g in self.groups if g.kind == "call"]


def fuse(graph: Graph, merge: bool = True, pooling: bool = True) -> Fusion:
    """Return the fusion of a simplified graph; without ``merge``, every node that computes is a group of its own.

    Without ``pooling``, a convolution's tile is not pooled before it is stored.
    """
    nodes = graph.nodes()
    kinds = {n: kind_of(n) for n in nodes}
    consumers: dict[Node, list[Node]] = defaultdict(list)
    for n in nodes:
        for i in n.inputs if kinds[n] != "free" else ():  # what is counted is not read
            consumers[i].append(n)
    kept = set(graph.outputs) | set(graph.updates.values())
    f = Fusion(graph, nodes, kinds, [], {}, set(), consumers, [], pooling=pooling)
    _find_inline(f, kept, merge)
    for node in nodes:
        kind = kinds[node]
        if node in f.inline:
            continue
        if not merge and kind in ("reduce", "window", "point"):
            _start(f, node, "reduce" if kind == "reduce" else "map")
            continue
        if kind != "point":
            for i in node.inputs:
                _settle(f, i)
        if kind in ("contract", "winograd_weights"):
            _refuse(f, node, "a product uses each element of its operands many times")
            _start(f, node, kind)
        elif kind == "neighbours":
            _start(f, node, "neighbours")
        elif kind == "reduce":
            _join_reduction(f, node)
        elif kind == "call":
            _join_call(f, node)
        elif kind == "point" and _is_cheap(f, node, kept):
            f.inline.add(node)
        elif kind == "window" or (kind == "point" and not _may_wait(f, node)):
            _join_point(f, node)
    for node in nodes:
        _settle(f, node)
    return f


def _may_wait(f: Fusion, node: Node) -> bool:
    """Return whether a pointwise node of leaves only can wait for the group of the first node that reads it.

    A weight times its decay is the example: it belongs where the weight's gradient is computed.
    """
    return (
        bool(node.inputs) and node.spec.size > 1 and all(i.spec.size == 1 or not f.dependencies(i) for i in node.inputs)
    )


def _is_cheap(f: Fusion, node: Node, kept: set[Node]) -> bool:
    """Return whether a node is a step or two from a stored value and few numbers that wait for the value's kernel.

    A value less its mean is the example: it is computed wherever it is used, and only the value is stored.
    """
    if (
        node.opname not in CHEAP
        or node in kept
        or any(f.kinds[c] not in ("point", "reduce") for c in f.consumers[node])
    ):
        return False
    wide = [i for i in node.inputs if (i.shape, i.spec.rows) == (node.shape, node.spec.rows)]
    few = [i for i in node.inputs if i.spec.size * FEW <= node.spec.size]
    if len(wide) != 1 or len(few) != 1:
        return False
    group = f.group_of.get(wide[0])
    if group is None:
        return wide[0].opname in CHEAP and wide[0] in f.inline
    return any(f.depends(h, group.number) for h in f.dependencies(few[0]))


def _settle(f: Fusion, node: Node) -> None:
    """Give nodes that are still waiting a group of their own, before something else reads them."""
    if node in f.inline:
        for i in node.inputs:
            _settle(f, i)
    if f.kinds.get(node) == "point" and node not in f.inline and node not in f.group_of:
        for i in node.inputs:
            _settle(f, i)
        _join_point(f, node)


def _find_inline(f: Fusion, kept: set[Node], merge: bool) -> None:
    """Mark what is cheaper to recompute than to store: scalars made of constants, and the inputs of reductions."""
    for n in f.nodes:
        kind = f.kinds[n]
        made_of_scalars = n.spec.size == 1 and n.inputs and all(i in f.inline for i in n.inputs)
        of_a_scalar = kind == "view" and n.inputs[0] in f.inline and n.inputs[0].spec.size == 1
        widens = n not in kept and f.narrow(n) is not n
        if kind in ("number", "free") or (kind == "point" and made_of_scalars) or of_a_scalar or widens:
            f.inline.add(n)
    if not merge:
        return
    absorbed: dict[Node, tuple] = {}
    for n in reversed(f.nodes):
        rows = n.spec.rows
        per_sample = rows is not None and n.spec.size == n.shape[rows.axis]  # computed by who has the sample
        if f.kinds[n] != "point" or n in kept or n in f.inline or not f.consumers[n] or per_sample:
            continue
        keys = set()
        for c in f.consumers[n]:
            if f.kinds[c] == "reduce":
                keys.add((c.attrs["axes"], c.inputs[0].shape))
            else:
                keys.add(absorbed.get(c, ()))
        key = keys.pop()
        if not keys and key and key[1] == n.shape:
            absorbed[n] = key
    f.inline.update(absorbed)


def _direct(f: Fusion, node: Node) -> set[int]:
    out: set[int] = set()
    for i in node.inputs:
        out |= f.dependencies(i)
    return out


def _start(f: Fusion, node: Node, kind: str) -> Group:
    group = Group(len(f.groups), kind, node.shape, node.spec.rows)
    if kind == "reduce":
        group.full, group.axes = node.inputs[0].shape, node.attrs["axes"]
    (group.nodes if kind == "map" else group.roots).append(node)
    f.groups.append(group)
    f.group_of[node] = group
    f.ancestors.append(0)
    _link(f, group, _direct(f, node))
    return group


def _link(f: Fusion, group: Group, needs: set[int]) -> None:
    mask = 0
    for h in needs - {group.number}:
        mask |= f.ancestors[h] | 1 << h
    f.ancestors[group.number] |= mask
    for g in f.groups:
        if f.ancestors[g.number] >> group.number & 1:
            f.ancestors[g.number] |= mask


def _obstacle(f: Fusion, group: Group, node: Node) -> str:
    """Return why a node may not join a group: something it reads waits for the group, or comes from it otherwise than
    point by point. An empty string means that it may.
    """
    for i in map(f.narrow, node.inputs):
        if f.group_of.get(i) is group and f.kinds[node] == "point" and i.shape == node.shape:
            continue
        for h in sorted(f.dependencies(i)):
            if h == group.number:
                return "it also reads that kernel's results at other points"
            if f.depends(h, group.number):
                return "it also needs what another kernel computes from them"
    return ""


def _refuse(f: Fusion, node: Node, reason: str) -> None:
    """Note why a node that starts a group is in none of the groups it reads from."""
    stack, seen = list(node.inputs), {node}
    while stack:
        i = stack.pop()
        if i not in seen:
            seen.add(i)
            group = f.group_of.get(i)
            if group is None:
                stack += i.inputs if f.kinds[i] != "free" else ()
            else:
                f.refused.setdefault((node, group), reason)


def _join(f: Fusion, group: Group, node: Node, needs: set[int], root: bool = False) -> None:
    (group.roots if root else group.nodes).append(node)
    f.group_of[node] = group
    _link(f, group, needs)


def _join_reduction(f: Fusion, node: Node) -> None:
    """Add a reduction to one over the same axes that does not wait for it (nor it for that), or start a group."""
    (x,) = node.inputs
    full, axes = x.shape, node.attrs["axes"]
    needs = _direct(f, node)
    for group in reversed(f.groups):
        if group.kind != "reduce" or (group.full, group.axes) != (full, axes):
            continue
        (y,) = group.roots[0].inputs
        same = (y.spec.rows, y.dtype) == (x.spec.rows, x.dtype)  # an axis as long as the batch is not the batch
        if not same or "argmax" in (node.opname, group.roots[0].opname):
            continue
        why = _obstacle(f, group, node)
        if not why:
            _join(f, group, node, needs, root=True)
            return
        f.refused[node, group] = why
    _refuse(f, node, "a reduction begins when its operands are complete")
    _start(f, node, "reduce")


def _join_call(f: Fusion, node: Node) -> None:
    """Add a result to its call, or start one."""
    for group in f.calls():
        if group.roots[0].attrs["call"] is node.attrs["call"]:
            _join(f, group, node, set(), root=True)
            return
    _refuse(f, node, "a user's function works on whole arrays")
    _start(f, node, "call")


def _join_point(f: Fusion, node: Node) -> None:
    waiting = [i for i in node.inputs if f.kinds[i] == "point" and i not in f.inline and i not in f.group_of]
    for i in waiting:
        if (i.shape, i.spec.rows) != (node.shape, node.spec.rows):
            _settle(f, i)
    _place_point(f, node)
    group = f.group_of[node]
    for i in waiting:
        if i not in f.group_of:
            _bring(f, group, i)


def _bring(f: Fusion, group: Group, node: Node) -> None:
    """Add a node that waited, and those it waits with, to the group of the node that reads it."""
    for i in node.inputs:
        if f.kinds[i] == "point" and i not in f.inline and i not in f.group_of:
            if (i.shape, i.spec.rows) == (group.shape, group.rows):
                _bring(f, group, i)
            else:
                _settle(f, i)
    _join(f, group, node, _direct(f, node))


def _place_point(f: Fusion, node: Node) -> None:
    needs = _direct(f, node)
    key = (node.shape, node.spec.rows)
    candidates: list[Group] = []
    if f.kinds[node] == "point":
        for i in map(f.narrow, node.inputs):
            group = f.group_of.get(i)
            if group is None or group.kind == "call":
                continue
            if i.shape == node.shape and group.rows == node.spec.rows and node.shape in (group.shape, group.pooled):
                candidates.append(group)
        candidates.sort(key=lambda g: -g.number)
    mine = {i for i in node.inputs if i.shape == node.shape or f.kinds[node] == "window"}
    for group in f.groups:  # siblings that read the same values
        if group.kind == "map" and (group.shape, group.rows) == key and not group.order:
            theirs = {i for n in group.nodes for i in n.inputs}
            if mine & theirs:
                candidates.append(group)
    window = f.kinds[node] == "window"
    why_not = _pooling_obstacle(f, node) if window else ""
    if f.pooling and window and not why_not:
        group = f.group_of[node.inputs[0]]
        group.window, group.pooled = node.attrs["kernel"], node.shape
        _join(f, group, node, needs)
        return
    for group in candidates if node.opname != "copy" else ():
        why = _obstacle(f, group, node)
        if not why:
            _join(f, group, node, needs)
            return
        f.refused[node, group] = why
    several = f"a window takes results of several points{why_not and ', and '}{why_not}"
    _refuse(f, node, several if window else "it takes their results at other points")
    _start(f, node, "map")


def _pooling_obstacle(f: Fusion, node: Node) -> str:
    """Return why pooling cannot be done on the tile of the convolution before it; an empty string means that it can."""
    if node.opname not in POOLING:
        return "this one goes backwards"
    x, kernel = node.inputs[0], node.attrs["kernel"]
    group = f.group_of.get(x)
    if group is None or group.kind != "contract" or x.shape != group.shape:
        return "no product is right before it"
    (root,) = group.roots
    dense = root.opname in CONVOLUTIONS or (root.opname == "conv2d" and root.attrs["groups"] == 1)
    if not dense or f.group_of.get(root) is not group:
        return "no dense convolution is before it"
    if root.opname in CONVOLUTIONS and kernel != (TILE, TILE):
        return "its windows are not what a patch becomes"
    if group.window not in ((1, 1), kernel):
        return "its windows have another size than others there"
    return windows_obstacle(node)


def windows_obstacle(node: Node) -> str:
    """Return why pooling without padding has windows that cannot be pooled on a tile; empty when they can."""
    kernel, size = node.attrs["kernel"], node.inputs[0].shape[2:]
    if node.attrs["stride"] != kernel:
        return "its windows overlap or leave gaps"
    if any(d % k for d, k in zip(size, kernel, strict=True)):
        return "its windows leave a margin"
    if kernel[0] * kernel[1] > MOST_POOLED:
        return f"its windows have more than {MOST_POOLED} pixels"
    return ""


def needs_storage(f: Fusion, node: Node) -> bool:
    """Return whether a computed node must be in memory for something outside of its own group."""
    if node in f.graph.outputs or node in f.graph.updates.values():
        return True
    group = f.group_of[node]
    for c in f.consumers[node]:
        if f.kinds[c] in ("view", "region", "contract", "winograd_weights"):
            return True
        if f.group_of.get(c) is not group:
            return True
    return False
