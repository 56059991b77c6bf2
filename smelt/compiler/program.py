"""Compile a graph: put its kernels in order, plan the memory, and make machine code.

In: a traced graph and the strides of state that is bound already. Out: a :class:`Program`: an object file, the bytes
of the arena, and where each state is expected to lie. Programs are cached on disk by the text of their graph.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, field

import numpy as np

from smelt.compiler import jit
from smelt.compiler.emit.llvm import Module
from smelt.compiler.emit.step import StepEmitter
from smelt.compiler.isa import Isa, host
from smelt.compiler.kernels import Ranks, calls, kernels_of, simplified
from smelt.compiler.loops import Kernel
from smelt.compiler.passes.bands import runs, takes_turns
from smelt.compiler.passes.fuse import Group
from smelt.compiler.passes.memory import Memory, format_memory, plan_memory
from smelt.compiler.passes.rounds import in_rounds, phases_in, rounds_of
from smelt.compiler.passes.rows import give_own_places
from smelt.compiler.passes.schedule import schedule
from smelt.compiler.passes.storage import Plan
from smelt.graph.graph import Graph, Node, format_graph
from smelt.ops.custom import Custom

MOST_PHASES = (1 << 16) - 1  # of all rounds of a batch: the queue of steps counts them in 16 bits


@dataclass(repr=False)
class Lowered:
    """A graph as kernels in phases, before machine code."""

    graph: Graph
    plan: Plan
    phases: list[list[Kernel]]
    memory: Memory
    apart: bool = False
    of: dict[Group, list[Kernel]] = field(default_factory=dict)  # the kernels of each group
    once: int = 0  # of the phases, the first so many are for all rounds of a batch but the last,
    before: int = 0  # and the next so many of each of these rounds
    earlier: Plan | None = None  # of these rounds

    @property
    def kernels(self) -> list[Kernel]:
        """Return all kernels in the order they run."""
        return [k for phase in self.phases for k in phase]

    @property
    def last(self) -> int:
        """Return how many phases the last round has: all of them, where a batch does not go in rounds."""
        return len(self.phases) - self.once - self.before

    @property
    def capacity(self) -> int:
        """Return how many rows of a batch the kernels take at once; 0 without a batch."""
        return _capacity([*self.graph.inputs, *self.graph.outputs])

    @property
    def arena_bytes(self) -> int:
        """Return the bytes of the arena for one thread."""
        return self.memory.total(1)

    def text(self, loops: bool = True) -> str:
        """Return the schedule, the memory plan and (on request) every kernel's loops as text."""
        own = f" and {self.memory.own} for each thread" if self.memory.own else ""
        out = [f"{len(self.kernels)} kernels in {len(self.phases)} phases, arena {self.memory.shared} bytes{own}"]
        for i, phase in enumerate(self.phases):
            which = ", for all rounds but the last" if i < self.once else ", of each round but the last"
            out.append(f"phase {i}{which if i < self.once + self.before else ''}")
            out += [f"  {k.name}({k.range})  {k.note}" for k in phase]
        out.append(format_memory(self.phases))
        if loops:
            out += ["", *(f"{k}\n" for k in self.kernels)]
        return "\n".join(out)


def lower(
    graph: Graph,
    state_strides: dict[Node, tuple[int, ...] | None] | None,
    isa: Isa,
    apart: bool = False,
    zeroed: bool = True,
    fused: bool = True,
    ranks: Ranks | None = None,
    rounds: bool = False,
) -> Lowered:
    """Return the kernels of a graph for a processor.

    ``state_strides`` says how states lie that are bound already, and has None for others. Without it, they all belong
    to the program, which may lay them out in any way. When threads work ``apart``, each on samples and in an arena of
    its own, kernels simply follow one another. Kernels that take turns on one large image share a phase. Borders of
    zeros are ``zeroed`` once, before the first run, or else in every run: only equal ones then share a place. Without
    ``fused``, there is a kernel for each operation. Contractions take the tile that the cost model ranks first, or as
    ``ranks`` says; no bit of a result changes. In ``rounds``, a step takes batches larger than the graph's, so many
    rows at a time.
    """
    capacity = _capacity([*graph.inputs, *graph.outputs])
    simple = simplified(graph, isa, fused)
    if rounds:
        return _lower_rounds(simple, state_strides, isa, ranks, capacity)
    made = kernels_of(simple, state_strides, isa, zeroed, fused, ranks)
    phases = schedule(made.all())
    if apart:
        phases = [[k] for phase in phases for k in phase]
    if not graph.updates and _capacity(graph.inputs) == 1:
        phases = runs(phases)
        for kernel in (k for phase in phases if takes_turns(phase) for k in phase):
            kernel.choices += (
                ("memory", "taken in turns with the others of their phase, a few lines of an image each"),
            )
    if not apart:
        give_own_places(phases, made.plan, capacity)
    return Lowered(made.graph, made.plan, phases, plan_memory(phases, apart), apart, made.of())


