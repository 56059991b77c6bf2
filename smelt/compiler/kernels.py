"""Make kernels of a graph: run the passes that decide what goes where, and lower every group.

In: a traced graph. Out: :class:`Made`, its kernels with what must run before each; not yet in order, see
:mod:`smelt.compiler.passes.schedule`.
"""

from __future__ import annotations

from dataclasses import dataclass

from smelt.compiler.isa import Isa
from smelt.compiler.loops import Buffer, Kernel
from smelt.compiler.lower.call import lower_call
from smelt.compiler.lower.map import lower_fill, lower_map
from smelt.compiler.lower.reduce import lower_reduce
from smelt.compiler.lower.serial import lower_serial_contract
from smelt.compiler.lower.winners import lower_contract, lower_neighbours, lower_transformed_weights
from smelt.compiler.passes.clip import clip_padding
from smelt.compiler.passes.fuse import Fusion, Group, fuse
from smelt.compiler.passes.schedule import Task
from smelt.compiler.passes.simplify import simplify
from smelt.compiler.passes.storage import Plan, plan_storage
from smelt.compiler.passes.winners import read_winners
from smelt.compiler.passes.winograd import by_winograd
from smelt.graph.graph import Graph, Node
from smelt.ops.custom import Custom

Ranks = dict[int, int]  # of the tiles of contractions, by the group's number; 0 is the cost model's first choice
_LOWER = {
    "map": lower_map,
    "reduce": lower_reduce,
    "contract": lower_contract,
    "winograd_weights": lower_transformed_weights,
    "neighbours": lower_neighbours,
    "call": lower_call,
}


def _operations(group: Group) -> list[str]:
    """Return the names of the operations in a group; all results of a call are one operation."""
    return [n.opname for n in (group.roots[:1] if group.kind == "call" else group.members())]


def _name(group: Group) -> str:
    names = _operations(group)
    short = names if len(names) <= 3 else [*names[:2], f"{len(names) - 2}more"]
    return f"k{group.number}_" + "_".join(short)


def _note(group: Group) -> str:
    counts: dict[str, int] = {}
    for name in _operations(group):
        counts[name] = counts.get(name, 0) + 1
    return " + ".join(name if c == 1 else f"{c} {name}" for name, c in counts.items())


