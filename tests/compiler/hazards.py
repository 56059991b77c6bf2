"""Simulate which elements every thread touches in every phase, and report what could go wrong.

In: a lowered graph. Out: lines of text, none if all is well. Nothing here trusts what the scheduler or the memory plan
say of kernels (``reads``, ``writes``, ``aligned``): the elements come from the loops and addresses themselves.

Reported: an element that one thread writes and another touches in the same phase; an access outside of its buffer, or
of the rows the caller's array has; a read of arena bytes that no kernel wrote for this buffer before (for what each
thread has a place of its own for: in the same turn; for what lies on its stack: in the same kernel); borders zeroed
once that do not stay zero; elements of outputs and updated state that stay unwritten.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from smelt.compiler.loops import ITEMSIZE, Buffer, If, Index, Instr, Kernel, Let, Loop, Stmt
from smelt.compiler.passes.bands import Units, takes_turns, turns
from smelt.compiler.passes.rows import units_of
from smelt.compiler.passes.storage import Plan
from smelt.compiler.program import Lowered

Mask = np.ndarray
ZEROED = -2  # what a byte holds that was zeroed before the first run


@dataclass
class Touched:
    """Elements of each buffer, as masks, that one run of a kernel reads and writes."""

    reads: dict[Buffer, Mask] = field(default_factory=dict)
    writes: dict[Buffer, Mask] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class _Walk:
    """Collects the addresses of one kernel for one thread's share."""

    def __init__(self, kernel: Kernel, lo: int, hi: int, rows: int) -> None:
        self.kernel = kernel
        self.numbers = {"lo": lo, "hi": hi, "n": rows, "batch": rows, "first_row": 0}
        self.ranges: dict[str, range] = {}
        self.found: dict[tuple, set[int]] = defaultdict(set)  # (buffer, write, loops, lanes, step): constants
        self._walk(kernel.body)

    def _number(self, index: Index) -> int:
        return index.const + sum(self.numbers[name] * coef for name, coef in index.terms)

    def _walk(self, body: Sequence[Stmt]) -> None:
        for s in body:
            if isinstance(s, Let):
                a = [self._number(x) for x in s.args]
                self.numbers[s.var] = {"min": min, "max": max}[s.op](a) if s.op != "muldiv" else a[0] * a[1] // a[2]
            elif isinstance(s, If):
                if self._number(s.left) < self._number(s.right):
                    self._walk(s.body)
            elif isinstance(s, Loop):
                values = range(self._number(s.start), self._number(s.stop), s.step)
                if s.var in _deciding(s.body):
                    for self.numbers[s.var] in values:
                        self._walk(s.body)
                elif values:  # a box: address sets are sums of ranges
                    self.ranges[s.var] = values
                    self._walk(s.body)
            elif s.op in ("load", "store"):
                self._access(s)
            elif s.op == "call":
                for write, operands in enumerate(s.imm[-2:]):
                    for o in operands:
                        size = int(np.prod([self._number(d) for d in o.dims]))
                        start = self._number(o.index)
                        self.found[(o.buffer, bool(write), (), 1, 1)].update(range(start, start + size))

    def _access(self, s: Instr) -> None:
        buffer, index, step = s.imm
        value = s.args[0] if s.op == "store" else s.out
        assert value is not None
        loops = tuple((self.ranges[name], coef) for name, coef in index.terms if name in self.ranges)
        rest = Index(index.const, tuple(t for t in index.terms if t[0] not in self.ranges))
        lanes = value.lanes * (2 if value.dtype == "pair" else 1)
        key = (buffer, s.op == "store", loops, lanes, 1 if lanes == 1 else step)
        self.found[key].add(self._number(rest))

    def touched(self) -> Touched:
        out = Touched()
        for (buffer, write, loops, lanes, step), constants in self.found.items():
            at = _sums(np.array(sorted(constants)), np.arange(lanes) * step)
            for values, coef in sorted(loops, key=lambda t: abs(t[1])):
                at = _sums(at, np.array(values) * coef)
            if at[0] < 0 or at[-1] >= buffer.size:
                kind = "writes" if write else "reads"
                out.problems.append(f"{self.kernel.name} {kind} {buffer.name}[{at[0]}..{at[-1]}] of {buffer.size}")
                at = at[(at >= 0) & (at < buffer.size)]
            masks = out.writes if write else out.reads
            masks.setdefault(buffer, np.zeros(buffer.size, bool))[at] = True
        return out