def _lower_rounds(
    graph: Graph,
    state_strides: dict[Node, tuple[int, ...] | None] | None,
    isa: Isa,
    ranks: Ranks | None,
    capacity: int,
) -> Lowered:
    """Return the kernels of each round but the last, then those of the last; they share what they can of the arena."""
    rounds = in_rounds(graph)
    made = kernels_of(rounds.last, state_strides, isa, zeroed=True, ranks=ranks)
    each = kernels_of(rounds.each, None, isa, zeroed=True, last=made)
    steady, tasks = each.by_batch()
    once, before, last = (schedule(t) for t in (steady, tasks, made.all()))
    for phases, plan in ((before, each.plan), (last, made.plan)):
        give_own_places(phases, plan, capacity)
    for kernel in (k for phase in (*once, *before) for k in phase):
        kernel.name = f"r{kernel.name}"
    for buffer in {b for phase in once for k in phase for b in k.writes}:
        buffer.kept = len(once) + len(before)
    phases = [*once, *before, *last]
    numbers = len(once), len(before), each.plan
    return Lowered(made.graph, made.plan, phases, plan_memory(phases), False, made.of(), *numbers)


@dataclass
class Program:
    """Machine code of a graph and what it needs to run: a zeroed arena, of which threads ``apart`` share nothing.

    ``state_strides``, ``state_pairs`` and ``state_panels`` say how each state lies: see
    :class:`smelt.compiler.passes.layout.Storage`.

    ``phases`` is 0, or how many phases its function ``phase`` knows: a step that changes state can be run bit by bit,
    by whichever threads have time, unless it calls users' functions. In each round of a batch but the last it has those
    ``before``, and ``once`` in all, before them, some others.
    """

    image: bytes
    memory: Memory
    state_strides: list[tuple[int, ...]]
    state_pairs: list[int | None]
    state_panels: list[tuple[int, int] | None]
    constants: list[np.ndarray] = field(default_factory=list)
    apart: bool = False
    phases: int = 0
    once: int = 0
    before: int = 0
    cached: bool = False

    @property
    def most_rounds(self) -> int:
        """How many rounds a batch may have, of a program for rounds."""
        return MOST_PHASES // (self.phases + self.once + self.before)

    def phases_for(self, rows: int, capacity: int) -> int:
        """Return how many phases a batch of so many rows takes, where a round has at most ``capacity``."""
        return phases_in(rounds_of(rows, capacity), self.once, self.before, self.phases)

    def to_bytes(self) -> bytes:
        """Return the program for the cache."""
        arrays = io.BytesIO()
        for a in self.constants:
            np.save(arrays, a, allow_pickle=False)
        head = json.dumps(
            {
                "memory": [self.memory.shared, self.memory.own],
                "strides": self.state_strides,
                "pairs": self.state_pairs,
                "panels": self.state_panels,
                "constants": len(self.constants),
                "phases": self.phases,
                "once": self.once,
                "before": self.before,
                "image": len(self.image),
                "apart": self.apart,
            }
        ).encode()
        return len(head).to_bytes(8, "little") + head + self.image + arrays.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> Program:
        """Return a program read from the cache."""
        size = int.from_bytes(data[:8], "little")
        head = json.loads(data[8 : 8 + size])
        end = 8 + size + head["image"]
        arrays = io.BytesIO(data[end:])
        constants = [np.load(arrays, allow_pickle=False) for _ in range(head["constants"])]
        strides = [tuple(s) for s in head["strides"]]
        return Program(
            data[8 + size : end],
            Memory(*head["memory"]),
            strides,
            head["pairs"],
            [p and tuple(p) for p in head["panels"]],
            constants,
            head["apart"],
            head["phases"],
            head["once"],
            head["before"],
            True,
        )


