"""Run a graph node by node with NumPy: the oracle of compiled programs.

In: a graph, arrays for its inputs and states. Out: arrays of its outputs and the new values of its states.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from smelt.graph.graph import Graph


def interpret(
    graph: Graph, inputs: Sequence[np.ndarray], states: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return (outputs, updates in the order of ``graph.updates``) at the full batch."""
    values = {id(n): a for n, a in zip((*graph.inputs, *graph.states), (*inputs, *states), strict=True)}
    for node in graph.nodes():
        if id(node) in values:
            continue
        if node.op is None:
            assert node.value is not None
            values[id(node)] = node.value
        else:
            attrs = {k: v for k, v in node.attrs.items() if k != "rows"}
            values[id(node)] = node.op.evaluate(*(values[id(i)] for i in node.inputs), **attrs)
    return [values[id(n)] for n in graph.outputs], [values[id(n)] for n in graph.updates.values()]
