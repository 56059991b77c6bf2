"""Rounds: take a large batch through a whole step a few samples at a time, and update with the sums of all of them.

In: a training step. Out: how many rows a round takes at most; and of a simplified step two: what every round but the
last does, which is to add to the sums over the batch, and the last one, which goes on with them.

What the forward pass leaves for the gradients of the weights then waits in a cache for as many samples as a round has,
and not in memory for all of them. A step can go so when no sample needs a sum over the batch, as it does behind
normalization by batch statistics.
"""

from __future__ import annotations

from dataclasses import dataclass

from smelt import ops
from smelt.compiler.passes.simplify import Rewriter, rewritten
from smelt.graph.graph import Graph, Node
from smelt.ops.custom import Custom
from smelt.ops.elementwise import BOOL
from smelt.ops.primitive import FLOAT32, Primitive, Spec
from smelt.ops.reduction import Count

ROUND = 1 << 21  # elements of the operands of products that sum over the batch, in a round
FEWEST_ROWS = 32  # a round reads all weights, and reads and writes the sum of each one's gradient
GRAIN = 16  # rows: a round that tiles and turns do not divide takes up to a tenth longer
_PRODUCTS = ("matmul", "conv2d_weight_grad", "conv2d_winner_grad")
_SUMS = ("sum", *_PRODUCTS)


class LaterRound(Primitive):
    """Whether a round of this batch has run before, a scalar; made by the compiler only."""

    def __init__(self) -> None:
        self.name, self._samples = "later_round", ()

    def infer(self, *specs: Spec, **attrs: object) -> Spec:
        """Return the spec of a truth value."""
        return Spec((), BOOL)


class CountAll(Count):
    """``count`` of all rounds together, where that is of the present one; made by the compiler only."""

    def __init__(self) -> None:
        self.name, self._samples = "count_all", ()


LATER_ROUND, COUNT_ALL = LaterRound(), CountAll()


@dataclass
class Rounds:
    """A step in two: what each round but the last does, and the last; both know the same inputs and states.

    ``updates`` of the first are the sums, whose nodes are of the kind ``state`` but not among the states.
    """

    each: Graph
    last: Graph


def obstacle(graph: Graph) -> str:
    """Return why a step cannot go in rounds; an empty string when it can."""
    if not graph.updates or graph.exact or all(n.spec.rows is None for n in graph.inputs):
        return "it is no training step that any batch may run"
    if any(n.spec.rows is not None and n.spec.rows.axis for n in graph.outputs):
        return "it returns values whose samples do not come first"
    later: set[Node] = set()  # what needs the sum of all samples
    for node in graph.nodes():
        if isinstance(node.op, Custom):
            return "a user's function takes the whole batch"
        if node.op is None or node.op.name == "count":
            continue
        sums = any(i.spec.rows is not None for i in node.inputs) and node.spec.rows is None
        if node.spec.rows is not None or sums:
            if any(i in later for i in node.inputs):
                return f"{node.opname} of each sample needs a sum over the batch"
            if node.opname == "random_uniform" and node.spec.rows is not None and node.spec.rows.axis:
                return "random numbers are drawn in another order than that of the samples"
        if sums and (node.opname not in _SUMS or node.dtype.itemsize < FLOAT32.itemsize):
            return f"{node.opname} over the batch is no sum of 32 bits or more"
        if sums or any(i in later for i in node.inputs):
            later.add(node)
    return ""


def rows_per_round(graph: Graph) -> int:
    """Return how many of a batch's rows a round of a traced step takes at most, or 0 for all at once.

    Fewer rows wait in a cache nearer by, but weights and the sums of their gradients are read as often as there are
    rounds. On two threads of Zen 4, at batch 1024, by turns with mnist_cnn's step for 64 samples: 0.94 of its time a
    sample in rounds of 64, 0.93 of 48, 0.93 of 32, 0.95 of 57, 0.97 of 86, 0.99 of 114, and 1.0 in one; in bf16 0.85
    in rounds of 64 or 80, and 0.92 of 128.
    """
    if obstacle(graph):
        return 0
    rows = next(n.shape[n.spec.rows.axis] for n in graph.inputs if n.spec.rows is not None)
    products = [n for n in _sums(graph) if n.opname in _PRODUCTS]
    operands = {_stored(i) for n in products for i in n.inputs if i.spec.rows is not None}
    each = sum(n.spec.size for n in operands) // rows
    most = ROUND // each // GRAIN * GRAIN if each else rows
    return most if most >= FEWEST_ROWS and 2 * most <= rows else 0


def rounds_of(rows: int, capacity: int) -> int:
    """Return how many rounds of at most ``capacity`` rows a batch takes; the same as the emitted code."""
    return max(-(-rows // capacity), 1)


def phases_in(rounds: int, once: int, before: int, last: int) -> int:
    """Return how many phases so many rounds have: those for all but the last, those of each of these, and the last's.

    The same as the emitted code.
    """
    return last + (once + (rounds - 1) * before if rounds > 1 else 0)


def in_rounds(graph: Graph) -> Rounds:
    """Return a simplified step as rounds."""
    sums: dict[Node, Node] = {}

    def rule(r: Rewriter, node: Node, inputs: tuple[Node, ...], new: dict[Node, Node]) -> Node:
        assert node.op is not None
        if node.op.name == "count":
            return r.node(COUNT_ALL, inputs, node.attrs, node.spec)
        made = r.node(node.op, inputs, node.attrs, node.spec)
        if node not in summed:
            return made
        assert node.opname in _SUMS, f"{node.opname} cannot be summed up in rounds"
        before = Node("state", node.spec, name=f"sum{len(sums)}", line=node.line, layer=node.layer)
        later = r.node(LATER_ROUND, (), {}, LATER_ROUND.infer())
        sums[before] = r.make(ops.add, made, r.make(ops.where, later, before, r.constant(0, node.dtype)))
        return sums[before]

    summed = set(_sums(graph))
    last = rewritten(graph, rule)
    outputs = [n for n in last.outputs if n.spec.rows is not None]
    return Rounds(Graph(graph.name, graph.inputs, graph.states, outputs, dict(sums)), last)


def _sums(graph: Graph) -> list[Node]:
    """Return the nodes that sum over the batch."""
    return [
        n
        for n in graph.nodes()
        if n.op is not None
        and n.op.name != "count"
        and n.spec.rows is None
        and any(i.spec.rows is not None for i in n.inputs)
    ]


def _stored(node: Node) -> Node:
    """Return the node that a chain of views looks at."""
    while node.opname in ("reshape", "permute", "broadcast_to", "slice", "place"):
        node = node.inputs[0]
    return node
