"""Worker threads that run compiled steps: they spin in native code for a while, then sleep.

In: the address of a step and its context. Out: the step has run on all threads. One native call from Python starts
the workers, does thread 0's share and waits for the others; a sleeping worker is woken through a pipe.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import os
import threading

import numpy as np

from smelt.compiler import jit
from smelt.compiler.isa import host
from smelt.errors import at_user_line
from smelt.runtime.arena import aligned_bytes

MAX_THREADS = 64
# Byte offsets in the team's memory; every field that threads write has a cache line of its own.
TICKET, JOB, DONE, PARKED = 128, 192, 256, 320
SPINS = 20000  # looks at the ticket (about half a millisecond) before a worker sleeps

_TEXT = """
declare void @PAUSE_FUNCTION
declare i32 @sched_yield()
declare i64 @write(i32, ptr, i64)

define i64 @worker(ptr %team, i64 %thread, i64 %seen0) {
entry:
  %ticketp = getelementptr i8, ptr %team, i64 TICKET
  %jobp = getelementptr i8, ptr %team, i64 JOB
  %ctxp = getelementptr i8, ptr %jobp, i64 8
  %threadsp = getelementptr i8, ptr %jobp, i64 16
  %donep = getelementptr i8, ptr %team, i64 DONE
  %shift = mul i64 %thread, 64
  %parkoff = add i64 %shift, PARKED
  %parkp = getelementptr i8, ptr %team, i64 %parkoff
  br label %spin
spin:
  %seen = phi i64 [%seen0, %entry], [%seen, %again], [%now, %next]
  %i = phi i64 [0, %entry], [%i1, %again], [0, %next]
  %now0 = load atomic i64, ptr %ticketp acquire, align 8
  %same = icmp eq i64 %now0, %seen
  br i1 %same, label %wait, label %run
wait:
  call void @PAUSE_CALL
  %i1 = add i64 %i, 1
  %tired = icmp ugt i64 %i1, SPINS
  br i1 %tired, label %park, label %again
again:
  br label %spin
park:
  %p = atomicrmw xchg ptr %parkp, i64 1 seq_cst
  %now1 = load atomic i64, ptr %ticketp seq_cst, align 8
  %still = icmp eq i64 %now1, %seen
  br i1 %still, label %sleep, label %unpark
unpark:
  %mine = atomicrmw xchg ptr %parkp, i64 0 seq_cst
  %ours = icmp eq i64 %mine, 1
  br i1 %ours, label %run, label %sleep
sleep:
  ret i64 %seen
run:
  %now = phi i64 [%now0, %spin], [%now1, %unpark]
  %fn = load ptr, ptr %jobp, align 8
  %ctx = load ptr, ptr %ctxp, align 8
  %threads = load i64, ptr %threadsp, align 8
  %quit = icmp eq ptr %fn, null
  br i1 %quit, label %leave, label %take
leave:
  ret i64 -1
take:
  %in = icmp ult i64 %thread, %threads
  br i1 %in, label %work, label %next
work:
  call void %fn(ptr %ctx, i64 %thread, i64 %threads)
  br label %next
next:
  %d = atomicrmw add ptr %donep, i64 1 acq_rel
  br label %spin
}

define void @post(ptr %team, ptr %fn, ptr %ctx, i64 %threads, ptr %pipes, i64 %workers) {
entry:
  %ticketp = getelementptr i8, ptr %team, i64 TICKET
  %jobp = getelementptr i8, ptr %team, i64 JOB
  %ctxp = getelementptr i8, ptr %jobp, i64 8
  %threadsp = getelementptr i8, ptr %jobp, i64 16
  store ptr %fn, ptr %jobp, align 8
  store ptr %ctx, ptr %ctxp, align 8
  store i64 %threads, ptr %threadsp, align 8
  %t = atomicrmw add ptr %ticketp, i64 1 seq_cst
  br label %wake
wake:
  %w = phi i64 [1, %entry], [%w1, %woken]
  %more = icmp ult i64 %w, %workers
  br i1 %more, label %look, label %out
look:
  %shift = mul i64 %w, 64
  %parkoff = add i64 %shift, PARKED
  %parkp = getelementptr i8, ptr %team, i64 %parkoff
  %was = atomicrmw xchg ptr %parkp, i64 0 seq_cst
  %asleep = icmp eq i64 %was, 1
  br i1 %asleep, label %ring, label %woken
ring:
  %pipep = getelementptr i32, ptr %pipes, i64 %w
  %pipe = load i32, ptr %pipep, align 4
  %ignored = call i64 @write(i32 %pipe, ptr %team, i64 1)
  br label %woken
woken:
  %w1 = add i64 %w, 1
  br label %wake
out:
  ret void
}