def _sums(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the distinct sums of an element of each, sorted."""
    low = a.min() + b.min()
    seen = np.zeros(a.max() + b.max() - low + 1, bool)
    few, many = sorted((a, b), key=len)
    for x in few:
        seen[many + (x - low)] = True
    return np.flatnonzero(seen) + low


def _deciding(body: Sequence[Stmt]) -> set[str]:
    """Return the variables that bounds of loops and conditions in a body depend on."""
    out: set[str] = set()
    for s in body:
        if isinstance(s, Let):
            out |= {name for x in s.args for name, _ in x.terms}
        elif isinstance(s, If):
            out |= {name for x in (s.left, s.right) for name, _ in x.terms} | _deciding(s.body)
        elif isinstance(s, Loop):
            out |= {name for x in (s.start, s.stop) for name, _ in x.terms} | _deciding(s.body)
    return out


def _span(buffer: Buffer) -> slice:
    return slice(buffer.offset, buffer.offset + buffer.nbytes)


def _bytes(buffer: Buffer, mask: Mask) -> Mask:
    return np.repeat(mask, ITEMSIZE[buffer.dtype])


def find_hazards(lowered: Lowered, rows: int, threads: int, capacity: int = 0) -> list[str]:
    """Return what could go wrong in a step of ``rows`` samples (of a graph traced with ``capacity``)."""
    problems: list[str] = []
    capacity = capacity or rows
    absent = _absent(lowered, rows, capacity)
    holds = np.full(lowered.memory.total(threads), -1, np.int16)  # number of the buffer whose value each byte is
    numbers: dict[Buffer, int] = {}
    written: dict[Buffer, Mask] = {}
    places = _Places(lowered, threads)
    borders = places.borders
    for buffer, border in borders.items():
        holds[_span(buffer)][_bytes(buffer, border)] = ZEROED
    for number, (i, shares) in enumerate(_between_barriers(lowered, rows, threads)):
        first = number < lowered.once + lowered.before  # whose sums follow on nothing: what they read is not used
        touched = [_touched(units, rows, problems, t, places) for t, units in enumerate(shares)]
        problems += [f"phase {i}: {text}" for text in _races(touched, len(holds))]
        before, after = holds.copy(), holds
        for kernels in touched:
            mine = before.copy()
            for name, t in kernels:
                for buffer, mask in t.writes.items():
                    written[buffer] = written.get(buffer, False) | mask
                    if buffer.kind == "arena":
                        number = numbers.setdefault(buffer, len(numbers))
                        mine[_span(buffer)][_bytes(buffer, mask)] = number
                        after[_span(buffer)][_bytes(buffer, mask)] = number
                for buffer, mask in t.reads.items():
                    unknown = mask & ~absent.get(buffer, np.False_) & ~borders.get(buffer, np.False_)
                    if buffer.kind == "arena":
                        unknown = _bytes(buffer, unknown) & (mine[_span(buffer)] != numbers.get(buffer, -3))
                        if unknown.any() and not (first and buffer.kept):
                            count = np.count_nonzero(unknown)
                            problems.append(f"phase {i}: {name} reads {count} bytes of {buffer.name} not written yet")
                    elif buffer.kind == "input" and (mask & absent.get(buffer, np.False_)).any():
                        problems.append(f"phase {i}: {name} reads {buffer.name} beyond its {rows} rows")
    for buffer, border in borders.items():
        if (written.get(buffer, np.False_) & border).any():
            problems.append(f"{buffer.name} is zero around what it holds, but that is written")
        if (holds[_span(buffer)][_bytes(buffer, border)] != ZEROED).any():
            problems.append(f"{buffer.name} is zero around what it holds, but others write there")
    problems += _unwritten(lowered, written, rows, capacity)
    return list(dict.fromkeys(problems))


def zeroed(lowered: Lowered) -> dict[Buffer, Mask]:
    """Return the elements of buffers that must still be zero whenever the step runs."""
    out = {}
    for node, storage in [pair for plan in _plans(lowered) for pair in plan.fills]:
        if storage.buffer.border is not None:
            border = np.ones(storage.buffer.size, bool)
            view = np.lib.stride_tricks.as_strided(border, node.shape, storage.strides)
            start, step, inner = node.attrs["start"], node.attrs["step"], node.inputs[0].shape
            view[np.ix_(*(a + t * np.arange(n) for a, t, n in zip(start, step, inner, strict=True)))] = False
            out[storage.buffer] = border
    return out


def _plans(lowered: Lowered) -> list[Plan]:
    """Return where everything is: in the last round, and in those before it."""
    return [lowered.plan, *([lowered.earlier] if lowered.earlier else [])]


class _Places:
    """The arena's buffers as they lie for so many threads: of what each has for itself, one for the rows of a turn.

    ``borders`` are the elements of each that must still be zero whenever the step runs.
    """

    def __init__(self, lowered: Lowered, threads: int) -> None:
        self.memory = lowered.memory
        self._made: dict[tuple[Buffer, int, int], Buffer] = {}
        self._zeroed = zeroed(lowered)
        self.borders = {b: border for b, border in self._zeroed.items() if not b.turn}
        for buffer in self._zeroed:
            for thread in range(threads if buffer.turn else 0):
                self.of_turn(buffer, thread, 0)

    def of_turn(self, buffer: Buffer, thread: int, row: int) -> tuple[Buffer, int]:
        """Return the buffer that holds the rows of a turn from ``row`` on, and the element that they begin with."""
        key = (buffer, thread, row)
        if key not in self._made:
            offset = self.memory.shared + self.memory.own * thread + buffer.offset
            name = f"{buffer.name}'s {buffer.turn} rows from {row}"
            self._made[key] = made = Buffer(name, buffer.dtype, buffer.turn * buffer.row, "arena", offset=offset)
            if buffer in self._zeroed:
                self.borders[made] = self._zeroed[buffer][: made.size]
        return self._made[key], row * buffer.row


def poison(lowered: Lowered, arena: np.ndarray) -> None:
    """Make everything in an arena NaN but what is zeroed once."""
    arena[:] = 0xFF
    own = lowered.memory.own
    for buffer, border in _Places(lowered, (len(arena) - lowered.memory.shared) // own if own else 0).borders.items():
        arena[_span(buffer)][_bytes(buffer, border)] = 0


def _between_barriers(lowered: Lowered, rows: int, threads: int) -> Iterator[tuple[int, list[Units]]]:
    """Yield the phases, and what each thread does in them until it waits for the others; in three rounds, if in any."""
    phases = list(enumerate(lowered.phases))
    for i, phase in [*phases[: lowered.once + lowered.before], *phases[lowered.once :]]:
        if takes_turns(phase):
            for halves in zip(*turns(phase, threads), strict=True):
                yield i, list(halves)
        else:
            yield i, [units_of(phase, rows, t, threads, lowered.capacity) for t in range(threads)]


def _touched(units: Units, rows: int, problems: list[str], thread: int, places: _Places) -> list[tuple[str, Touched]]:
    """Return what each kernel touches of what one thread does."""
    out = []
    for kernel, lo, hi in units:
        if lo < hi:
            touched = _Walk(kernel, lo, hi, rows).touched()
            for buffer in [b for b in {**touched.reads, **touched.writes} if b.kind == "local"]:
                read, wrote = (masks.pop(buffer, np.False_) for masks in (touched.reads, touched.writes))
                if (read & ~wrote).any():
                    touched.problems.append(f"{kernel.name} reads of {buffer.name} what it does not write")
            for masks in (touched.reads, touched.writes):
                for buffer in [b for b in masks if b.turn]:
                    of_turn, first = places.of_turn(buffer, thread, _first_row(kernel, lo, rows))
                    mask = masks.pop(buffer)
                    inside = mask[first : first + of_turn.size]
                    if np.count_nonzero(mask) != np.count_nonzero(inside):
                        touched.problems.append(f"{kernel.name} touches more than {of_turn.name}")
                    masks[of_turn] = np.pad(inside, (0, of_turn.size - len(inside)))
            out.append((kernel.name, touched))
            problems += touched.problems
    return out


def _first_row(kernel: Kernel, lo: int, rows: int) -> int:
    """Return the row of the batch that a kernel's unit ``lo`` begins with, where it follows the batch."""
    if kernel.range.rows or not kernel.range.slices:
        return lo
    each = kernel.range.const // kernel.range.slices
    return rows * (lo // each) // kernel.range.slices


def _races(touched: list[list[tuple[str, Touched]]], arena_bytes: int) -> Iterator[str]:
    """Say which kernels write in one thread what another thread touches."""
    arena = np.zeros(arena_bytes, np.int8)  # 1 + the thread that writes the byte
    others: dict[Buffer, Mask] = {}
    for write in (True, False):
        for thread, kernels in enumerate(touched, 1):
            for name, t in kernels:
                for buffer, mask in (t.writes if write else t.reads).items():
                    if buffer.kind == "arena":
                        place, hit = arena[_span(buffer)], _bytes(buffer, mask)
                    else:
                        place, hit = others.setdefault(buffer, np.zeros(buffer.size, np.int8)), mask
                    if (hit & (place != 0) & (place != thread)).any():
                        yield f"{name} {'writes' if write else 'reads'} of {buffer.name} what another thread writes"
                    if write:
                        place[hit] = thread


def _absent(lowered: Lowered, rows: int, capacity: int) -> dict[Buffer, Mask]:
    """Return the elements of each buffer that belong to samples a short batch does not have."""
    out: dict[Buffer, Mask] = {}
    for node, storage in [pair for plan in _plans(lowered) for pair in plan.storage.items()]:
        follows = node.spec.rows
        if follows is None or rows == capacity or node.spec.size == 0:
            continue
        buffer, size = storage.buffer, node.shape[follows.axis]
        at = np.array([storage.offset])
        for axis, (d, stride) in enumerate(zip(node.shape, storage.strides, strict=True)):
            first = size // capacity * rows if axis == follows.axis else 0
            at = _sums(at, _along(np.arange(first, d), stride, axis == storage.pair))
        out.setdefault(buffer, np.zeros(buffer.size, bool))[at] = True
    return out


def _along(at: np.ndarray, stride: int, pairs: bool) -> np.ndarray:
    """Return the offsets of some indices along an axis; neighbours lie side by side where they are in pairs."""
    return at // 2 * stride + at % 2 if pairs else at * stride


def _unwritten(lowered: Lowered, written: dict[Buffer, Mask], rows: int, capacity: int) -> Iterator[str]:
    """Say which outputs and updated states of the caller keep elements that no kernel writes."""
    outputs = {b.slot: mask for b, mask in written.items() if b.kind == "output"}
    for i, node in enumerate(lowered.graph.outputs):
        mask = outputs.get(len(lowered.graph.inputs) + i, np.zeros(node.spec.size, bool)).reshape(node.shape)
        if node.spec.rows:
            axis = node.spec.rows.axis
            mask = np.take(mask, range(node.shape[axis] // capacity * rows), axis)
        if not mask.all():
            yield f"out{i} is not written everywhere"
    for state in lowered.graph.updates:
        buffer = lowered.plan.storage[state].buffer
        if buffer.size and not (buffer in written and written[buffer].all()):
            yield f"state {state.name} is not written everywhere"