def module_text(lowered: Lowered, isa: Isa, stamps: bool = False) -> str:
    """Return the LLVM text of a lowered graph; ``stamps`` makes the step write down when each kernel ended."""
    module = Module(isa)
    for kernel in lowered.kernels:
        module.add(kernel)
    emitter = StepEmitter(module, lowered.capacity, lowered.memory)
    ends = [*lowered.graph.inputs, *lowered.graph.outputs]
    slots = len(ends) + len(lowered.graph.states) + len(lowered.plan.arrays)
    if lowered.apart:
        module.add_text(*emitter.emit_apart(lowered.phases, slots, _steps(ends), stamps=stamps))
    elif lowered.before:
        module.add_text(
            *emitter.emit_in_rounds(lowered.phases, lowered.once, lowered.before, slots, _steps(ends), stamps)
        )
    elif stamps or not _phases(lowered):
        module.add_text(*emitter.emit(lowered.phases, stamps))
    else:
        module.add_text(*emitter.emit_phases(lowered.phases))
    return module.text()


def _phases(lowered: Lowered) -> int:
    """Return how many phases can be run one by one, for a step that changes state and calls no users' functions."""
    return lowered.last if lowered.graph.updates and not calls(lowered.graph) else 0


def _capacity(ends: list[Node]) -> int:
    """Return the rows of the batch a graph was traced with; 0 without a batch."""
    return next((n.shape[n.spec.rows.axis] // n.spec.rows.per for n in ends if n.spec.rows is not None), 0)


def _steps(ends: list[Node]) -> list[int]:
    """Return for each input and output the bytes from one row of the batch to the next; 0 where there are none."""
    return [n.spec.size * n.dtype.itemsize // _capacity([n]) if n.spec.rows is not None else 0 for n in ends]


def may_be_apart(graph: Graph) -> bool:
    """Return whether threads can run a graph on samples of their own: rows of the batch come first, nothing is kept."""
    ends = [*graph.inputs, *graph.outputs]
    batched = [n.spec.rows for n in ends if n.spec.rows is not None]
    outputs = all(n.spec.rows is not None for n in graph.outputs)
    if calls(graph):  # a user's function is called by one thread, for the whole batch
        return False
    if any(n.spec.rows is None and any(i.spec.rows is not None for i in n.inputs) for n in graph.nodes()):
        return False  # a sum over the samples, or the like
    return bool(batched) and outputs and all(r.axis == 0 for r in batched) and not graph.updates and not graph.exact


def graph_key(graph: Graph, strides: dict[Node, tuple[int, ...] | None] | None, isa: Isa, kind: str) -> str:
    """Return the cache key of something of some ``kind`` that follows from a graph."""
    digest = hashlib.sha256()
    for node in graph.nodes():
        if node.kind == "constant" and node.value is not None and node.value.ndim:
            digest.update(np.ascontiguousarray(node.value).tobytes())
    layout = str(strides and [strides[s] for s in graph.states])
    numbers = {node.attrs["call"]: i for i, node in enumerate(calls(graph))}
    layout += str([numbers[n.attrs["call"]] for n in graph.nodes() if isinstance(n.op, Custom)])
    return jit.key_of("\n".join((kind, format_graph(graph), layout, digest.hexdigest())), isa)


def build(
    graph: Graph,
    state_strides: dict[Node, tuple[int, ...] | None] | None,
    isa: Isa | None = None,
    apart: bool = False,
    fused: bool = True,
    ranks: Ranks | None = None,
    rounds: bool = False,
) -> Program:
    """Return the program of a graph, from the cache when the same was compiled before; see :func:`lower`."""
    isa = isa or host()
    key = graph_key(graph, state_strides, isa, f"program {apart} {fused} {rounds} {sorted((ranks or {}).items())}")
    data = jit.read_cache(key)
    if data is not None:
        return Program.from_bytes(data)
    lowered = lower(graph, state_strides, isa, apart, fused=fused, ranks=ranks, rounds=rounds)
    image = jit.compile_object(module_text(lowered, isa), isa)
    states = [lowered.plan.storage[s] for s in graph.states]
    lies = [s.strides for s in states], [s.pair for s in states], [s.panel for s in states]
    numbers = _phases(lowered), lowered.once, lowered.before
    program = Program(image, lowered.memory, *lies, lowered.plan.arrays, apart, *numbers)
    jit.write_cache(key, program.to_bytes())
    return program
