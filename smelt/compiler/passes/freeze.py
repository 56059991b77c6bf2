"""Freeze: split the graph of a model's forward pass into what depends on its input and what does not.

In: a graph that updates no state. Out: a :class:`Frozen`: the weights it needs, each a function of the states alone
(run once, by NumPy), and the remaining graph, whose states are these weights. Factors and offsets per channel behind a
convolution or a matrix product, batch normalization above all, become part of its weights and one addition. Only then
are the operands of contractions rounded, to 16 bits where that was asked for: the weights once, beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smelt import ops
from smelt.compiler.isa import Isa
from smelt.compiler.passes.precision import round_activations
from smelt.compiler.passes.simplify import Rewriter
from smelt.compiler.passes.winograd import by_winograd
from smelt.errors import TraceError
from smelt.graph.graph import Graph, Node
from smelt.graph.interpret import interpret
from smelt.ops.contraction import CONTRACTIONS
from smelt.ops.primitive import FLOAT32, is_half
from smelt.ops.winograd import WEIGHTS

CHANNEL = {"conv2d": 1, "matmul": -1}  # the axis of the result along which a weight's outputs lie


@dataclass
class Frozen:
    """``weights`` computes, from a model's states, the states of ``graph``."""

    weights: Graph
    graph: Graph

    def evaluate(self, states: list[np.ndarray]) -> list[np.ndarray]:
        """Return the arrays of ``graph.states``."""
        return interpret(self.weights, [], states)[0]


@dataclass(frozen=True)
class _Affine:
    """A contraction's result times ``factor`` plus ``offset``, both known beforehand; None is 1 and 0."""

    root: Node
    factor: Node | None = None
    offset: Node | None = None