def _origins(nodes: list[Node]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the user's lines that made some nodes, and the layers they belong to."""
    lines, layers = (dict.fromkeys(v for n in nodes if (v := getattr(n, key))) for key in ("line", "layer"))
    return tuple(lines), tuple(layers)


def calls(graph: Graph) -> list[Node]:
    """Return one node of each call of a user's function, in the order of their slots in the pointer table.

    The slots follow those of the constants. Each call has two: the function's address, and a status that is not 0
    after it failed.
    """
    found: dict[object, Node] = {}
    for node in graph.nodes():
        if isinstance(node.op, Custom):
            found.setdefault(node.attrs["call"], node)
    return list(found.values())


def simplified(graph: Graph, isa: Isa, fused: bool = True) -> Graph:
    """Return a traced graph as the lowerings for a processor take it."""
    simple = simplify(by_winograd(graph, isa), pairs=isa.bf16)
    if isa.serial:
        return clip_padding(simple)
    return read_winners(simple) if isa.picks and fused else simple


@dataclass
class Made:
    """A simplified graph, where everything in it lies, and its kernels with what must run before each."""

    graph: Graph
    plan: Plan
    tasks: dict[Group, list[Task]]
    fills: list[Task]

    def all(self) -> list[Task]:
        """Return all kernels."""
        return [*self.fills, *(t for tasks in self.tasks.values() for t in tasks)]

    def by_batch(self) -> tuple[list[Task], list[Task]]:
        """Return the kernels that are the same for all rows of a batch, and the others, which follow them."""
        follows: dict[Node, bool] = {}

        def depends(node: Node) -> bool:
            if node not in follows:
                follows[node] = node.spec.rows is not None or any(depends(i) for i in node.inputs)
            return follows[node]

        for node in self.graph.nodes():  # inputs first: no deep recursion
            depends(node)
        steady = [t for g, tasks in self.tasks.items() if not any(map(depends, g.members())) for t in tasks]
        others = [t for t in self.all() if t not in steady]
        for task in others:
            task.after = [(before, buffer) for before, buffer in task.after if before not in steady]
        return steady, others

    def of(self) -> dict[Group, list[Kernel]]:
        """Return the kernels of each group."""
        return {group: [t.kernel for t in tasks] for group, tasks in self.tasks.items()}


def kernels_of(
    graph: Graph,
    state_strides: dict[Node, tuple[int, ...] | None] | None,
    isa: Isa,
    zeroed: bool = False,
    fused: bool = True,
    ranks: Ranks | None = None,
    last: Made | None = None,
) -> Made:
    """Return the kernels of a simplified graph, not yet in order; those of a round go with those of the ``last``."""
    fusion = fuse(graph, fused, pooling=not isa.serial)
    for group in fusion.groups:
        group.rank = (ranks or {}).get(group.number, 0)
    if last is not None:
        _rank_alike(fusion, last.plan.fusion)
    plan = plan_storage(fusion, state_strides, isa, last.plan if last else None)
    first = len(graph.inputs) + len(graph.outputs) + len(graph.states) + len(plan.arrays)
    plan.calls = {node.attrs["call"]: first + 2 * i for i, node in enumerate(calls(graph))}
    tasks: dict[Group, list[Task]] = {}
    loads: dict[Task, set[Node]] = {}
    lowering = {**_LOWER, "contract": lower_serial_contract} if isa.serial else _LOWER
    for group in plan.groups():
        if group not in plan.stores:
            continue
        kernels, used = lowering[group.kind](plan, group, isa, _name(group))
        for kernel in kernels:
            kernel.note = _note(group)
            kernel.lines, kernel.layers = _origins(group.members())
        tasks[group] = [Task(k) for k in kernels]
        for before, task in zip(tasks[group], tasks[group][1:], strict=False):
            for buffer in before.kernel.writes & task.kernel.reads:
                task.follows(before, buffer)
        for task in tasks[group]:
            loads[task] = used
    fills: dict[Node, Task] = {}
    for i, (node, storage) in enumerate(plan.fills):
        a = node.attrs
        if zeroed and a["fill"] == 0:
            storage.buffer.border = (storage.strides, a["shape"], a["start"], a["step"], node.inputs[0].shape)
            continue
        kernel = lower_fill(node, storage, isa, f"f{i}_fill")
        kernel.note = f"fill around place {node.shape}"
        kernel.lines, kernel.layers = _origins([node])
        fills[node] = Task(kernel)
    _connect(plan, tasks, loads, fills)
    return Made(graph, plan, tasks, list(fills.values()))


def _rank_alike(fusion: Fusion, last: Fusion) -> None:
    """Give each contraction the tile that the same one of the last round takes."""
    ranks: dict[tuple, list[int]] = {}
    for f in (last, fusion):
        for group in f.groups:
            if group.kind == "contract":
                (root,) = group.roots
                alike = ranks.setdefault((root.opname, *(i.shape for i in root.inputs), root.layer), [])
                if f is last:
                    alike.append(group.rank)
                else:
                    group.rank = alike.pop(0)


def _connect(plan: Plan, tasks: dict[Group, list[Task]], loads: dict[Task, set[Node]], fills: dict[Node, Task]) -> None:
    """Say which kernel must follow which: readers after writers, overwriters of state after its readers."""
    fusion = plan.fusion
    readers: dict[Node, list[tuple[Task, Buffer]]] = {}

    def writers(node: Node) -> list[Task]:
        node = plan.base(node)
        group = fusion.group_of.get(node)
        if group is not None:
            return tasks.get(group, [])[-1:]
        out = [fills[node]] if node in fills else []
        for part in plan.defs.get(node, ()):
            out += writers(part)
        return out

    def position(node: Node) -> tuple:
        where = plan.storage[node]
        return where.buffer.name, where.offset, node.opname, node.shape, where.strides

    for task, nodes in loads.items():
        for node in sorted(nodes, key=position):  # a set: its own order changes from run to run
            buffer = plan.storage[node].buffer
            for writer in writers(node):
                if writer.kernel.writes & {buffer}:
                    task.follows(writer, buffer)
            base = plan.base(node)
            if base.kind == "state" and base not in fusion.group_of:
                readers.setdefault(base, []).append((task, buffer))
    for place, fill in fills.items():
        if all(s == 1 for s in place.attrs["step"]):
            continue  # fills only what the parts do not cover
        for part in plan.defs[place]:
            for writer in writers(part):
                writer.follows(fill, plan.storage[place].buffer)
    for group, states in plan.overwrites.items():
        mine = tasks.get(group, [])
        for state in states:
            for reader, buffer in readers.get(state, ()):
                for task in mine[-1:]:
                    if reader not in mine:
                        task.follows(reader, buffer)
            for task in mine:  # a function that fails leaves all state as it was
                buffer = plan.storage[state].buffer
                if buffer in task.kernel.writes:
                    for call in fusion.calls():
                        task.follows(tasks[call][0], buffer)
