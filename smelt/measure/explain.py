"""Explain: what the compiler made of a function, and why it did not do more.

In: a compiled function. Out: an :class:`Explanation`: what was fused into which kernel, how kernels are shared among
the threads, what they keep in registers, where threads wait and why; and what was not fused or had to be copied, with
the reason that was noted where this was decided.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from smelt.compiler.isa import host
from smelt.compiler.loops import Kernel, short_name
from smelt.compiler.passes.fuse import Fusion, Group
from smelt.compiler.passes.memory import lives
from smelt.compiler.passes.rounds import obstacle
from smelt.compiler.program import Lowered
from smelt.graph.graph import Graph, Node, format_graph
from smelt.measure.work import work
from smelt.runtime import workers
from smelt.runtime.inference import Inference
from smelt.runtime.step import Compiled

_EXAMPLES = 4  # kernels, or pairs of them, that are named for one reason
_WORTH = 1e-3  # of the bytes of the largest reason; smaller ones are told as one line


@dataclass(frozen=True)
class KernelChoice:
    """One kernel: what was fused in it and how it runs.

    ``units`` are what threads share, ``shared`` says what they are, ``registers`` what is kept there, and ``memory``
    what else was decided; empty where there was nothing to decide. ``flops`` and ``bytes`` are those of
    :mod:`smelt.measure.work`.
    """

    name: str
    layers: tuple[str, ...]
    lines: tuple[str, ...]
    operations: str
    phase: int
    units: int
    shared: str
    registers: str
    memory: str
    macs: int
    flops: int
    bytes: int

    @property
    def number(self) -> str:
        """Its short name: ``k3``."""
        return short_name(self.name)

    @property
    def title(self) -> str:
        """Layers and operations."""
        return f"{' + '.join(self.layers)}: {self.operations}" if self.layers else self.operations


@dataclass(frozen=True)
class Barrier:
    """Threads wait before ``phase``: ``kernel`` reads what ``after`` wrote, and they are shared otherwise."""

    phase: int
    kernel: str
    after: str
    shares: tuple[str, str]


@dataclass(frozen=True)
class Refusal:
    """Two kernels that are not one: ``bytes`` go through memory between them, for the reason given."""

    kernel: str
    after: str
    operation: str
    layer: str
    bytes: int
    reason: str


@dataclass(frozen=True)
class CopyReason:
    """A kernel that only moves elements, its bytes and why it must."""

    kernel: str
    layer: str
    bytes: int
    reason: str


@dataclass(frozen=True)
class Explanation:
    """What became of a function; ``print`` it, or look at its parts.

    ``slice_rows`` is how many samples a thread takes through all kernels at a time, where threads work apart, else 0.
    ``rounds`` says how a training step cuts a large batch, or why it cannot.
    ``buffers`` are the values in the arena: name, bytes, and the first and last phase they live in. Of the arena, all
    threads share ``arena_bytes``, and each has ``thread_bytes`` for itself.
    """

    name: str
    processor: str
    threads: int
    slice_rows: int
    rounds: str
    operations: int
    kernels: tuple[KernelChoice, ...]
    barriers: tuple[Barrier, ...]
    refusals: tuple[Refusal, ...]
    copies: tuple[CopyReason, ...]
    arena_bytes: int
    thread_bytes: int
    buffers: tuple[tuple[str, int, int, int], ...]
    details: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        return asdict(self)

    def __str__(self) -> str:
        phases = 1 + max((k.phase for k in self.kernels), default=-1)
        text = [
            f"{self.name}: {self.operations} operations became {_count(len(self.kernels), 'kernel')} in "
            f"{_count(phases, 'phase')}, with {_count(len(self.barriers), 'barrier')}",
            f"for {self.processor}; {_count(self.threads, 'thread')}{self._apart()}",
            *([self.rounds] if self.rounds else []),
            "",
            *self._kernel_lines(),
            *self._memory_choices(),
            *self._barrier_lines(),
            *self._refusal_lines(),
            *self._copy_lines(),
            *self._memory_lines(),
        ]
        return "\n".join([*text, *(["", self.details] if self.details else [])])

    def _apart(self) -> str:
        if not self.slice_rows:
            return ""
        return f", which work apart: each takes {_count(self.slice_rows, 'sample')} at a time through all kernels"

    def _kernel_lines(self) -> list[str]:
        head = ("phase", "kernel", "units", "shared as", "in registers", "layer: operations in one kernel")
        rows = [(str(k.phase), k.number, str(k.units), k.shared, k.registers, k.title) for k in self.kernels]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)]

    def _memory_choices(self) -> list[str]:
        found: dict[str, list[str]] = {}
        for k in self.kernels:
            if k.memory:
                found.setdefault(k.memory, []).append(k.number)
        return ["", *(f"{text}: {_some(names)}" for text, names in found.items())] if found else []

    def _barrier_lines(self) -> list[str]:
        found: dict[tuple[str, str], list[str]] = {}
        for b in self.barriers:
            found.setdefault(b.shares, []).append(f"{short_name(b.after)} → {short_name(b.kernel)}")
        lines = ["", "barriers: threads wait where a kernel reads what other threads wrote, for it is shared otherwise"]
        for (before, after), pairs in sorted(found.items(), key=lambda item: -len(item[1])):
            shares = f"{before} → {'others of them' if before == after else after}"
            lines.append(f"{len(pairs):>4}  {shares}: {_some(pairs)}")
        return lines if found else []

    def _refusal_lines(self) -> list[str]:
        found: dict[tuple[str, str], list[Refusal]] = {}
        for r in self.refusals:
            found.setdefault((r.reason, r.operation), []).append(r)
        lines = []
        sizes = {key: sum(r.bytes for r in group) for key, group in found.items()}
        least = _WORTH * max(sizes.values(), default=0)
        for (reason, operation), group in sorted(found.items(), key=lambda item: -sizes[item[0]]):
            if sizes[reason, operation] >= least:
                largest = sorted(group, key=lambda r: -r.bytes)
                pairs = [f"{short_name(r.after)} → {short_name(r.kernel)}" for r in largest]
                lines.append(f"{_size(sizes[reason, operation]):>9}  {operation}: {reason}: {_some(pairs)}")
        small = [n for n in sizes.values() if n < least]
        lines += [f"{_size(sum(small)):>9}  for {_count(len(small), 'reason')} more"] if small else []
        return ["", "not fused: what goes through memory from one kernel to another, and why", *lines] if lines else []

    def _copy_lines(self) -> list[str]:
        found: dict[str, list[CopyReason]] = {}
        for c in self.copies:
            found.setdefault(c.reason, []).append(c)
        lines = []
        for reason, group in sorted(found.items(), key=lambda item: -sum(c.bytes for c in item[1])):
            names = [f"{short_name(c.kernel)} {c.layer}".rstrip() for c in sorted(group, key=lambda c: -c.bytes)]
            lines.append(f"{_size(sum(c.bytes for c in group)):>9}  {reason}: {_some(names)}")
        return ["", "copied, and why", *lines] if lines else []

    def _memory_lines(self) -> list[str]:
        total = sum(size for _, size, _, _ in self.buffers)
        own = f"{_size(self.thread_bytes)} for each thread"
        both = f"{_size(self.arena_bytes)} and {own}" if self.arena_bytes else own
        taken = both if self.thread_bytes else _size(self.arena_bytes)
        values = f"{_count(len(self.buffers), 'value')} of {_size(total)} in all"
        lines = ["", f"memory: {taken}, for {values}, which share places in turn"]
        for name, size, first, last in sorted(self.buffers, key=lambda b: -b[1])[:_EXAMPLES]:
            lines.append(f"{_size(size):>9}  {name}, phases {first} to {last}")
        return lines


def explain(step: Compiled | Inference, graph: bool = False, loops: bool = False) -> Explanation:
    """Explain what was fused, parallelized and kept in registers, and why not where it was not.

    Parameters
    ----------
    step : Compiled or Inference
        From :func:`smelt.compile` or :meth:`smelt.nn.Module.compile`; it must have been called. Its most recent trace
        is explained.
    graph : bool, default False
        Whether to add the traced graph, with the line of your code that made each node, and the plan of the memory.
    loops : bool, default False
        Whether to add the loops of every kernel.

    Returns
    -------
    Explanation
        ``print`` it.

    Raises
    ------
    TraceError
        Before the first call.

    Examples
    --------
    >>> import numpy as np, smelt
    >>> step = smelt.compile(lambda x: (x * 2.0).sum(0))
    >>> y = step(np.ones((8, 16), np.float32))
    >>> print(str(smelt.explain(step)).splitlines()[0].split(";")[0])
    <lambda>: 2 operations became 1 kernel in 1 phase, with 0 barriers
    """
    lowered = step.lowered()
    details = [format_graph(step.graph, lines=True), lowered.text(loops=False)] if graph else []
    details += [str(k) for k in lowered.kernels] if loops else []
    return _explained(step.name, step.graph, lowered, "\n\n".join(details))


def _explained(name: str, graph: Graph, lowered: Lowered, details: str) -> Explanation:
    isa = host()
    rows = lowered.capacity
    placed = [(number, k) for number, phase in enumerate(lowered.phases) for k in phase]
    return Explanation(
        name,
        f"{isa.name}: {isa.registers} registers of {isa.lanes('f32')} float32",
        workers.get_threads(),
        rows if lowered.apart else 0,
        _rounds(graph, lowered),
        sum(n.op is not None for n in graph.nodes()),
        tuple(_choice(k, number, rows) for number, k in placed),
        tuple(_barriers(lowered)),
        tuple(_refusals(lowered)),
        tuple(_copies(lowered)),
        lowered.memory.shared,
        lowered.memory.own,
        tuple((b.name, b.nbytes, first, last) for b, (first, last) in lives(lowered.phases).items()),
        details,
    )


def _rounds(graph: Graph, lowered: Lowered) -> str:
    """Return how a training step cuts the batch into rounds, or why it cannot."""
    if lowered.before:
        kernels = f"kernels with an r, in phases 0 to {lowered.once + lowered.before - 1}, are not of the last"
        return f"a batch goes in rounds of at most {_count(lowered.capacity, 'sample')}: {kernels}"
    why = obstacle(graph) if graph.updates else ""
    return f"a batch, however large, goes at once: {why}" if why else ""


def _choice(k: Kernel, phase: int, rows: int) -> KernelChoice:
    did = work(k, rows)
    shared, registers, memory = (_chosen(k, what) for what in ("shared", "registers", "memory"))
    units = k.range.units(rows)
    chosen = (k.name, k.layers, k.lines, k.note, phase, units, shared, registers, memory)
    return KernelChoice(*chosen, k.macs, did.flops, did.bytes)


def _chosen(k: Kernel, what: str) -> str:
    """Return what the lowering noted of one kind; several parts of a kernel may have decided differently."""
    return " or ".join(text for kind, text in k.choices if kind == what)


def _barriers(lowered: Lowered) -> Iterator[Barrier]:
    """Yield for every phase but the first why one of its kernels could not be in the phase before."""
    if lowered.apart:
        return
    for number, phase in enumerate(lowered.phases):
        waiting = next((k for k in phase if k.barrier), None)
        if waiting is not None and waiting.barrier is not None:
            before, _ = waiting.barrier
            shares = (_chosen(before, "shared"), _chosen(waiting, "shared"))
            yield Barrier(number, waiting.name, before.name, shares)


def _refusals(lowered: Lowered) -> Iterator[Refusal]:
    """Yield the pairs of kernels between which something goes through memory, with the first reason noted."""
    fusion, told = lowered.plan.fusion, set()
    for (node, group), reason in fusion.refused.items():
        mine = fusion.group_of.get(node)
        if mine is None or mine is group or (mine, group) in told or not {mine, group} <= lowered.of.keys():
            continue
        nbytes = sum(n.spec.size * n.dtype.itemsize for n in _read(fusion, node, group))
        if nbytes:
            told.add((mine, group))
            after, kernel = lowered.of[group][-1], lowered.of[mine][0]
            yield Refusal(kernel.name, after.name, node.opname, node.layer, nbytes, reason)


def _read(fusion: Fusion, node: Node, group: Group) -> set[Node]:
    """Return the values of a group that a node reads, itself or through views and what is computed in place."""
    found, seen, stack = set(), {node}, list(node.inputs)
    while stack:
        n = stack.pop()
        if n in seen:
            continue
        seen.add(n)
        if fusion.group_of.get(n) is group:
            found.add(n)
        elif n not in fusion.group_of and fusion.kinds[n] != "free":
            stack += n.inputs
    return found


def _copies(lowered: Lowered) -> Iterator[CopyReason]:
    for group in lowered.plan.extra_groups:
        if group in lowered.of:
            (node,) = group.nodes
            (kernel,) = lowered.of[group]
            yield CopyReason(kernel.name, node.layer, node.spec.size * node.dtype.itemsize, group.why)


def _count(n: int, what: str) -> str:
    return f"{n} {what}" + "s" * (n != 1)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _EXAMPLES
    return ", ".join(names[:_EXAMPLES]) + (f" and {more} more" if more > 0 else "")


def _size(nbytes: int) -> str:
    """Return bytes in a unit that fits.

    Examples
    --------
    >>> [_size(n) for n in (12, 34_567, 8_028_160)]
    ['12 B', '34.6 kB', '8.03 MB']
    """
    for unit, scale in (("MB", 1e6), ("kB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.3g} {unit}"
    return f"{nbytes} B"
