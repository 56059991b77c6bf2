"""Winners: let the gradient of a convolution's kernels read the winners of the max pooling behind it, and nothing else.

In: a simplified graph. Out: the graph in which nobody spreads the gradient of pooled images over the images, where only
the gradients of the kernels and of the bias read that. Of a window's elements one has a gradient: the others are zeros
that the kernels' gradient multiplied. Every window still meets every tap, at a pixel that depends on the channel's
winner; so each pixel of the convolution's images is stored beside its neighbours in the window (:class:`Neighbours`),
and an instruction that picks by variable indices finds the winner's among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from smelt import ops
from smelt.compiler.passes.simplify import NO_PADDING, Rewriter, rewritten
from smelt.graph.graph import Graph, Node
from smelt.ops.contraction import Pair
from smelt.ops.primitive import FLOAT32, Primitive, Spec, is_half

BESIDE = 4  # pixels stored side by side: the elements of a window, at most 2 x 2
LANES = 16  # of the vectors that are picked from and into


class Neighbours(Primitive):
    """Store each pixel beside those a pooling window before the convolution's stride has to its right and below.

    Of images (n, c, h, w) it makes (n, lines, width, 4), where the pixels and channels of a line are one axis. It has
    room for at least one pixel more than a line has, as these are read in twos.
    """

    def __init__(self) -> None:
        self.name, self._samples = "neighbours", ()

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        """Return the spec."""
        (x,) = specs
        n, c, h, w = x.shape
        lines, pixels = (d - r for d, r in zip((h, w), reach(attrs), strict=True))
        return Spec((n, lines, (pixels * c // BESIDE + 1) * BESIDE, BESIDE), x.dtype, x.rows)


class Won(Primitive):
    """The gradient of pooled images where a window has a winner, else 0: (grad, winner) -> grad."""

    def __init__(self) -> None:
        self.name, self._samples = "won", ()

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        """Return the gradient's spec."""
        return specs[0]


class Conv2dWinnerGrad(Primitive):
    """Gradient of ``conv2d`` with respect to its kernels: (neighbours, grad of pooled images, winner) -> kernels.

    Attributes: ``kernel``, ``stride`` and ``dilation`` of the convolution, ``window`` of the pooling, ``channels`` of
    the images and the ``size`` of what the convolution makes of them.
    """

    def __init__(self) -> None:
        self.name, self._samples = "conv2d_winner_grad", ()

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        """Return the kernels' spec."""
        return Spec((specs[1].shape[1], attrs["channels"], *attrs["kernel"]), specs[1].dtype)

    def macs(self, specs: tuple[Spec, ...], out: Spec, attrs: dict[str, Any]) -> int:
        """Return those of the gradient that is spread over all pixels, as networks' sizes are compared by them."""
        n, o, *_ = specs[1].shape
        return n * o * int(np.prod(attrs["size"])) * int(np.prod(out.shape[1:]))


NEIGHBOURS, WON, WINNER_GRAD = Neighbours(), Won(), Conv2dWinnerGrad()


def reach(attrs: dict[str, Any]) -> Pair:
    """Return how far below and to the right of a pixel its neighbours go."""
    (ph, pw), (th, tw) = attrs["window"], attrs["stride"]
    return (ph - 1) * th, (pw - 1) * tw


