"""Precision: keep the activations and gradients of a reduced-precision step in 16 bits.

In: a traced graph in which the operands of contractions are cast to 16 bits. Out: a graph in which a value of the
batch that is rounded for one reader is rounded for all, so that it is stored once, and what pooling reads on the way to
such a value is rounded as well, unless it is a convolution's result. A graph without such casts is returned as it is.

Rounding a value that is rounded after the pooling anyway changes which of two nearly equal elements wins, nothing else.
Parameters, values that do not follow the batch, and what the step returns keep their 32 bits.
"""

from __future__ import annotations

import numpy as np

from smelt import ops
from smelt.compiler.passes.fuse import windows_obstacle
from smelt.compiler.passes.simplify import NO_PADDING
from smelt.graph.graph import Graph, Node
from smelt.ops.primitive import FLOAT32, is_half

VIEWS = ("reshape", "permute", "broadcast_to", "slice")


def round_activations(graph: Graph) -> Graph:
    """Return the graph with its activations rounded."""
    nodes = graph.nodes()
    casts = [n for n in nodes if n.opname == "cast" and is_half(n.dtype)]
    if not casts:
        return graph
    half = casts[0].dtype
    rounded = _values(casts)
    new: dict[int, Node] = {}
    wide: dict[int, Node] = {}
    for node in nodes:
        if node.op is None or not node.inputs:
            new[id(node)] = node
            continue
        reads = wide if not (node.opname == "cast" and is_half(node.dtype)) else {}
        inputs = tuple(reads.get(id(i), new[id(i)]) for i in node.inputs)
        same = all(a is b for a, b in zip(inputs, node.inputs, strict=True))
        new[id(node)] = (
            node if same else Node("op", node.spec, node.op, inputs, node.attrs, line=node.line, layer=node.layer)
        )
        if id(node) in rounded:
            narrow = _cast(new[id(node)], half)
            wide[id(node)] = _cast(narrow, FLOAT32)
    out = Graph(graph.name, graph.inputs, graph.states, exact=graph.exact)
    out.outputs = [new[id(n)] for n in graph.outputs]
    out.updates = {s: new[id(n)] for s, n in graph.updates.items()}
    return out


def _cast(node: Node, dtype: np.dtype) -> Node:
    attrs = {"dtype": dtype.name}
    return Node("op", ops.cast.infer(node.spec, **attrs), ops.cast, (node,), attrs, line=node.line, layer=node.layer)


def _values(casts: list[Node]) -> set[int]:
    """Return the values of the batch that are rounded for a contraction, and those that a window picks them from."""
    out: set[int] = set()
    stack = [c.inputs[0] for c in casts]
    while stack:
        node = _base(stack.pop())
        if id(node) in out or node.op is None or node.spec.rows is None or node.dtype != FLOAT32:
            continue
        out.add(id(node))
        while node.opname == "relu" or node.opname in VIEWS or _is_mask(node):
            node = node.inputs[1 if node.opname == "where" else 0]
        pools = node.opname == "max_pool2d" and not _is_pooled_on_a_tile(node)
        if pools or (node.opname == "max_pool2d_grad" and _apart(node)):
            stack.append(node.inputs[0])
    return out


def _is_pooled_on_a_tile(node: Node) -> bool:
    """Return whether a pooling reads a convolution with a bias or a ReLU, which is then never stored."""
    if windows_obstacle(node) or node.attrs["padding"] != NO_PADDING:
        return False
    node = node.inputs[0]
    while node.opname == "relu" or (node.opname == "add" and node.inputs[1].spec.rows is None):
        node = node.inputs[0]
    return node.opname == "conv2d" and node.attrs["groups"] == 1


def _is_mask(node: Node) -> bool:
    """Return whether a node gives elements of its operand, or zero."""
    other = node.inputs[2] if node.opname == "where" else node
    return other.kind == "constant" and other.value is not None and not other.value.any()


def _apart(node: Node) -> bool:
    """Return whether windows do not overlap, so that no two gradients are added."""
    return all(k <= s for k, s in zip(node.attrs["kernel"], node.attrs["stride"], strict=True))


def _base(node: Node) -> Node:
    while node.opname in VIEWS:
        node = node.inputs[0]
    return node
