"""Simplify: rewrite the traced graph into fewer, simpler nodes that mean the same.

In: a graph as traced. Out: a graph in which padding is explicit, the fused loss is spelled out in reductions, equal
nodes are one node, and moves that do nothing are gone. What remains is what the lowerings know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from smelt import ops
from smelt.graph.graph import Graph, Node
from smelt.ops.primitive import FLOAT32, Primitive, Spec, is_half, short_dtype
from smelt.ops.winograd import CONVOLUTIONS

VIEWS = ("reshape", "permute", "broadcast_to", "slice")
NO_PADDING = ((0, 0), (0, 0))


class Rewriter:
    """Builds nodes, reusing an equal node that was built before."""

    def __init__(self, pairs: bool = False) -> None:
        self.pairs = pairs  # whether the processor multiplies pairs of bfloat16
        self._known: dict[tuple, Node] = {}
        self.line = self.layer = ""  # of the nodes made from here on
        self.uses: dict[int, int] = {}  # how often the nodes of the old graph are read

    def make(self, op: Primitive, *inputs: Node, **attrs: Any) -> Node:
        """Return the node ``op(*inputs, **attrs)``."""
        spec = op.infer(*(i.spec for i in inputs), **attrs)
        return self.node(op, inputs, attrs, spec)

    def node(self, op: Primitive, inputs: tuple[Node, ...], attrs: dict[str, Any], spec: Spec) -> Node:
        """Return a node with a known spec."""
        key = (op.name, tuple(id(i) for i in inputs), tuple(sorted(attrs.items())), spec.rows)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Node("op", spec, op, inputs, attrs, line=self.line, layer=self.layer)
        return found

    def constant(self, value: Any, dtype: np.dtype) -> Node:
        """Return a scalar constant."""
        array = np.asarray(value, dtype)
        key = ("constant", dtype.name, array.tobytes())
        if key not in self._known:
            self._known[key] = Node("constant", Spec((), dtype), value=array)
        return self._known[key]


def simplify(graph: Graph, pairs: bool = False) -> Graph:
    """Return the simplified graph; inputs and states are the same nodes.

    For a processor that multiplies ``pairs`` of bfloat16, kernels of one channel get an even width.
    """
    r = Rewriter(pairs)
    new: dict[int, Node] = {}
    nodes = graph.nodes()
    for node in nodes:
        for i in node.inputs:
            r.uses[id(i)] = r.uses.get(id(i), 0) + 1
    for node in nodes:
        if node.op is None:
            scalar = node.kind == "constant" and node.value is not None and node.value.ndim == 0
            new[id(node)] = r.constant(node.value, node.dtype) if scalar else node
            continue
        r.line, r.layer = node.line, node.layer
        inputs = tuple(new[id(i)] for i in node.inputs)
        rule = _RULES.get(node.op.name)
        made = _view_of_halves(r, node, *inputs) if node.op.name in VIEWS else None
        made = rule(r, node, *inputs) if rule and made is None else made
        new[id(node)] = made if made is not None else r.node(node.op, inputs, node.attrs, node.spec)
    out = Graph(graph.name, graph.inputs, graph.states, exact=graph.exact)
    out.outputs = [new[id(n)] for n in graph.outputs]
    out.updates = {s: new[id(n)] for s, n in graph.updates.items() if new[id(n)] is not s}
    return out


def rewritten(graph: Graph, rule: Callable[[Rewriter, Node, tuple[Node, ...], dict[Node, Node]], Node]) -> Graph:
    """Return the graph with every node made anew by ``rule(rewriter, node, new inputs, new nodes by the old)``.

    Inputs, states and constants are the same nodes.
    """
    r, new = Rewriter(), {n: n for n in graph.nodes() if n.op is None}
    for node in graph.nodes():
        if node.op is not None:
            r.line, r.layer = node.line, node.layer
            new[node] = rule(r, node, tuple(new[i] for i in node.inputs), new)
    out = Graph(graph.name, graph.inputs, graph.states, exact=graph.exact)
    out.outputs = [new[n] for n in graph.outputs]
    out.updates = {s: new[n] for s, n in graph.updates.items()}
    return out


def _pad(r: Rewriter, x: Node, padding: Any, fill: float) -> Node:
    if padding == NO_PADDING:
        return x
    (top, bottom), (left, right) = padding
    n, c, h, w = x.shape
    shape = (n, c, h + top + bottom, w + left + right)
    return r.make(ops.place, x, shape=shape, start=(0, 0, top, left), step=(1, 1, 1, 1), fill=fill)


def _conv2d(r: Rewriter, node: Node, x: Node, w: Node) -> Node:
    a = node.attrs
    padding = a["padding"]
    if _single(r, x, a, w.shape[3]):
        padding = _one_more(padding)
        w = r.make(ops.place, w, shape=(*w.shape[:3], w.shape[3] + 1), start=(0,) * 4, step=(1,) * 4, fill=0.0)
    return r.make(ops.conv2d, _pad(r, x, padding, 0.0), w, **{**a, "padding": NO_PADDING})


def _conv2d_winograd(r: Rewriter, node: Node, x: Node, u: Node) -> Node:
    x = _pad(r, x, node.attrs["padding"], 0.0)
    return r.node(node.op, (x, u), {"padding": NO_PADDING}, node.spec)  # type: ignore[arg-type]


def _single(r: Rewriter, x: Node, a: dict[str, Any], width: int) -> bool:
    """Return whether taps pair along a kernel's width, which is odd: the last one is then paired with zero."""
    alone = x.shape[1] == 1 and a["groups"] == 1 and a["dilation"][1] == 1
    return r.pairs and alone and width % 2 == 1 and short_dtype(x.dtype) == "bf16"