def span(attrs: dict[str, Any], channels: int) -> int:
    """Return how many numbers of a line hold all neighbours of a vector's pixels: a power of two."""
    return 1 << (LANES // BESIDE + reach(attrs)[1] * channels - 1).bit_length()


def read_winners(graph: Graph) -> Graph:
    """Return the graph; inputs and states are the same nodes.

    Of a gradient that was rounded to 16 bits, the elements that are spread are such numbers: what rounds them again
    changes nothing, and products and sums of them read the rounded gradient as float32.
    """
    readers: dict[Node, list[Node]] = {}
    for node in graph.nodes():
        if _wide(node) is node:
            for i in node.inputs:
                readers.setdefault(_wide(i), []).append(node)
    kept = {_wide(n) for n in (*graph.outputs, *graph.updates.values())}
    spread = {n for n in graph.nodes() if n not in kept and _may_stay_pooled(n, readers.get(n, []))}
    if not spread:
        return graph

    def rule(r: Rewriter, node: Node, inputs: tuple[Node, ...], new: dict[Node, Node]) -> Node:
        if node in spread:
            return _pooled(r, *(new[i] for i in _whole(node)))
        if _wide(node) in spread:
            return new[_wide(node)]
        if node.opname == "conv2d_weight_grad" and _wide(node.inputs[1]) in spread:
            whole = _wide(node.inputs[1])
            return _winner_grad(r, node, whole, inputs[0], new[whole], new[_whole(whole)[1]])
        assert node.op is not None
        return r.node(node.op, inputs, node.attrs, node.spec)

    return rewritten(graph, rule)


def _wide(x: Node) -> Node:
    """Return what is rounded to 16 bits, and may have 32 again, or the node itself."""
    while x.opname == "cast" and (is_half(x.dtype) or (x.dtype == FLOAT32 and is_half(x.inputs[0].dtype))):
        x = x.inputs[0]
    return x


def _casts(inputs: Iterable[Node], wide: Node) -> Iterator[Node]:
    """Yield the casts that lead from a node to some inputs."""
    for x in inputs:
        while _wide(x) is wide and x is not wide:
            yield x
            x = x.inputs[0]


def _whole(spread: Node) -> tuple[Node, Node]:
    """Return the pooled gradient and the winners, without the margin for pixels that are in no window."""
    g, winner = (i.inputs[0] if i.opname == "place" else i for i in spread.inputs)
    return g, winner


def _may_stay_pooled(node: Node, readers: list[Node]) -> bool:
    """Return whether a node spreads a gradient over the pixels of small windows, and what reads it can do without."""
    if node.opname != "max_pool2d_grad" or node.dtype != FLOAT32:
        return False
    a, rows = node.attrs, node.spec.rows
    small = a["kernel"] == a["stride"] and max(a["kernel"]) <= 2 and a["padding"] == NO_PADDING
    batched = rows is not None and (rows.axis, rows.per) == (0, 1) and node.shape[1] >= LANES
    g, _ = _whole(node)
    kinds = {i.dtype for n in readers for i in _casts(n.inputs, node) if is_half(i.dtype)}
    if kinds - ({g.inputs[0].dtype} if g.opname == "cast" else set()):
        return False  # it is spread before it is rounded, or rounded to another kind
    products = [n for n in readers if n.opname == "conv2d_weight_grad"]
    sums = [n for n in readers if n.opname == "sum" and n.attrs["axes"] == (0, 2, 3)]
    return (
        small
        and batched
        and 0 not in node.shape
        and len(products) + len(sums) == len(readers)
        and len(products) > 0
        and all(_may_pick(n, node) for n in products)
    )


def _may_pick(node: Node, spread: Node) -> bool:
    x, g = node.inputs
    a = {**node.attrs, "window": spread.attrs["kernel"]}
    lines = x.shape[2] - reach(a)[0]
    pixels = (x.shape[3] - reach(a)[1]) * x.shape[1]
    fits = span(a, x.shape[1]) <= min(LANES, x.shape[3] * x.shape[1]) and lines > 0 and pixels >= LANES // BESIDE
    plain = a["groups"] == 1 and (x.dtype == FLOAT32 or is_half(x.dtype))
    return _wide(g) is spread and plain and x.spec.rows == spread.spec.rows and fits


def _pooled(r: Rewriter, g: Node, winner: Node) -> Node:
    """Return the gradient of windows, 0 where they have no winner: after a ReLU that let none of it pass."""
    return g if winner.opname == "max_pool2d_index" else r.make(WON, g, winner)


def _winner_grad(r: Rewriter, node: Node, spread: Node, x: Node, g: Node, winner: Node) -> Node:
    a = node.attrs
    if x.dtype != FLOAT32:
        x = r.make(ops.cast, x, dtype=FLOAT32.name)
    attrs = {"stride": a["stride"], "window": spread.attrs["kernel"]}
    beside = r.make(NEIGHBOURS, x, **attrs)
    attrs |= {"kernel": a["kernel"], "dilation": a["dilation"], "channels": x.shape[1], "size": spread.shape[2:]}
    return r.node(WINNER_GRAD, (beside, g, winner), attrs, node.spec)
