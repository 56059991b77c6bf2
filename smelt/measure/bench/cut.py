"""One graph in several: a traced step and the part each of its nodes belongs to in; a graph for each part out.

What a part computes and a later one reads becomes state: the one writes it, the other finds it there.
"""

from __future__ import annotations

from collections.abc import Callable

from smelt.compiler.passes.fuse import VIEWS
from smelt.graph.graph import Graph, Node, topological
from smelt.ops.primitive import Spec


def cut(graph: Graph, part: Callable[[Node], int], count: int) -> list[Graph]:
    """Return ``count`` graphs that do, one after another, what ``graph`` does.

    Parameters
    ----------
    graph : Graph
        Without a batch axis: all shapes are fixed.
    part : callable
        The number of the part that computes a node; at least that of each node it is made from.
    count : int
        How many parts there are.
    """
    parts = [Graph(f"{graph.name}_{i}") for i in range(count)]
    kept: dict[Node, Node] = {}
    copies: list[dict[Node, Node]] = [{} for _ in parts]

    def reads(node: Node, k: int) -> Node:
        """Return what stands for a node in part ``k``."""
        if node.op is None:
            leaves = {"input": parts[k].inputs, "state": parts[k].states}.get(node.kind)
            if leaves is not None and node not in leaves:
                leaves.append(node)
            return node
        if node not in copies[k]:
            if node.opname in VIEWS:  # stored nowhere: made again where it is read
                copies[k][node] = _copy(node, [reads(i, k) for i in node.inputs])
            else:
                copies[k][node] = reads(_keep(node, len(kept)), k)
        return copies[k][node]

    def _keep(node: Node, number: int) -> Node:
        if node not in kept:
            kept[node] = Node("state", Spec(node.shape, node.dtype), name=f"kept{number}")
            maker = part(node)
            parts[maker].updates[reads(kept[node], maker)] = copies[maker][node]
        return kept[node]

    for node in graph.nodes():
        if node.op is not None and node.opname not in VIEWS:
            k = part(node)
            copies[k][node] = _copy(node, [reads(i, k) for i in node.inputs])
    for node in graph.outputs:
        parts[part(node)].outputs.append(reads(node, part(node)))
    for state, node in graph.updates.items():
        k = part(node)
        parts[k].updates[reads(state, k)] = reads(node, k)
    _check(parts)
    return parts


def _copy(node: Node, inputs: list[Node]) -> Node:
    return Node(node.kind, node.spec, node.op, tuple(inputs), node.attrs, line=node.line, layer=node.layer)


def _check(parts: list[Graph]) -> None:
    """Refuse a cut after which a part would read state that an earlier one has overwritten."""
    written: set[Node] = set()
    for part in parts:
        read = set(topological([*part.outputs, *part.updates.values()]))
        late = [s.name for s in written & read if not s.name.startswith("kept")]
        if late:
            raise ValueError(f"{part.name} reads {late[0]}, which an earlier part has overwritten")
        written |= set(part.updates)
