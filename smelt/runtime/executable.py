"""A program ready to run: machine code linked into the process, bound to the arrays of its state.

In: input arrays, and how many rows of the batch are real. Out: new output arrays. A program that writes no state runs
in several Python threads at once, each call in an arena of its own; one that writes runs alone.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import queue
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from smelt.compiler import jit
from smelt.compiler.emit.llvm import CTX_ARENA, CTX_ARENAS, CTX_TABLE, CTX_TEAM
from smelt.compiler.program import Program
from smelt.graph.graph import Graph
from smelt.pending import pending
from smelt.runtime import native, workers
from smelt.runtime.arena import aligned_bytes
from smelt.runtime.calls import Calls, refuse_inside_call
from smelt.runtime.native import BLOCKED, SHORT

_HEAD = native.CONTEXT // 8  # words of a record before its context; the first word of that is the rows
_TABLE = _HEAD + CTX_TABLE // 8
_empty = np.empty


class Frame:
    """What one call at a time needs for itself: its arena, and the record it passes to native code."""

    __slots__ = ("__weakref__", "address", "arena", "copies", "states", "table", "words")

    def __init__(self, count: int, arena: np.ndarray) -> None:
        self.arena = arena
        self.table = aligned_bytes(8 * (_TABLE + count)).view(np.int64)
        self.words = memoryview(self.table)  # type: ignore[arg-type]
        self.address = self.table.ctypes.data
        self.states: list[np.ndarray] | None = None  # those its table points to
        self.copies: list[np.ndarray] = []  # of what the last call was given, where it outlives the call
        self.words[_HEAD + CTX_ARENA // 8] = self.arena.ctypes.data

    def copied(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return copies of arrays that last until the next call of this.

        In the memory of the last ones: to give that back and fault its pages in again costs ten times a copy.
        """
        if [a.shape for a in arrays] != [c.shape for c in self.copies]:
            self.copies = [a.copy() for a in arrays]
        else:
            for copy, array in zip(self.copies, arrays, strict=True):
                np.copyto(copy, array)
        return self.copies


