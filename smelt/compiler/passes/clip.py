"""Clip: let convolutions skip the taps that would read padding, so that no padded copy of an image is kept.

In: a simplified graph, whose padding is explicit. Out: the graph in which a convolution of a zero-padded image reads
the image itself; its attribute ``clip`` says how far the first windows reach beyond the top and the left.
"""

from __future__ import annotations

from smelt.compiler.passes.simplify import Rewriter, rewritten
from smelt.graph.graph import Graph, Node


def clip_padding(graph: Graph) -> Graph:
    """Return the graph; inputs and states are the same nodes."""

    def rule(r: Rewriter, node: Node, inputs: tuple[Node, ...], _: dict[Node, Node]) -> Node:
        attrs = node.attrs
        if node.opname == "conv2d" and attrs["dilation"] == (1, 1) and _pads_images(inputs[0]):
            attrs = {**attrs, "clip": inputs[0].attrs["start"][2:]}
            inputs = (inputs[0].inputs[0], inputs[1])
        assert node.op is not None
        return r.node(node.op, inputs, attrs, node.spec)

    return rewritten(graph, rule)


def _pads_images(node: Node) -> bool:
    """Return whether a node surrounds images by zeros, and does no more."""
    if node.opname != "place" or node.attrs["fill"] != 0 or any(s != 1 for s in node.attrs["step"]):
        return False
    (x,) = node.inputs
    return x.shape[:2] == node.shape[:2]