define void @run(ptr %team, ptr %fn, ptr %ctx, i64 %threads, ptr %pipes, i64 %workers) {
entry:
  %alone = icmp eq i64 %threads, 1
  br i1 %alone, label %single, label %team2
single:
  call void %fn(ptr %ctx, i64 0, i64 1)
  ret void
team2:
  %donep = getelementptr i8, ptr %team, i64 DONE
  store atomic i64 0, ptr %donep release, align 8
  call void @post(ptr %team, ptr %fn, ptr %ctx, i64 %threads, ptr %pipes, i64 %workers)
  call void %fn(ptr %ctx, i64 0, i64 %threads)
  %others = sub i64 %workers, 1
  br label %spin
spin:
  %i = phi i64 [0, %team2], [%i1, %back]
  %done = load atomic i64, ptr %donep acquire, align 8
  %all = icmp eq i64 %done, %others
  br i1 %all, label %out, label %wait
wait:
  call void @PAUSE_CALL
  %i1 = add i64 %i, 1
  %long = icmp ugt i64 %i1, 4096
  br i1 %long, label %yield, label %back
yield:
  %ignored = call i32 @sched_yield()
  br label %back
back:
  br label %spin
out:
  ret void
}
"""


@functools.cache
def _library() -> jit.Library:
    isa = host()
    if isa.triple.startswith("x86_64"):
        function = call = "llvm.x86.sse2.pause()"
    else:
        function, call = "llvm.aarch64.hint(i32)", "llvm.aarch64.hint(i32 1)"
    text = _TEXT.replace("PAUSE_FUNCTION", function).replace("PAUSE_CALL", call)
    for name, number in (
        ("TICKET", TICKET),
        ("JOB", JOB),
        ("DONE", DONE),
        ("PARKED", PARKED),
        ("SPINS", SPINS),
    ):
        text = text.replace(name, str(number))
    text = f'target triple = "{isa.triple}"\n{text}'
    key = jit.key_of(text, isa)
    image = jit.read_cache(key)
    if image is None:
        image = jit.compile_object(text, isa)
        jit.write_cache(key, image)
    return jit.Library(image, ("worker", "post", "run"))


class Team:
    """The threads of this process. One step runs at a time; callers in other threads wait for their turn."""

    def __init__(self) -> None:
        library = _library()
        i64, pointer = ctypes.c_int64, ctypes.c_void_p
        self._worker = ctypes.CFUNCTYPE(i64, pointer, i64, i64)(library.address["worker"])
        arguments = (None, pointer, pointer, pointer, i64, pointer, i64)
        self._run = ctypes.CFUNCTYPE(*arguments)(library.address["run"])
        self._post = ctypes.CFUNCTYPE(*arguments)(library.address["post"])
        self.memory = aligned_bytes(PARKED + 64 * MAX_THREADS)
        self.address = self.memory.ctypes.data
        self._pipes = np.zeros(MAX_THREADS, np.int32)
        self._pipes_address = self._pipes.ctypes.data
        self._threads: list[threading.Thread] = []
        self._readers: list[int] = []
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def _grow(self, threads: int) -> None:
        while len(self._threads) + 1 < threads:
            number = len(self._threads) + 1
            reader, writer = os.pipe()
            self._pipes[number] = writer
            self._readers.append(reader)
            seen = int(self.memory[TICKET : TICKET + 8].view(np.int64)[0])
            thread = threading.Thread(
                target=self._loop, args=(number, reader, seen), name=f"smelt-{number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _loop(self, number: int, reader: int, seen: int) -> None:
        while True:
            seen = self._worker(self.address, number, seen)
            if seen < 0:
                return
            with contextlib.suppress(OSError):
                os.read(reader, 1)

    def run(self, step: int, ctx: int, threads: int) -> None:
        """Run the native ``step(ctx, thread, threads)`` on all threads; return when all are done."""
        with self._lock:
            if threads > len(self._threads) + 1:
                self._grow(threads)
            self._run(self.address, step, ctx, threads, self._pipes_address, len(self._threads) + 1)

    def stop(self) -> None:
        """End the workers; called before the interpreter takes the code away from under them."""
        if not self._threads or self._pid != os.getpid():
            return
        with self._lock:
            self._post(self.address, None, None, 0, self._pipes_address, len(self._threads) + 1)
            for thread in self._threads:
                thread.join()
            for fd in [*self._readers, *(int(p) for p in self._pipes[1 : len(self._threads) + 1])]:
                os.close(fd)
            self._threads, self._readers = [], []


_team: Team | None = None
_threads: int | None = None


def team() -> Team:
    """Return the process's team, made on first use (and again in a forked child)."""
    global _team
    if _team is None or _team._pid != os.getpid():
        _team = Team()
        atexit.register(_team.stop)
    return _team


@functools.cache
def default_threads() -> int:
    """Return the processors this process may use: its affinity, limited by a container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        with open("/sys/fs/cgroup/cpu.max") as f:
            quota, period = f.read().split()
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
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