def _one_more(padding: Any) -> Any:
    (rows, (left, right)) = padding
    return rows, (left, right + 1)


def _conv2d_weight_grad(r: Rewriter, node: Node, x: Node, g: Node) -> Node:
    a = node.attrs
    wider = _single(r, x, a, a["kernel"][1])  # as for the convolution, so that both read the same images
    x = _pad(r, x, _one_more(a["padding"]) if wider else a["padding"], 0.0)
    return r.node(ops.conv2d_weight_grad, (x, g), {**a, "padding": NO_PADDING}, node.spec)


def gather_padding(size: int, kernel: int, stride: int, dilation: int, before: int, grads: int) -> tuple[int, int]:
    """Return how far (in front, behind) the windows that cover the input reach beyond the ``grads`` outputs."""
    low = high = 0
    for r in range(stride):
        count = -(-(size - r) // stride)
        for k in range(kernel):
            reach = r + before - k * dilation
            if reach % stride == 0 and count > 0:
                low = min(low, reach // stride)
                high = max(high, reach // stride + count - grads)
    return -low, high


def _gathered(r: Rewriter, g: Node, a: dict[str, Any], kernel: Any, dilation: Any, fill: float) -> tuple[Node, Any]:
    pads = tuple(
        gather_padding(a["size"][i], kernel[i], a["stride"][i], dilation[i], a["padding"][i][0], g.shape[2 + i])
        for i in (0, 1)
    )
    return _pad(r, g, pads, fill), (pads[0][0], pads[1][0])


def _conv2d_input_grad(r: Rewriter, node: Node, g: Node, w: Node) -> Node:
    a = node.attrs
    g, origin = _gathered(r, g, a, w.shape[2:], a["dilation"], 0.0)
    return r.node(ops.conv2d_input_grad, (g, w), {**a, "origin": origin}, node.spec)


def _max_pool2d_grad(r: Rewriter, node: Node, g: Node, index: Node) -> Node:
    a = node.attrs
    g, origin = _gathered(r, g, a, a["kernel"], (1, 1), 0.0)
    index, _ = _gathered(r, index, a, a["kernel"], (1, 1), 255)
    return r.node(ops.max_pool2d_grad, (g, index), {**a, "origin": origin}, node.spec)


def _where(r: Rewriter, node: Node, c: Node, x: Node, other: Node) -> Node | None:
    """Ask once per window, not once per pixel, whether the winner of a max pooling was positive: for a ReLU before it.

    A window whose maximum is not positive then has no winner, which is what index 255 means.
    """
    masked = x.opname == "max_pool2d_grad" and c.opname == "lt" and _is_number(other, 0.0)
    if not masked or not _is_number(c.inputs[0], 0.0) or r.uses[id(node.inputs[1])] != 1:
        return None
    g, around = x.inputs
    index = around.inputs[0] if around.opname == "place" else around
    if index.opname != "max_pool2d_index" or index.inputs[0] is not c.inputs[1]:
        return None
    top = _largest(r, c.inputs[1], index.attrs)
    if c.inputs[1].opname == "relu":  # of what is positive, the winner is the same before
        index = r.make(ops.max_pool2d_index, *c.inputs[1].inputs, **index.attrs)
    winner = r.make(ops.where, r.make(ops.lt, c.inputs[0], top), index, r.constant(255, index.dtype))
    if around.opname == "place":
        winner = r.make(ops.place, winner, **around.attrs)
    return r.node(ops.max_pool2d_grad, (g, winner), x.attrs, x.spec)


def _sum_pool2d_grad(r: Rewriter, node: Node, g: Node) -> Node:
    a = node.attrs
    g, origin = _gathered(r, g, a, a["kernel"], (1, 1), 0.0)
    return r.node(ops.sum_pool2d_grad, (g,), {**a, "origin": origin}, node.spec)


def _max_pool2d(r: Rewriter, node: Node, x: Node) -> Node:
    """Take the maximum before a ReLU: there are fewer windows than pixels."""
    return _largest(r, x, node.attrs)


def _largest(r: Rewriter, x: Node, a: dict[str, Any]) -> Node:
    if x.opname == "relu":
        return r.make(ops.relu, _largest(r, x.inputs[0], a))
    return r.make(ops.max_pool2d, _pad(r, x, a["padding"], float("-inf")), **{**a, "padding": NO_PADDING})


def _pool(fill: float) -> Any:
    def rule(r: Rewriter, node: Node, x: Node) -> Node:
        a = node.attrs
        return r.make(node.op, _pad(r, x, a["padding"], fill), **{**a, "padding": NO_PADDING})  # type: ignore[arg-type]

    return rule


def _cross_entropy_parts(r: Rewriter, x: Node, y: Node) -> tuple[Node, Node, Node, Node]:
    """Return (largest logit, exponentials of the shifted logits, the sum of these, whether a class is the label)."""
    rows, classes = x.shape
    column = (rows, 1)
    top = r.make(ops.max_, x, axes=(1,))
    e = r.make(ops.exp, r.make(ops.sub, x, r.make(ops.reshape, top, shape=column)))
    s = r.make(ops.sum_, e, axes=(1,))
    number = r.make(ops.iota, shape=(1, classes), axis=1, dtype=y.dtype.name)
    hit = r.make(ops.eq, r.make(ops.reshape, y, shape=column), number)
    return top, e, s, hit


def _softmax_cross_entropy(r: Rewriter, node: Node, x: Node, y: Node) -> Node:
    top, _, s, hit = _cross_entropy_parts(r, x, y)
    picked = r.make(ops.sum_, r.make(ops.where, hit, x, r.constant(0, x.dtype)), axes=(1,))
    return r.make(ops.add, r.make(ops.log, s), r.make(ops.sub, top, picked))


def _softmax_cross_entropy_grad(r: Rewriter, node: Node, x: Node, y: Node, g: Node) -> Node:
    _, e, s, hit = _cross_entropy_parts(r, x, y)
    column = (x.shape[0], 1)
    p = r.make(ops.div, e, r.make(ops.reshape, s, shape=column))
    one_hot = r.make(ops.where, hit, r.constant(1, x.dtype), r.constant(0, x.dtype))
    return r.make(ops.mul, r.make(ops.sub, p, one_hot), r.make(ops.reshape, g, shape=column))


def _reshape(r: Rewriter, node: Node, x: Node) -> Node | None:
    if x.opname == "reshape":
        x = x.inputs[0]
    if x.shape == node.shape:
        return x
    return r.node(ops.reshape, (x,), {"shape": node.attrs["shape"]}, node.spec)


def _permute(r: Rewriter, node: Node, x: Node) -> Node | None:
    axes = node.attrs["axes"]
    if x.opname == "permute":
        inner = x.attrs["axes"]
        axes, x = tuple(inner[a] for a in axes), x.inputs[0]
    if axes == tuple(range(len(axes))):
        return x
    rank = len(axes)
    swap = (*range(rank - 2), rank - 1, rank - 2)
    if x.opname == "matmul" and axes == swap and r.uses[id(node.inputs[0])] == 1:
        # (a b)^T = b^T a^T: the gradient of a weight then has the weight's shape, and its update fuses with it.
        a, b = (_permute_last(r, i) for i in x.inputs)
        return r.node(ops.matmul, (b, a), {}, node.spec)
    return r.node(ops.permute, (x,), {"axes": axes}, node.spec)


def _permute_last(r: Rewriter, x: Node) -> Node:
    rank = len(x.shape)
    axes = (*range(rank - 2), rank - 1, rank - 2)
    if x.opname == "permute" and x.attrs["axes"] == axes:
        return x.inputs[0]
    return r.make(ops.permute, x, axes=axes)


def _is_number(node: Node, value: float) -> bool:
    return node.kind == "constant" and node.value is not None and node.value.ndim == 0 and node.value == value


def _pow(r: Rewriter, node: Node, x: Node, y: Node) -> Node | None:
    """Spell out small whole powers as products: x**3 is exact and has no trouble with negative x."""
    if y.kind != "constant" or y.value is None or y.value.ndim or node.dtype != x.dtype:
        return None
    n = float(y.value)
    if n == 0.5 and node.shape == x.shape:
        return r.make(ops.sqrt, x)
    if n != int(n) or not 1 <= abs(n) <= 4 or node.shape != x.shape:
        return None
    out = x
    for _ in range(int(abs(n)) - 1):
        out = r.make(ops.mul, out, x)
    return out if n > 0 else r.make(ops.div, r.constant(1, x.dtype), out)


def _same_shape_only(value: float, side: int) -> Any:
    """Drop ``x * 1``, ``x + 0``, ``x / 1`` and ``x - 0`` where they do not broadcast x."""

    def rule(r: Rewriter, node: Node, a: Node, b: Node) -> Node | None:
        if _is_number(b, value) and a.shape == node.shape:
            return a
        if side == 2 and _is_number(a, value) and b.shape == node.shape:
            return b
        return None

    return rule


def _narrow(x: Node) -> Node | None:
    """Return the 16-bit value that ``x`` is in float32, if it is one."""
    return x.inputs[0] if x.opname == "cast" and x.dtype == FLOAT32 and is_half(x.inputs[0].dtype) else None


def _view_of_halves(r: Rewriter, node: Node, x: Node) -> Node | None:
    """Look at 16 bits where they are stored and widen them where they are used, not the other way round."""
    half = _narrow(x)
    if half is None:
        return None
    spec = Spec(node.shape, half.dtype, node.spec.rows)
    view = r.node(node.op, (half,), node.attrs, spec)  # type: ignore[arg-type]
    return r.node(ops.cast, (view,), {"dtype": FLOAT32.name}, node.spec)


def _cast(r: Rewriter, node: Node, x: Node) -> Node | None:
    if x.dtype == node.dtype:
        return x
    half = _narrow(x)
    if half is not None and half.dtype == node.dtype:
        return half
    if is_half(node.dtype) and x.opname in ("reshape", "permute"):  # so that a weight is rounded once for all its views
        spec = Spec(x.inputs[0].shape, node.dtype, x.inputs[0].spec.rows)
        inner = r.node(ops.cast, x.inputs, node.attrs, spec)
        return r.node(x.op, (inner,), x.attrs, node.spec)  # type: ignore[arg-type]
    if x.kind == "constant" and x.value is not None and x.value.ndim == 0:
        return r.constant(x.value, node.dtype)
    return None


_RULES: dict[str, Any] = {
    "conv2d": _conv2d,
    **dict.fromkeys(CONVOLUTIONS, _conv2d_winograd),
    "conv2d_weight_grad": _conv2d_weight_grad,
    "conv2d_input_grad": _conv2d_input_grad,
    "max_pool2d": _max_pool2d,
    "max_pool2d_index": _pool(float("-inf")),
    "sum_pool2d": _pool(0.0),
    "max_pool2d_grad": _max_pool2d_grad,
    "sum_pool2d_grad": _sum_pool2d_grad,
    "softmax_cross_entropy": _softmax_cross_entropy,
    "softmax_cross_entropy_grad": _softmax_cross_entropy_grad,
    "reshape": _reshape,
    "permute": _permute,
    "pow": _pow,
    "mul": _same_shape_only(1.0, 2),
    "add": _same_shape_only(0.0, 2),
    "sub": _same_shape_only(0.0, 1),
    "div": _same_shape_only(1.0, 1),
    "cast": _cast,
    "where": _where,
}
