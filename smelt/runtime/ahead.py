"""Steps that change state and return when they are queued; at most one waits behind the one under way.

In: input arrays. Out: output arrays that are being written: whoever reads them, or the state, through a tensor waits
(:mod:`smelt.pending`) and does its part of the step meanwhile. A step is run share by share by whichever threads have
time, so that one whose caller is busy in Python goes on with the workers alone.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import time
from collections.abc import Iterator, Sequence

import numpy as np

from smelt.compiler.program import Program
from smelt.graph.graph import Graph
from smelt.pending import Job, pending
from smelt.runtime import workers
from smelt.runtime.calls import refuse_inside_call
from smelt.runtime.executable import Executable, Frame

STEPS_AHEAD = 1
TIMED = 3  # calls of a step that run at once, and tell whether the next are worth queuing
SHORTEST = 60e-6  # seconds: a step that takes less is sooner done than queued
COPYING = 0.01  # of a step's time may go into copying what it is given, at
BYTES_PER_SECOND = 8e9


class QueuedExecutable(Executable):
    """An executable that writes state.

    The arrays a caller gives may change as soon as the call returns. They are copied, unless ``owned`` says that
    nobody will write them; where that would take too long, the call runs the step before it returns.

    Parameters
    ----------
    program, graph, states
        As of :class:`Executable`.
    owned : bool, default False
        Whether the arrays it is given are never written again.
    """

    def __init__(self, program: Program, graph: Graph, states: Sequence[np.ndarray], owned: bool = False) -> None:
        self._memory: np.ndarray | None = None
        super().__init__(program, graph, states)
        self._owned = owned
        self._queues = self._replaced = False
        self._times: list[float] = []
        self._most = 1 + STEPS_AHEAD

    def rebind(self, states: Sequence[np.ndarray]) -> None:
        """Use other arrays as state; see :meth:`Executable.rebind`."""
        super().rebind(states)
        ends = [(a.ctypes.data, a.ctypes.data + a.nbytes) for a in self.states if a.size]
        self._reach = min((s for s, _ in ends), default=0), max((z for _, z in ends), default=0)

    def _arena(self) -> np.ndarray:
        # One for all frames: no two steps run at the same time.
        if self._memory is None:
            self._memory = super()._arena()
        return self._memory

    def _enough_places(self) -> None:
        if self.program.memory.own and self._arenas < workers.get_threads():
            pending.settle_all()
            self._memory = None
            super()._enough_places()

    def call(self, arrays: Sequence[np.ndarray], rows: int) -> list[np.ndarray]:
        """Run the program, or queue it; see :meth:`Executable.call`."""
        refuse_inside_call()
        with self._team.writing:
            self._enough_places()
            outputs = self._queue(arrays, rows) if self._queues and not self._replaced else None
            if outputs is None:
                if pending.jobs:
                    pending.settle_all()
                outputs = self._timed(self._clear_of_state(arrays), rows)
            return outputs

    def _timed(self, arrays: Sequence[np.ndarray], rows: int) -> list[np.ndarray]:
        if len(self._times) == TIMED:
            return self._call(arrays, rows)
        start = time.perf_counter()
        outputs = self._call(arrays, rows)
        self._times.append(time.perf_counter() - start)
        if len(self._times) == TIMED:
            took = min(self._times)
            cheap = self._owned or sum(a.nbytes for a in arrays) / BYTES_PER_SECOND <= COPYING * took
            self._queues = self.program.phases > 0 and took >= SHORTEST and cheap
        return outputs

    def _queue(self, arrays: Sequence[np.ndarray], rows: int) -> list[np.ndarray] | None:
        """Queue the step; return None when it must be run instead."""
        if pending.jobs:
            pending.drop_phantoms()
            pending.settle_but(STEPS_AHEAD)
        for array in () if self._owned else arrays:
            pending.settle(array)
        try:
            frame = self._free.get_nowait()
        except queue.Empty:
            frame = self._another_frame()
        if not self._owned:
            arrays = frame.copied(arrays)
        whole = self._fill(frame, arrays, rows)
        outputs = whole if rows == self.capacity else self._cut(list(whole), rows)
        release = functools.partial(self._release, frame, arrays, whole)
        # In this order: an interrupt may leave a job that is not queued, but not a step that nobody knows of.
        pending.jobs.append(Job(pending.counts()[1] + 1, outputs, *self._reach, release))
        if self._team.submit(frame.address):
            return outputs
        pending.jobs.pop().release()
        return None

    @contextlib.contextmanager
    def replaced(self, step: int) -> Iterator[np.ndarray]:
        """Run another native step for a while, at once; see :meth:`Executable.replaced`."""
        pending.settle_all()
        self._replaced = True
        try:
            with super().replaced(step) as words:
                yield words
        finally:
            self._replaced = False

    def _release(self, frame: Frame, *_: object) -> None:
        self._free.put(frame)
