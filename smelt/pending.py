"""Steps under way: whoever reads what they write waits for them first.

In: steps that the runtime has queued. Out: nothing, after a wait. Reading a tensor comes through here; an array that
``numpy()`` gave before the step began does not, and shows the new values once something has waited.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np


class Job:
    """A step in the queue: its number, where its data lie, and what to do when it has ended.

    Parameters
    ----------
    number : int
        Steps are counted from 1 in the order they run.
    outputs : iterable of numpy.ndarray
        Arrays that are its own: they can be read as soon as this very step has ended.
    low, high : int
        Addresses between which the state it reads and writes lies: to be touched when all steps have ended.
    release : callable
        Called once, after it has ended.
    """

    __slots__ = ("high", "low", "number", "outputs", "release")

    def __init__(
        self, number: int, outputs: Iterable[np.ndarray], low: int, high: int, release: Callable[[], None]
    ) -> None:
        self.number, self.low, self.high, self.release = number, low, high, release
        self.outputs = {id(a): a for a in outputs}


class Pending:
    """The steps under way in this process, oldest first.

    Attributes
    ----------
    jobs : list of Job
        Look here first: where it is empty, there is nothing to wait for.
    wait : callable
        Set by the runtime: waits until the step of a number has ended, and does its part of the work meanwhile.
    counts : callable
        Set by the runtime: returns how many steps have ended, and how many were ever queued.
    queuing : lock
        Set by the runtime: held by whoever adds a job.
    """

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.wait: Callable[[int], None] = lambda number: None
        self.counts: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self.queuing: AbstractContextManager[Any] = nullcontext()
        self._lock = threading.Lock()

    def settle(self, value: np.ndarray) -> None:
        """Wait for the steps that ``value`` depends on."""
        jobs = tuple(self.jobs)
        for job in jobs:
            if id(value) in job.outputs:
                return self._settle(job.number)
        if jobs and _touched(value, jobs):
            self._settle(jobs[-1].number)
        return None

    def settle_all(self) -> None:
        """Wait for all steps; when other threads queue some, too, the caller holds ``queuing``."""
        self.settle_but(0)

    def settle_but(self, count: int) -> None:
        """Wait until at most ``count`` steps are under way."""
        while jobs := self.jobs[: len(self.jobs) - count]:
            self._settle(jobs[-1].number)

    def forget(self) -> None:
        """Begin again, in a forked child."""
        self.jobs = []
        self._lock = threading.Lock()

    def _settle(self, number: int) -> None:
        self.wait(number)
        with self._lock:
            ended, queued = self.counts()
            while self.jobs and self.jobs[0].number <= ended:
                self.jobs.pop(0).release()
        if self.jobs and self.jobs[-1].number > queued:
            with self.queuing:
                self.drop_phantoms()

    def drop_phantoms(self) -> None:
        """Forget a job that an interrupt kept from being queued; the caller holds ``queuing``."""
        with self._lock:
            _, queued = self.counts()
            while self.jobs and self.jobs[-1].number > queued:
                self.jobs.pop().release()


def _touched(value: np.ndarray, jobs: tuple[Job, ...]) -> bool:
    """Return whether an array may lie where the jobs' state does."""
    if not value.flags.c_contiguous:
        return True
    start = value.ctypes.data
    return any(start < job.high and job.low < start + value.nbytes for job in jobs)


pending = Pending()