class Executable:
    """A linked program, its constants, and the arrays it keeps as state.

    Parameters
    ----------
    program : Program
        From :func:`smelt.compiler.program.build`.
    graph : Graph
        What it was built from: says what goes in and out and what is written.
    states : sequence of numpy.ndarray
        One per state of the graph, lying as ``program.state_strides`` says. They need not belong to tensors.
    private : bool, default False
        Whether nobody writes these arrays while a call runs. Otherwise calls keep clear of steps that write.

    Attributes
    ----------
    writes : bool
        Whether it overwrites states. Its calls then take turns; else they may run at the same time.
    states : list of numpy.ndarray
        The bound arrays; see :meth:`rebind`.
    """

    def __init__(self, program: Program, graph: Graph, states: Sequence[np.ndarray], private: bool = False) -> None:
        self.program = program
        self.library = jit.Library(program.image, ("step", "phase") if program.phases else ("step",))
        self.writes = bool(graph.updates)
        self.capacity = next((n.shape[n.spec.rows.axis] for n in graph.inputs if n.spec.rows), 0)
        self._outputs = [(n.shape, n.dtype) for n in graph.outputs]
        self._arenas = 1
        self._resized = program.apart or program.before > 0
        self._ragged = [(i, n.spec.rows) for i, n in enumerate(graph.outputs) if n.spec.rows]
        self._arrays = len(graph.inputs) + len(graph.outputs)
        self._written = [s in graph.updates for s in graph.states]
        self._constants = [np.ascontiguousarray(c) for c in program.constants]
        self._calls = Calls(graph)
        self._first_call = _TABLE + self._arrays + len(states) + len(self._constants)
        self._mode = native.WRITER if self.writes else native.PRIVATE if private else native.READER
        self._team = workers.team()
        self._run = self._team.run
        self.rebind(states)
        self._most = 1 if self.writes else 2 * workers.default_threads()
        self._forget_frames()

    def _sizes(self, rows: int) -> list[tuple[tuple[int, ...], np.dtype]]:
        """Return shapes and dtypes of the outputs for so many rows of a batch."""
        follow = dict(self._ragged)
        return [
            ((rows * follow[i].per, *shape[1:]) if i in follow else shape, dtype)
            for i, (shape, dtype) in enumerate(self._outputs)
        ]

    # --- state -------------------------------------------------------------------------------------------------

    def rebind(self, states: Sequence[np.ndarray]) -> None:
        """Use other arrays as state from the next call on; calls that run keep those they began with."""
        bound = list(states)
        spans = [(a.ctypes.data, a.ctypes.data + a.nbytes) for a, w in zip(bound, self._written, strict=True) if w]
        self._starts, self._ends = [s for s, _ in sorted(spans)], [z for _, z in sorted(spans)]
        self.states = bound

    def _clear_of_state(self, arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """Return arrays, with copies of those that the step would overwrite while it reads them."""
        for i, array in enumerate(arrays):
            start = native.address(array)
            before = bisect.bisect_left(self._starts, start + array.nbytes)  # states that begin before it ends
            if before and self._ends[before - 1] > start:
                return [*arrays[:i], array.copy(), *self._clear_of_state(arrays[i + 1 :])]
        return arrays

    # --- frames ------------------------------------------------------------------------------------------------

    def _forget_frames(self) -> None:
        self._free: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self._made: weakref.WeakSet[Frame] = weakref.WeakSet()
        self._making = threading.Lock()
        self._process = os.getpid()

    def _another_frame(self) -> Frame:
        """Return a new frame, or wait for one when there are as many as there may be."""
        while True:
            if self._process != os.getpid():  # a forked child: frames in use were of threads it does not have
                self._forget_frames()
            with self._making:
                if len(self._made) < self._most:
                    return self._make_frame()
            try:
                # An interrupt can lose a frame between this queue and its user: look again at how many there are.
                return self._free.get(timeout=0.1)
            except queue.Empty:
                continue

    def _make_frame(self) -> Frame:
        frame = Frame(self._first_call - _TABLE + len(self._calls.words), self._arena())
        words = frame.words
        words[0], words[1], words[2] = self.library.address["step"], self._arrays, self._mode
        words[5], words[6] = self.program.phases, self.library.address.get("phase", 0)
        words[_HEAD + CTX_TEAM // 8] = self._team.address
        words[_HEAD + CTX_ARENAS // 8] = self._arenas
        at = _TABLE + self._arrays + len(self.states)
        for i, constant in enumerate(self._constants):
            words[at + i] = constant.ctypes.data
        frame.table[self._first_call :] = self._calls.words
        self._made.add(frame)
        return frame

    def _arena(self) -> np.ndarray:
        return aligned_bytes(self.program.memory.total(self._arenas))

    def _enough_places(self) -> None:
        """Make room for as many threads as there are now, where each has places of its own."""
        if self.program.memory.own and self._arenas < workers.get_threads():
            self._arenas = workers.get_threads()
            self._forget_frames()

    def _point(self, frame: Frame) -> None:
        """Write the addresses of the present states into a frame."""
        frame.states = states = self.states
        at = _TABLE + self._arrays
        for i, array in enumerate(states):
            frame.words[at + i] = array.ctypes.data

    @contextlib.contextmanager
    def replaced(self, step: int) -> Iterator[np.ndarray]:
        """Run another native step of the same kernels for a while, in one frame; yields its context's words.

        All threads take part, also in short steps that find them asleep.
        """
        pending.settle_all()
        self._enough_places()
        most, self._most = self._most, 1
        self._forget_frames()
        frame = self._another_frame()
        frame.words[0], frame.words[7] = step, 1
        self._free.put(frame)
        try:
            yield frame.table[_HEAD:]
        finally:
            self._most = most
            self._forget_frames()

    # --- calling -----------------------------------------------------------------------------------------------

    def call(self, arrays: Sequence[np.ndarray], rows: int) -> list[np.ndarray]:
        """Run the program.

        Parameters
        ----------
        arrays : sequence of numpy.ndarray
            The inputs, C-contiguous, with the dtypes and shapes of the graph; along the batch at least ``rows``.
        rows : int
            How many samples of the batch are real; 0 for a program without a batch.

        Returns
        -------
        list of numpy.ndarray
            The outputs, newly made, cut to ``rows``.

        Raises
        ------
        Exception
            What a custom operation's function raised; no state has changed then.
        TraceError
            When a custom operation's function calls it from within a compiled one, and either writes state.
        """
        self._enough_places()
        if not self.writes:
            if pending.jobs:
                for array in arrays:
                    pending.settle(array)
            return self._call(arrays, rows)
        refuse_inside_call()
        with self._team.writing:
            pending.settle_all()
            return self._call(self._clear_of_state(arrays), rows)

    def _call(self, arrays: Sequence[np.ndarray], rows: int) -> list[np.ndarray]:
        try:
            frame = self._free.get_nowait()
        except queue.Empty:
            frame = self._another_frame()
        try:
            outputs = self._fill(frame, arrays, rows)
            code = self._run(frame.address)
            if code:
                self._not_all(code, frame)
            if self._calls.count:
                self._calls.check(frame.table[self._first_call :])
        finally:
            self._free.put(frame)
        return outputs if rows == self.capacity else self._cut(outputs, rows)

    def _not_all(self, code: int, frame: Frame) -> None:
        """Run what did not run because a writer did, and call back threads of the team that were missing."""
        if code == BLOCKED:
            refuse_inside_call()
            with self._team.writing:  # no step begins until this one has had its turn
                pending.settle_all()
                code = self._run(frame.address)
        if code == SHORT:
            self._team.grow()

    def short_call(self, rows: int) -> Callable[[np.ndarray], np.ndarray] | None:
        """Return :meth:`call` for one array in and one out, always of so many rows, or None where there is more to do.

        It is two fifths of the work in Python, which small networks at batch 1 wait for.
        """
        cut = rows != self.capacity and not self._resized and bool(self._ragged)
        if self.writes or cut or self._calls.count or len(self._outputs) != 1 or self._arrays != 2:
            return None
        ((shape, dtype),) = self._sizes(rows) if self._resized else self._outputs
        run, grows, given, made, header = self._run, bool(self.program.memory.own), _TABLE, _TABLE + 1, _HEAD

        def call(array: np.ndarray) -> np.ndarray:
            if grows:
                self._enough_places()
            if pending.jobs:
                pending.settle(array)
            try:
                frame = self._free.get_nowait()
            except queue.Empty:
                frame = self._another_frame()
            try:
                if frame.states is not self.states:
                    self._point(frame)
                out = _empty(shape, dtype)
                words = frame.words
                words[header], words[given], words[made] = rows, id(array), id(out)
                code = run(frame.address)
                if code:
                    self._not_all(code, frame)
            finally:
                self._free.put(frame)
            return out

        return call

    def _fill(self, frame: Frame, arrays: Sequence[np.ndarray], rows: int) -> list[np.ndarray]:
        """Write the addresses of inputs and of new outputs into a frame; return the outputs."""
        if frame.states is not self.states:
            self._point(frame)
        words = frame.words
        words[_HEAD] = rows
        if self.program.before:
            words[5] = self.program.phases_for(rows, self.capacity)
        if self._calls.count:
            self._calls.begin(frame.table[self._first_call :])
        at = _TABLE
        for array in arrays:
            words[at] = id(array)
            at += 1
        outputs = []
        for shape, dtype in self._sizes(rows) if self._resized and rows != self.capacity else self._outputs:
            array = _empty(shape, dtype)
            words[at] = id(array)
            at += 1
            outputs.append(array)
        return outputs

    def _cut(self, outputs: list[np.ndarray], rows: int) -> list[np.ndarray]:
        """Return outputs cut to the rows of a smaller batch."""
        if not self._resized:
            for i, follow in self._ragged:
                outputs[i] = outputs[i][(slice(None),) * follow.axis + (slice(0, rows * follow.per),)]
        return outputs
