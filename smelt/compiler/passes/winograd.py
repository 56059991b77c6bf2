"""Winograd: let convolutions of 3 x 3 take 16 products for 4 results instead of 36, where that is faster.

In: a traced graph. Out: the same with ``conv2d_winograd`` of transformed kernels in place of some ``conv2d``; the
gradient of the images is such a convolution too. A model of cycles decides (:mod:`smelt.compiler.lower.patches`).
Convolutions of one to three channels, as the first of a network, take ``conv2d_winograd_lines``.
"""

from __future__ import annotations

from smelt.compiler.isa import Isa
from smelt.compiler.lower.patches import lines_fit, obstacle, winning
from smelt.graph.graph import Graph, Node
from smelt.ops.primitive import FLOAT32, Primitive, Spec
from smelt.ops.winograd import (
    LINE_IMAGE,
    conv2d_winograd,
    conv2d_winograd_lines,
    winograd_line_weights,
    winograd_weights,
)

Padding = tuple[tuple[int, int], tuple[int, int]]


def by_winograd(graph: Graph, isa: Isa) -> Graph:
    """Return the graph with the convolutions rewritten that are faster so on a processor."""
    new: dict[int, Node] = {}
    transformed: dict[tuple[int, bool], Node] = {}
    for node in graph.nodes():
        inputs = tuple(new[id(i)] for i in node.inputs)
        same = all(a is b for a, b in zip(inputs, node.inputs, strict=True))
        padding = _padding(node)
        if padding is not None and not _obstacle(node, isa):
            x, w = inputs
            flip = node.opname == "conv2d_input_grad"
            key = (id(w), flip)
            if key not in transformed:
                transformed[key] = _made(node, winograd_weights, (w,), flip=flip)
            new[id(node)] = _made(node, conv2d_winograd, (x, transformed[key]), node.spec, padding=padding)
        elif may_take_lines(node, isa):
            weights = _made(node, winograd_line_weights, inputs[1:])
            padding = node.attrs["padding"]
            new[id(node)] = _made(node, conv2d_winograd_lines, (inputs[0], weights), node.spec, padding=padding)
        else:
            new[id(node)] = node if same else _made(node, node.op, inputs, node.spec, **node.attrs)
    out = Graph(graph.name, graph.inputs, graph.states, exact=graph.exact)
    out.outputs = [new[id(n)] for n in graph.outputs]
    out.updates = {s: new[id(n)] for s, n in graph.updates.items()}
    return out


def _made(
    node: Node, op: Primitive | None, inputs: tuple[Node, ...], spec: Spec | None = None, **attrs: object
) -> Node:
    assert op is not None
    spec = spec or op.infer(*(i.spec for i in inputs), **attrs)
    return Node("op", spec, op, inputs, attrs, line=node.line, layer=node.layer)


def _padding(node: Node) -> Padding | None:
    """Return the padding with which a node is a dense convolution of 3 x 3 at stride 1 in float32, or None."""
    if node.opname not in ("conv2d", "conv2d_input_grad") or node.dtype != FLOAT32:
        return None
    x, w = node.inputs
    a = node.attrs
    plain = (a["stride"], a["dilation"], a["groups"], w.shape[2:]) == ((1, 1), (1, 1), 1, (3, 3))
    if not plain or w.spec.rows is not None or {x.dtype, w.dtype} != {FLOAT32}:
        return None
    if node.opname == "conv2d":
        return a["padding"]
    top, left = (2 - before for before, _ in a["padding"])
    (bottom, right) = (2 - after for _, after in a["padding"])
    return ((top, bottom), (left, right)) if min(top, left, bottom, right) >= 0 else None


def may_take_lines(node: Node, isa: Isa) -> bool:
    """Return whether a node is a dense convolution that is faster by products along lines."""
    if node.opname != "conv2d" or node.dtype != FLOAT32:
        return False
    (x, w), a = node.inputs, node.attrs
    plain = (a["stride"], a["dilation"], a["groups"]) == ((1, 1), (1, 1), 1) and w.shape[3] in LINE_IMAGE
    if not plain or w.spec.rows is not None or {x.dtype, w.dtype} != {FLOAT32} or 0 in node.shape:
        return False
    return lines_fit(x.shape[1], w.shape[0], node.shape[2:], w.shape[2:], isa)


def why_direct(node: Node, isa: Isa) -> str:
    """Return why a dense convolution of 3 x 3 is not rewritten for a processor where others are, to be told."""
    return _obstacle(node, isa) if winning(isa) and _padding(node) is not None else ""


def _obstacle(node: Node, isa: Isa) -> str:
    _, out, height, width = node.shape
    return obstacle(node.inputs[0].shape[1], out, height, width, isa)