class _Freezer:
    def __init__(self, graph: Graph) -> None:
        self.graph, self.r = graph, Rewriter()
        self.known: set[Node] = set()  # new nodes that do not depend on the input
        self.new: dict[Node, Node | _Affine] = {}
        self.uses: dict[Node, int] = dict.fromkeys(graph.outputs, 2)  # an output must exist as it is
        for node in graph.nodes():
            for i in node.inputs:
                self.uses[i] = self.uses.get(i, 0) + 1

    def run(self, half: np.dtype | None, isa: Isa | None) -> Frozen:
        """Return the two graphs."""
        for node in self.graph.nodes():
            self.r.line, self.r.layer = node.line, node.layer
            self.new[node] = self._rewrite(node)
        outputs = [self._value(n) for n in self.graph.outputs]
        if half is not None:
            outputs = self._rounded(outputs, half)
        if isa is not None:
            outputs = self._by_winograd(outputs, isa)
        frozen = self._split(outputs)
        return Frozen(frozen.weights, round_activations(frozen.graph))

    def _rewrite(self, node: Node) -> Node | _Affine:
        if node.op is None:
            if node.kind != "input":
                self.known.add(node)
            return node
        parts = [self.new[i] for i in node.inputs]
        if not any(isinstance(p, _Affine) for p in parts) and all(p in self.known for p in parts):
            return self._known(self.r.node(node.op, tuple(parts), node.attrs, node.spec))  # type: ignore[arg-type]
        folded = self._fold(node, parts) if len(parts) == 2 else None
        if folded is not None:
            return folded
        inputs = tuple(self._value(i) for i in node.inputs)
        out = self.r.node(node.op, inputs, node.attrs, node.spec)
        foldable = node.opname in CHANNEL and inputs[1] in self.known and inputs[0] not in self.known
        foldable = foldable and not is_half(inputs[1].dtype)
        if foldable and len(inputs[1].shape) == (4 if node.opname == "conv2d" else 2) and self.uses.get(node) == 1:
            return _Affine(out)
        return out

    def _known(self, node: Node) -> Node:
        self.known.add(node)
        return node

    def _value(self, node: Node) -> Node:
        """Return the new node of an old one, spelling out what was only noted."""
        value = self.new[node]
        if isinstance(value, _Affine):
            here = self.r.line, self.r.layer
            value = self.new[node] = self._spell(value)
            self.r.line, self.r.layer = here
        return value

    def _spell(self, value: _Affine) -> Node:
        root = value.root
        self.r.line, self.r.layer = root.line, root.layer
        if value.factor is not None:
            x, w = root.inputs
            factor = value.factor
            if root.opname == "conv2d":
                factor = self._known(self.r.make(ops.reshape, factor, shape=(factor.spec.size, 1, 1, 1)))
            w = self._known(self.r.make(ops.mul, w, factor))
            assert root.op is not None
            root = self.r.node(root.op, (x, w), root.attrs, root.spec)
        return root if value.offset is None else self.r.node(ops.add, (root, value.offset), {}, root.spec)

    def _fold(self, node: Node, parts: list[Node | _Affine]) -> _Affine | None:
        """Return ``node`` as an affine function of a contraction, when it is one with an operand known beforehand."""
        left = isinstance(parts[0], _Affine)
        value, other = parts if left else reversed(parts)
        if not isinstance(value, _Affine) or isinstance(other, _Affine) or other not in self.known:
            return None
        if self.uses[node.inputs[0 if left else 1]] != 1 or node.shape != value.root.shape:
            return None
        if not self._per_channel(other, value.root):
            return None
        r, known = self.r, self._known
        factor, offset = value.factor, value.offset

        def times(a: Node | None, by: Node) -> Node:
            return by if a is None else known(r.make(ops.mul, a, by))

        match node.opname, left:
            case "mul", _:
                return _Affine(value.root, times(factor, other), None if offset is None else times(offset, other))
            case "div", True:
                one = known(r.constant(1, other.dtype))
                inverse = known(r.make(ops.div, one, other))
                return _Affine(value.root, times(factor, inverse), None if offset is None else times(offset, inverse))
            case "add", _:
                return _Affine(value.root, factor, other if offset is None else known(r.make(ops.add, offset, other)))
            case "sub", True:
                minus = known(r.make(ops.neg, other))
                return _Affine(value.root, factor, minus if offset is None else known(r.make(ops.sub, offset, other)))
        return None

    def _per_channel(self, node: Node, root: Node) -> bool:
        """Return whether a broadcast operand differs along the channels of a result at most."""
        channel = CHANNEL[root.opname] % len(root.shape)
        lead = len(root.shape) - len(node.shape)
        return all(d == 1 or lead + i == channel for i, d in enumerate(node.shape))

    def _rounded(self, outputs: list[Node], half: np.dtype) -> list[Node]:
        """Return the outputs of a graph in which contractions read ``half`` instead of float32."""
        made: dict[Node, Node] = {}

        def operand(node: Node) -> Node:
            if node.dtype != FLOAT32:
                return made[node]
            cast = self.r.make(ops.cast, made[node], dtype=half.name)
            return self._known(cast) if node in self.known else cast

        for node in Graph("", outputs=outputs).nodes():
            made[node] = node
            if node.op is not None and node not in self.known:
                self.r.line = node.line
                inputs = tuple(operand(i) if node.opname in CONTRACTIONS else made[i] for i in node.inputs)
                made[node] = self.r.node(node.op, inputs, node.attrs, node.spec)
        return [made[n] for n in outputs]

    def _by_winograd(self, outputs: list[Node], isa: Isa) -> list[Node]:
        """Return the outputs of a graph whose convolutions are those a processor does best."""
        graph = by_winograd(Graph("", outputs=outputs), isa)
        self.known |= {n for n in graph.nodes() if n.opname in WEIGHTS and n.inputs[0] in self.known}
        return graph.outputs

    def _split(self, outputs: list[Node]) -> Frozen:
        """Cut between what is known beforehand and the rest: values of the one are states of the other."""
        graph = Graph(self.graph.name, self.graph.inputs, exact=self.graph.exact)
        weights = Graph(f"weights of {self.graph.name}", states=self.graph.states)
        made: dict[Node, Node] = {}

        def visit(node: Node) -> Node:
            if node.kind == "input" or (node.kind == "constant" and not node.shape):
                return node
            if node in self.known:
                name = node.name or f"folded{len(graph.states)}"
                state = Node("state", node.spec, name=name)
                graph.states.append(state)
                weights.outputs.append(node)
                return state
            return self.r.node(node.op, tuple(made[i] for i in node.inputs), node.attrs, node.spec)  # type: ignore[arg-type]

        for node in Graph("", outputs=outputs).nodes():
            self.r.line, self.r.layer = node.line, node.layer
            for i in node.inputs if node not in self.known else ():
                if i not in made:
                    made[i] = visit(i)
            if (node not in self.known or node in outputs) and node not in made:
                made[node] = visit(node)
        graph.outputs = [made[n] for n in outputs]
        return Frozen(weights, graph)


def freeze(graph: Graph, half: np.dtype | None = None, isa: Isa | None = None) -> Frozen:
    """Return a graph cut into its weights and the rest; contractions read ``half``, a 16-bit type, where it is given.

    With an ``isa``, kernels of convolutions are transformed beforehand, where that makes them faster on it.

    Raises
    ------
    TraceError
        When the graph changes state: such a step is not inference.
    """
    if graph.updates:
        state = next(iter(graph.updates))
        raise TraceError(
            f"{graph.name}: inference cannot change state, but this changes {state.name}; use model.eval()"
        )
    return _Freezer(graph).run(half, isa)
