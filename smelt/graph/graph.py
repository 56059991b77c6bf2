"""The graph: typed, shaped nodes of one traced step, printable on a page.

In: nodes appended by the tracer. Out: a :class:`Graph` in topological order, with its inputs, bound state,
outputs and the new value of every state that changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smelt.ops.primitive import Primitive, Spec, short_dtype


@dataclass(eq=False, slots=True)
class Node:
    """One value: the result of ``op``, or a leaf (``kind`` input, state or constant).

    ``value`` is set for constants, ``name`` for inputs and states; ``line`` is the user's line that made the node, and
    ``layer`` the module (or optimizer) it was made in, or whose gradient it computes: ``"0.1 Conv2d"``.
    """

    kind: str
    spec: Spec
    op: Primitive | None = None
    inputs: tuple[Node, ...] = ()
    attrs: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    value: np.ndarray | None = None
    line: str = ""
    layer: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape at the full batch."""
        return self.spec.shape

    @property
    def dtype(self) -> np.dtype:
        """NumPy dtype of the elements."""
        return self.spec.dtype

    @property
    def opname(self) -> str:
        """Name of the primitive, or the kind of leaf."""
        return self.op.name if self.op else self.kind


def topological(roots: Iterable[Node]) -> list[Node]:
    """Return every node the roots depend on, inputs before users, in a stable order."""
    order: list[Node] = []
    done: set[int] = set()
    for root in roots:
        stack: list[tuple[Node, int]] = [(root, 0)]
        while stack:
            node, i = stack.pop()
            if id(node) in done:
                continue
            if i < len(node.inputs):
                stack.append((node, i + 1))
                if id(node.inputs[i]) not in done:
                    stack.append((node.inputs[i], 0))
            else:
                done.add(id(node))
                order.append(node)
    return order


@dataclass(eq=False)
class Graph:
    """One step: what goes in, what it keeps between calls, what comes out.

    ``updates`` maps a state node to the node that holds its value after the step. ``exact`` lists why the step is
    right only at its full batch; while it is empty, a ragged last batch may run the same code.
    """

    name: str
    inputs: list[Node] = field(default_factory=list)
    states: list[Node] = field(default_factory=list)
    outputs: list[Node] = field(default_factory=list)
    updates: dict[Node, Node] = field(default_factory=dict)
    exact: list[str] = field(default_factory=list)

    def nodes(self) -> list[Node]:
        """Return the live nodes in topological order, in the order they were first needed."""
        return topological([*self.outputs, *self.updates.values()])

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run at the full batch."""
        return sum(
            n.op.macs(tuple(i.spec for i in n.inputs), n.spec, n.attrs) for n in self.nodes() if n.op is not None
        )

    def __str__(self) -> str:
        return format_graph(self)


def _attr(value: Any) -> str:
    if isinstance(value, tuple):
        inner = ", ".join(_attr(v) for v in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return str(value)


def _shape(spec: Spec) -> str:
    dims = [str(d) for d in spec.shape]
    if spec.rows:
        dims[spec.rows.axis] = f"b*{spec.rows.per}" if spec.rows.per != 1 else "b"
        dims[spec.rows.axis] += f"≤{spec.shape[spec.rows.axis]}"
    return f"{short_dtype(spec.dtype)}[{', '.join(dims)}]"


def format_graph(graph: Graph, lines: bool = False) -> str:
    """Return the graph as text; ``lines`` adds the user's source line of every node.

    The axis that follows the batch is written ``b≤64``.
    """
    nodes = graph.nodes()
    names: dict[int, str] = {}
    for node in (*graph.inputs, *graph.states):
        names[id(node)] = f"%{node.name}"
    count = 0
    out = [f"graph {graph.name}({', '.join(f'%{n.name}: {_shape(n.spec)}' for n in graph.inputs)})"]
    out += [f"  state %{n.name}: {_shape(n.spec)}" for n in graph.states]
    for node in nodes:
        if id(node) in names:
            continue
        if node.kind == "constant" and node.value is not None:
            if node.value.ndim == 0:
                names[id(node)] = repr(node.value.item())
                continue
            names[id(node)] = f"%{count}"
            out.append(f"  %{count} = constant : {_shape(node.spec)}")
        else:
            names[id(node)] = f"%{count}"
            args = [names[id(i)] for i in node.inputs] + [f"{k}={_attr(v)}" for k, v in node.attrs.items()]
            text = f"  %{count} = {node.opname}({', '.join(args)}) : {_shape(node.spec)}"
            out.append(f"{text:<88} # {node.line}" if lines and node.line else text)
        count += 1
    out += [f"  %{s.name} <- {names[id(n)]}" for s, n in graph.updates.items()]
    out.append(f"  return {', '.join(names[id(n)] for n in graph.outputs)}")
    if graph.exact:
        out.append(f"  exact batch: {graph.exact[0]}")
    return "\n".join(out)
