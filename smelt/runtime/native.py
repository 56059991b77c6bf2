"""The native half of the runtime, linked: what it is made of, and where things lie in the memory it shares.

In: this processor. Out: functions that run records of calls. Everything that must not be torn apart by an interrupt
(Ctrl-C) happens in there, where none can fall.

A record is: the address of the step, the number of arrays, the mode (see below), two numbers kept by ``run``, the
number of phases and the address of ``phase`` for ``submit``, and whether sleeping workers are always waited for; then,
at byte 64, the context that the step reads. The first entries of the context's table are written as addresses of NumPy
array *objects*; the data pointers are taken from them in native code, which costs a fortieth of asking NumPy for them.
"""

from __future__ import annotations

import ctypes
import functools
import re
import time

import numpy as np

from smelt.compiler import jit
from smelt.compiler.emit.barrier import BARRIER_PATIENCE
from smelt.compiler.emit.denormals import denormals
from smelt.compiler.emit.llvm import CTX_TABLE, CTX_TEAM
from smelt.compiler.isa import host
from smelt.runtime import native_queue, native_team

MAX_THREADS = 64
CONTEXT = 64  # bytes of a record before its context

PRIVATE, READER, WRITER = 0, 1, 2  # modes: states that nothing else writes; states others may write; states it writes
DONE, BLOCKED, SHORT = 0, 1, 2  # what ``run`` returns: it ran; nothing ran, for a writer runs; it ran on fewer threads

# Byte offsets in a team's memory, which begins with the barrier's two lines. What different threads write has cache
# lines of its own; the last field has one line per worker: whether it sleeps (1; 2 when it has been rung), its pipe,
# the ticket that it runs the job of, and how often it was told to look into the queue.
OFFSETS = {"JOB": 128, "FINISHED": 192, "BUSY": 256, "READERS": 320, "WRITING": 384, "SIZE": 448, "TAIL": 512}
OFFSETS |= {"HEAD": 576, "AHEAD": 640, "SLOTS": 1024}
TEAM_BYTES = OFFSETS["SLOTS"] + 64 * MAX_THREADS
PATIENCE = BARRIER_PATIENCE  # how often a thread looks before it yields; next to it: how often before it sleeps
LOOKS, SPINS = 4096, 20000  # these numbers where there are enough processors: a fifth and a half of a millisecond
CROWDED_LOOKS, CROWDED_SPINS = 0, 500  # and where there are not
SHORT_STEP = 80_000  # nanoseconds: waking a worker takes so long that such a step is sooner done alone
MOST_AHEAD = 16  # threads that may share a step run ahead
RECENT = 500_000  # nanoseconds: within them after a short step, workers are rung all the same, for the next one


def _header() -> int:
    """Return where in a NumPy array object the pointer to its data is: right after the object's header."""
    offset = object.__basicsize__
    probe = np.zeros(3, np.uint8)
    if ctypes.c_void_p.from_address(id(probe) + offset).value != probe.ctypes.data:
        raise ImportError("this Python and NumPy lay arrays out in a way Smelt does not know")
    return offset


HEADER = _header()
_pointer = ctypes.c_void_p.from_address


def address(array: np.ndarray) -> int:
    """Return where an array's data begin; ``array.ctypes.data`` takes ten times as long."""
    return _pointer(id(array) + HEADER).value or 0


@functools.cache
def library() -> jit.Library:
    """Return the linked functions."""
    isa = host()
    declared: dict[str, None] = {}
    before, after = denormals(isa.triple, lambda line: declared.setdefault(line), flush=True)
    if isa.triple.startswith("x86_64"):
        pause = call = "void @llvm.x86.sse2.pause()"
    else:
        pause, call = "void @llvm.aarch64.hint(i32)", "void @llvm.aarch64.hint(i32 1)"
    numbers = {"CTX_TEAM": CTX_TEAM, "CTX_TABLE": CTX_TABLE, "CONTEXT": CONTEXT, "HEADER": HEADER}
    numbers |= {"MOST_AHEAD": MOST_AHEAD, "MOST": MAX_THREADS, "SHORT_STEP": SHORT_STEP, "RECENT": RECENT}
    numbers |= {"CLOCK_ID": time.CLOCK_MONOTONIC, "PATIENCE8": PATIENCE + 8, "PATIENCE": PATIENCE}
    text = native_team.TEXT + native_queue.TEXT
    text = text.replace("FLUSH_DENORMALS", "\n".join(before)).replace("KEEP_DENORMALS", "\n".join(after))
    for name, number in (numbers | OFFSETS | {"PAUSE": f"call {call}"}).items():
        text = re.sub(rf"\b{name}\b", str(number), text)
    lines = [f'target triple = "{isa.triple}"', *(f"declare {line}" for line in (pause, *declared)), text]
    text = "\n".join(lines)
    key = jit.key_of(text, isa)
    image = jit.read_cache(key)
    if image is None:
        image = jit.compile_object(text, isa)
        jit.write_cache(key, image)
    return jit.Library(image, ("worker", "run", "run_on", "quit", "submit", "wait"))
