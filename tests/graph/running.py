"""For tests: trace a function, and interpret its graph, also with fewer rows than it was traced with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from smelt.graph.graph import Graph, Node
from smelt.graph.interpret import interpret
from smelt.graph.trace import Tracer
from smelt.ops import Rows, Spec
from smelt.tensor import Tensor

Function = Callable[..., Tensor | tuple[Tensor, ...]]


def as_tuple(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def batch(*shape: int, dtype: str = "float32", axis: int = 0) -> Spec:
    """Return the spec of an input whose ``axis`` is the batch."""
    return Spec(shape, np.dtype(dtype), Rows(axis))


def fixed(*shape: int, dtype: str = "float32") -> Spec:
    """Return the spec of an input of fixed shape."""
    return Spec(shape, np.dtype(dtype))


def trace(function: Function, *specs: Spec, name: str = "f") -> Tracer:
    """Return the tracer after ``function`` ran on symbols; its ``graph`` is finished."""
    tracer = Tracer(name)
    nodes = [tracer.input("xyzuvw"[i], s) for i, s in enumerate(specs)]
    with tracer:
        outputs = [tracer.lift(t) for t in as_tuple(function(*(Tensor(n) for n in nodes)))]
    tracer.finish(outputs)
    return tracer


def run_traced(tracer: Tracer, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the outputs of the traced graph at the batch it was traced with."""
    return interpret(tracer.graph, arrays, [t.numpy() for t, _ in tracer.state.values()])[0]


def with_rows(graph: Graph, traced: int, rows: int) -> Graph:
    """Return the graph for a ragged batch: sizes that follow the batch of ``traced`` rows follow ``rows``."""
    new: dict[int, Node] = {}
    for node in [*graph.inputs, *graph.states, *graph.nodes()]:
        if id(node) in new:
            continue
        spec, attrs = node.spec, dict(node.attrs)
        follows = spec.rows
        for key in ("shape", "size") if follows else ():
            if len(attrs.get(key, ())) == len(spec.shape):
                sizes = list(attrs[key])
                sizes[follows.axis] = sizes[follows.axis] // traced * rows
                attrs[key] = tuple(sizes)
        inputs = tuple(new[id(i)] for i in node.inputs)
        new[id(node)] = Node(node.kind, spec, node.op, inputs, attrs, node.name, node.value, node.line)
    return Graph(
        graph.name,
        [new[id(n)] for n in graph.inputs],
        [new[id(n)] for n in graph.states],
        [new[id(n)] for n in graph.outputs],
    )


def run_ragged(tracer: Tracer, arrays: Sequence[np.ndarray], traced: int, rows: int) -> list[np.ndarray]:
    """Return the outputs of the traced graph on arrays of ``rows`` instead of ``traced`` samples."""
    graph = with_rows(tracer.graph, traced, rows)
    return interpret(graph, arrays, [t.numpy() for t, _ in tracer.state.values()])[0]
