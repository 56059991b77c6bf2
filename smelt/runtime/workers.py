"""The team: this process's worker threads, how many there are, and who may run a step that writes.

In: records of calls (:mod:`smelt.runtime.native`). Out: steps that ran. Workers start when the first program is made,
live until the process ends, and are started anew in a forked child.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import os
import threading
import time
from collections.abc import Callable

import numpy as np

from smelt.errors import at_user_line
from smelt.pending import pending
from smelt.runtime import native
from smelt.runtime.arena import aligned_bytes
from smelt.runtime.native import (
    CROWDED_LOOKS,
    CROWDED_SPINS,
    LOOKS,
    MAX_THREADS,
    OFFSETS,
    PATIENCE,
    SPINS,
    TEAM_BYTES,
)


class Team:
    """The threads of this process. One caller at a time has the workers; who finds them busy runs alone.

    Attributes
    ----------
    address : int
        Of the memory that all native code of the team shares.
    run : callable
        ``(record address) -> code``: runs a call's record; see :mod:`smelt.runtime.native`.
    submit : callable
        ``(record address) -> number``: queues a step; 0 when it cannot be.
    writing : lock
        Held around a step that writes state, or is queued.
    """

    def __init__(self) -> None:
        library = native.library()
        i64, i32, pointer = ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p
        self._worker = ctypes.CFUNCTYPE(None, pointer, i32, i32)(library.address["worker"])
        self._run_on = ctypes.CFUNCTYPE(None, pointer, pointer, pointer, i64)(library.address["run_on"])
        self._quit = ctypes.CFUNCTYPE(None, pointer)(library.address["quit"])
        self.run: Callable[[int], int] = ctypes.CFUNCTYPE(i64, pointer)(library.address["run"])
        self.submit: Callable[[int], int] = ctypes.CFUNCTYPE(i64, pointer)(library.address["submit"])
        self._wait = ctypes.CFUNCTYPE(None, pointer, i64)(library.address["wait"])
        self.memory = aligned_bytes(TEAM_BYTES)
        self.address = self.memory.ctypes.data
        self._size = self.memory[OFFSETS["SIZE"] :].view(np.int64)  # workers that joined, threads wanted
        self._patience = self.memory[PATIENCE:].view(np.int64)
        self._pipes: list[tuple[int, int]] = []
        self._threads: list[threading.Thread] = []
        self._ended = False
        self._head, self._tail = (self.memory[OFFSETS[name] :].view(np.int64) for name in ("HEAD", "TAIL"))
        self._locks()
        pending.wait = lambda number: self._wait(self.address, number)
        pending.counts = lambda: (int(self._head[0]), int(self._tail[0]))
        self.want(get_threads())

    def _locks(self) -> None:
        self.writing = pending.queuing = threading.RLock()
        self._growing = threading.Lock()

    def want(self, threads: int) -> None:
        """Set how many threads steps use, and start those that are missing."""
        self._set_size(threads)
        self.grow()

    def _set_size(self, threads: int) -> None:
        crowded = threads > default_threads()
        self._patience[:2] = (CROWDED_LOOKS, CROWDED_SPINS) if crowded else (LOOKS, SPINS)
        self._size[1] = threads

    def grow(self) -> None:
        """Start the workers that are missing, and give them a moment to join."""
        with self._growing:
            wanted = int(self._size[1])
            while len(self._threads) + 1 < wanted and not self._ended:
                pipe = os.pipe()
                thread = threading.Thread(
                    target=self._worker,
                    args=(self.address, *pipe),
                    name=f"smelt-{len(self._threads) + 1}",
                    daemon=True,
                )
                try:
                    thread.start()
                except RuntimeError:  # the system gives no more threads: make do with what there is
                    os.close(pipe[0])
                    os.close(pipe[1])
                    self._set_size(len(self._threads) + 1)
                    return
                self._threads.append(thread)
                self._pipes.append(pipe)
        deadline = time.monotonic() + 1.0
        while self._size[0] + 1 < wanted and not self._ended and time.monotonic() < deadline:
            time.sleep(0)

    def run_on(self, step: int, context: int, threads: int) -> None:
        """Run the native ``step(context, thread, threads)`` on so many threads, as soon as the team is free."""
        before = int(self._size[1])
        if before < threads:
            self.want(threads)
            self._set_size(before)
        self._run_on(self.address, step, context, threads)

    def stop(self) -> None:
        """End the workers; called before the interpreter takes the code away from under them."""
        self._ended = True
        with self.writing, self._growing:
            pending.settle_all()
            self._quit(self.address)
            for thread in self._threads:
                thread.join()
            self._close()

    def before_fork(self) -> None:
        """Let what is under way end, and nothing begin."""
        self.writing.acquire()
        pending.settle_all()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self.writing.release()

    def after_fork(self) -> None:
        """Begin again in a forked child, which has the memory but not the threads; addresses stay."""
        self.memory[:] = 0
        self._close()
        self._locks()
        pending.forget()
        self._set_size(get_threads())

    def _close(self) -> None:
        for pipe in self._pipes:
            for end in pipe:
                with contextlib.suppress(OSError):
                    os.close(end)
        self._threads, self._pipes = [], []


_team: Team | None = None
_threads: int | None = None


def team() -> Team:
    """Return the process's team, made on first use."""
    global _team
    if _team is None:
        _team = Team()
        atexit.register(_team.stop)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=_team.before_fork,
                after_in_parent=_team.after_fork_in_parent,
                after_in_child=_team.after_fork,
            )
    return _team


def cpu_quota(root: str = "/sys/fs/cgroup") -> float | None:
    """Return the processors a container's quota allows (control groups of version 2 or 1), or None without one."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = _words(f"{root}/cpu.max")
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        ((quota,), (period,)) = (_words(f"{root}/cpu/cpu.cfs_{name}_us") for name in ("quota", "period"))
        return None if int(quota) <= 0 else int(quota) / int(period)
    return None


def _words(path: str) -> list[str]:
    with open(path) as f:
        return f.read().split()


@functools.cache
def default_threads() -> int:
    """Return the processors this process may use: its affinity, limited by a container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    if quota is not None:
        count = min(count, int(quota))
    return max(1, min(count, MAX_THREADS))


def get_threads() -> int:
    """Return how many threads compiled steps use."""
    return _threads if _threads is not None else default_threads()


def set_threads(count: int | None) -> None:
    """Set how many threads compiled steps use; None means the processors available. Results do not depend on it.

    Raises
    ------
    ValueError
        Unless 1 ≤ ``count`` ≤ 64.

    Examples
    --------
    >>> import smelt
    >>> smelt.set_threads(1)
    >>> smelt.get_threads()
    1
    >>> smelt.set_threads(None)
    """
    global _threads
    if count is not None and not 1 <= count <= MAX_THREADS:
        raise ValueError(at_user_line(f"set_threads: expected 1 to {MAX_THREADS} or None, received {count}"))
    _threads = count
    if _team is not None:
        _team.want(get_threads())
