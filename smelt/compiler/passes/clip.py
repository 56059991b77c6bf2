"""Clip: let convolutions skip the taps that would read padding, so that no padded copy of an image is kept.

In: a simplified graph, whose padding is explicit. Out: the graph in which a convolution of a zero-padded image reads
the image itself; its attribute ``clip`` says how far the first windows reach beyond the top and the left.
"""

from __future__ import annotations

from smelt.compiler.passes.simplify import Rewriter
from smelt.graph.graph import Graph, Node


def clip_padding(graph: Graph) -> Graph:
    """Return the graph; inputs and states are the same nodes."""
    r = Rewriter()
    new: dict[Node, Node] = {}
    for node in graph.nodes():
        if node.op is None:
            new[node] = node
            continue
        r.line, r.layer = node.line, node.layer
        inputs, attrs = tuple(new[i] for i in node.inputs), node.attrs
        if node.opname == "conv2d" and attrs["dilation"] == (1, 1) and _pads_images(inputs[0]):
            attrs = {**attrs, "clip": inputs[0].attrs["start"][2:]}
            inputs = (inputs[0].inputs[0], inputs[1])
        new[node] = r.node(node.op, inputs, attrs, node.spec)
    out = Graph(graph.name, graph.inputs, graph.states, exact=graph.exact)
    out.outputs = [new[n] for n in graph.outputs]
    out.updates = {s: new[n] for s, n in graph.updates.items()}
    return out


def _pads_images(node: Node) -> bool:
    """Return whether a node surrounds images by zeros, and does no more."""
    if node.opname != "place" or node.attrs["fill"] != 0 or any(s != 1 for s in node.attrs["step"]):
        return False
    (x,) = node.inputs
    return x.shape[:2] == node.shape[:2]
