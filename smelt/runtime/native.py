"""The native half of the runtime: workers that spin, then sleep, and the one call that runs a step on all of them.

In: a team's memory and the record of a call. Out: the step has run. Everything that must not be torn apart by an
interrupt (Ctrl-C) happens in here, where none can fall.

A record is: the address of the step, the number of arrays, the mode (see below), two numbers kept here, then at byte 64
the context that the step reads. The first entries of the context's table are written as addresses of NumPy array
*objects*; the data pointers are taken from them here, which costs a fortieth of asking NumPy for them.
"""

from __future__ import annotations

import ctypes
import functools
import time

import numpy as np

from smelt.compiler import jit
from smelt.compiler.emit.llvm import CTX_TABLE, CTX_TEAM
from smelt.compiler.emit.step import BARRIER_PATIENCE
from smelt.compiler.isa import host

MAX_THREADS = 64
CONTEXT = 64  # bytes of a record before its context

PRIVATE, READER, WRITER = 0, 1, 2  # modes: states that nothing else writes; states others may write; states it writes
DONE, BLOCKED, SHORT = 0, 1, 2  # what ``run`` returns: it ran; nothing ran, for a writer runs; it ran on fewer threads

# Byte offsets in a team's memory, which begins with the barrier's two lines. What different threads write has cache
# lines of its own; the last field has one line per worker: whether it sleeps (1; 2 when it has been rung), its pipe,
# and the ticket that it runs the job of.
OFFSETS = {"JOB": 128, "FINISHED": 192, "BUSY": 256, "READERS": 320, "WRITING": 384, "SIZE": 448, "SLOTS": 512}
TEAM_BYTES = OFFSETS["SLOTS"] + 64 * MAX_THREADS
PATIENCE = BARRIER_PATIENCE  # how often a thread looks before it yields; next to it: how often before it sleeps
LOOKS, SPINS = 4096, 20000  # these numbers where there are enough processors: a fifth and a half of a millisecond
CROWDED_LOOKS, CROWDED_SPINS = 0, 500  # and where there are not
SHORT_STEP = 80_000  # nanoseconds: waking a worker takes so long that such a step is sooner done alone
RECENT = 500_000  # nanoseconds: within them after a short step, workers are rung all the same, for the next one

_TEXT = """
declare void @PAUSE_FUNCTION
declare i32 @sched_yield()
declare i64 @write(i32, ptr, i64)
declare i64 @read(i32, ptr, i64)
declare i32 @clock_gettime(i32, ptr)

define internal i64 @now() {
  %time = alloca [2 x i64], align 8
  %ignored = call i32 @clock_gettime(i32 CLOCK_ID, ptr %time)
  %seconds = load i64, ptr %time, align 8
  %nanosp = getelementptr i64, ptr %time, i64 1
  %nanos = load i64, ptr %nanosp, align 8
  %more = mul i64 %seconds, 1000000000
  %sum = add i64 %more, %nanos
  ret i64 %sum
}

; Wait a moment, the longer the more often one has looked already.
define internal void @pause(ptr %team, i64 %looks) {
entry:
  %patiencep = getelementptr i8, ptr %team, i64 PATIENCE
  %patience = load i64, ptr %patiencep, align 8
  %long = icmp uge i64 %looks, %patience
  br i1 %long, label %yield, label %short
short:
  call void @PAUSE_CALL
  ret void
yield:
  %ignored = call i32 @sched_yield()
  ret void
}

define internal void @enter(ptr %team) {
entry:
  %busyp = getelementptr i8, ptr %team, i64 BUSY
  br label %try
try:
  %pair = cmpxchg ptr %busyp, i64 0, i64 1 acq_rel monotonic, align 8
  %got = extractvalue { i64, i1 } %pair, 1
  br i1 %got, label %out, label %wait
wait:
  %ignored = call i32 @sched_yield()
  br label %try
out:
  ret void
}

define internal void @leave(ptr %team) {
  %busyp = getelementptr i8, ptr %team, i64 BUSY
  store atomic i64 0, ptr %busyp release, align 8
  ret void
}

define internal ptr @slot(ptr %team, i64 %worker) {
  %shift = mul i64 %worker, 64
  %offset = add i64 %shift, SLOTS
  %slot = getelementptr i8, ptr %team, i64 %offset
  ret ptr %slot
}

; A worker joins the team between two steps, runs its share of every job it gets a ticket for, and returns when it is
; told to quit.
define void @worker(ptr %team, i32 %reader, i32 %writer) {
entry:
  %jobp = getelementptr i8, ptr %team, i64 JOB
  %ctxp = getelementptr i8, ptr %jobp, i64 8
  %threadsp = getelementptr i8, ptr %jobp, i64 16
  %finishedp = getelementptr i8, ptr %team, i64 FINISHED
  %sizep = getelementptr i8, ptr %team, i64 SIZE
  %spinsp = getelementptr i8, ptr %team, i64 PATIENCE8
  %patiencep = getelementptr i8, ptr %team, i64 PATIENCE
  %byte = alloca i8
  call void @enter(ptr %team)
  %before = load i64, ptr %sizep, align 8
  %thread = add i64 %before, 1
  %slotp = call ptr @slot(ptr %team, i64 %thread)
  %pipep = getelementptr i8, ptr %slotp, i64 8
  %ticketp = getelementptr i8, ptr %slotp, i64 16
  %room = icmp ult i64 %thread, MOST
  br i1 %room, label %join, label %full
full:
  call void @leave(ptr %team)
  ret void
join:
  store i32 %writer, ptr %pipep, align 4
  %seen0 = load i64, ptr %ticketp, align 8
  store atomic i64 %thread, ptr %sizep release, align 8
  call void @leave(ptr %team)
  br label %spin
spin:
  %seen = phi i64 [%seen0, %join], [%seen, %again], [%seen, %sleep], [%now, %next]
  %i = phi i64 [0, %join], [%i1, %again], [0, %sleep], [0, %next]
  %now0 = load atomic i64, ptr %ticketp acquire, align 8
  %same = icmp eq i64 %now0, %seen
  br i1 %same, label %wait, label %run
wait:
  %i1 = add i64 %i, 1
  %spins = load i64, ptr %spinsp, align 8
  %tired = icmp ugt i64 %i1, %spins
  br i1 %tired, label %park, label %look
look:
  %patience = load i64, ptr %patiencep, align 8
  %crowded = icmp eq i64 %patience, 0
  br i1 %crowded, label %yield, label %breathe
breathe:
  call void @PAUSE_CALL
  br label %again
yield:
  %ignored1 = call i32 @sched_yield()
  br label %again
again:
  br label %spin
park:
  %p = atomicrmw xchg ptr %slotp, i64 1 seq_cst
  %now1 = load atomic i64, ptr %ticketp seq_cst, align 8
  %still = icmp eq i64 %now1, %seen
  br i1 %still, label %sleep, label %unpark
unpark:
  %pair = cmpxchg ptr %slotp, i64 1, i64 0 seq_cst seq_cst, align 8
  %ours = extractvalue { i64, i1 } %pair, 1
  br i1 %ours, label %run, label %sleep
sleep:
  %ignored2 = call i64 @read(i32 %reader, ptr %byte, i64 1)
  %woken = atomicrmw xchg ptr %slotp, i64 0 seq_cst
  br label %spin
run:
  %now = phi i64 [%now0, %spin], [%now1, %unpark]
  %fn = load ptr, ptr %jobp, align 8
  %ctx = load ptr, ptr %ctxp, align 8
  %threads = load i64, ptr %threadsp, align 8
  %quit = icmp eq ptr %fn, null
  br i1 %quit, label %out, label %next
next:
  call void %fn(ptr %ctx, i64 %thread, i64 %threads)
  %d = atomicrmw add ptr %finishedp, i64 1 acq_rel
  br label %spin
out:
  ret void
}

; Wake a worker, if it sleeps and nobody has rung yet.
define internal void @ring(ptr %slotp) {
entry:
  %state = load atomic i64, ptr %slotp seq_cst, align 8
  %asleep = icmp eq i64 %state, 1
  br i1 %asleep, label %try, label %out
try:
  %pair = cmpxchg ptr %slotp, i64 1, i64 2 seq_cst seq_cst, align 8
  %got = extractvalue { i64, i1 } %pair, 1
  br i1 %got, label %wake, label %out
wake:
  %pipep = getelementptr i8, ptr %slotp, i64 8
  %pipe = load i32, ptr %pipep, align 4
  %ignored = call i64 @write(i32 %pipe, ptr %slotp, i64 1)
  br label %out
out:
  ret void
}

define internal void @ring_all(ptr %team, i64 %threads) {
entry:
  br label %next
next:
  %w = phi i64 [1, %entry], [%w1, %one]
  %more = icmp ult i64 %w, %threads
  br i1 %more, label %one, label %out
one:
  %slotp = call ptr @slot(ptr %team, i64 %w)
  call void @ring(ptr %slotp)
  %w1 = add i64 %w, 1
  br label %next
out:
  ret void
}

define internal void @post(ptr %team, ptr %fn, ptr %ctx, i64 %threads) {
entry:
  %jobp = getelementptr i8, ptr %team, i64 JOB
  %ctxp = getelementptr i8, ptr %jobp, i64 8
  %threadsp = getelementptr i8, ptr %jobp, i64 16
  store ptr %fn, ptr %jobp, align 8
  store ptr %ctx, ptr %ctxp, align 8
  store i64 %threads, ptr %threadsp, align 8
  br label %next
next:
  %w = phi i64 [1, %entry], [%w1, %one]
  %more = icmp ult i64 %w, %threads
  br i1 %more, label %one, label %out
one:
  %slotp = call ptr @slot(ptr %team, i64 %w)
  %ticketp = getelementptr i8, ptr %slotp, i64 16
  %t = atomicrmw add ptr %ticketp, i64 1 seq_cst
  call void @ring(ptr %slotp)
  %w1 = add i64 %w, 1
  br label %next
out:
  ret void
}

; The caller holds the team: it does share 0, and waits for the other shares.
define internal void @together(ptr %team, ptr %fn, ptr %ctx, i64 %threads) {
entry:
  %finishedp = getelementptr i8, ptr %team, i64 FINISHED
  store atomic i64 0, ptr %finishedp release, align 8
  call void @post(ptr %team, ptr %fn, ptr %ctx, i64 %threads)
  call void %fn(ptr %ctx, i64 0, i64 %threads)
  %others = sub i64 %threads, 1
  br label %spin
spin:
  %i = phi i64 [0, %entry], [%i1, %wait]
  %finished = load atomic i64, ptr %finishedp acquire, align 8
  %all = icmp eq i64 %finished, %others
  br i1 %all, label %out, label %wait
wait:
  call void @pause(ptr %team, i64 %i)
  %i1 = add i64 %i, 1
  br label %spin
out:
  ret void
}

; The caller holds the team, of which somebody sleeps. What such a call took last time, and when it ended, is in the
; record: a short one is not worth waiting for a worker to wake.
define internal void @asleep(ptr %team, ptr %record, ptr %fn, ptr %ctx, i64 %threads) {
entry:
  %tookp = getelementptr i8, ptr %record, i64 24
  %endedp = getelementptr i8, ptr %record, i64 32
  %begin = call i64 @now()
  %took = load i64, ptr %tookp, align 8
  %less = sub i64 %took, 1
  %short = icmp ult i64 %less, SHORT_STEP
  br i1 %short, label %alone, label %wake
wake:
  call void @together(ptr %team, ptr %fn, ptr %ctx, i64 %threads)
  call void @leave(ptr %team)
  br label %out
alone:
  %ended = load i64, ptr %endedp, align 8
  %since = sub i64 %begin, %ended
  %recent = icmp ult i64 %since, RECENT
  br i1 %recent, label %ring, label %run
ring:
  call void @ring_all(ptr %team, i64 %threads)
  br label %run
run:
  call void @leave(ptr %team)
  call void %fn(ptr %ctx, i64 0, i64 1)
  br label %out
out:
  %end = call i64 @now()
  %elapsed = sub i64 %end, %begin
  store i64 %elapsed, ptr %tookp, align 8
  store i64 %end, ptr %endedp, align 8
  ret void
}

define void @quit(ptr %team) {
  %sizep = getelementptr i8, ptr %team, i64 SIZE
  call void @enter(ptr %team)
  %workers = load i64, ptr %sizep, align 8
  %threads = add i64 %workers, 1
  call void @post(ptr %team, ptr null, ptr null, i64 %threads)
  store atomic i64 0, ptr %sizep release, align 8
  call void @leave(ptr %team)
  ret void
}

define void @run_on(ptr %team, ptr %fn, ptr %ctx, i64 %threads) {
  %sizep = getelementptr i8, ptr %team, i64 SIZE
  call void @enter(ptr %team)
  %workers = load i64, ptr %sizep, align 8
  %have = add i64 %workers, 1
  %few = icmp ult i64 %have, %threads
  %share = select i1 %few, i64 %have, i64 %threads
  call void @together(ptr %team, ptr %fn, ptr %ctx, i64 %share)
  call void @leave(ptr %team)
  ret void
}

define i64 @run(ptr %record) {
entry:
  %fn = load ptr, ptr %record, align 8
  %countp = getelementptr i8, ptr %record, i64 8
  %count = load i64, ptr %countp, align 8
  %modep = getelementptr i8, ptr %record, i64 16
  %mode = load i64, ptr %modep, align 8
  %ctx = getelementptr i8, ptr %record, i64 CONTEXT
  %teamp = getelementptr i8, ptr %ctx, i64 CTX_TEAM
  %team = load ptr, ptr %teamp, align 8
  %table = getelementptr i8, ptr %ctx, i64 CTX_TABLE
  %readersp = getelementptr i8, ptr %team, i64 READERS
  %writingp = getelementptr i8, ptr %team, i64 WRITING
  switch i64 %mode, label %find [i64 1, label %read i64 2, label %write]
read:
  %r1 = atomicrmw add ptr %readersp, i64 1 seq_cst
  %writing = load atomic i64, ptr %writingp seq_cst, align 8
  %blocked = icmp ne i64 %writing, 0
  br i1 %blocked, label %refuse, label %find
refuse:
  %r2 = atomicrmw sub ptr %readersp, i64 1 seq_cst
  ret i64 1
write:
  store atomic i64 1, ptr %writingp seq_cst, align 8
  br label %readers
readers:
  %reading = load atomic i64, ptr %readersp seq_cst, align 8
  %some = icmp ne i64 %reading, 0
  br i1 %some, label %yield, label %find
yield:
  %ignored = call i32 @sched_yield()
  br label %readers
find:
  %i = phi i64 [0, %entry], [0, %read], [0, %readers], [%i1, %one]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %one, label %found
one:
  %entryp = getelementptr i64, ptr %table, i64 %i
  %object = load ptr, ptr %entryp, align 8
  %fieldp = getelementptr i8, ptr %object, i64 HEADER
  %data = load i64, ptr %fieldp, align 8
  store i64 %data, ptr %entryp, align 8
  %i1 = add i64 %i, 1
  br label %find
found:
  %sizep = getelementptr i8, ptr %team, i64 SIZE
  %workers = load atomic i64, ptr %sizep acquire, align 8
  %wantedp = getelementptr i8, ptr %sizep, i64 8
  %wanted = load i64, ptr %wantedp, align 8
  %have = add i64 %workers, 1
  %short = icmp ult i64 %have, %wanted
  %threads = select i1 %short, i64 %have, i64 %wanted
  %single = icmp ule i64 %threads, 1
  br i1 %single, label %alone, label %ask
ask:
  %busyp = getelementptr i8, ptr %team, i64 BUSY
  %pair = cmpxchg ptr %busyp, i64 0, i64 1 acq_rel monotonic, align 8
  %got = extractvalue { i64, i1 } %pair, 1
  br i1 %got, label %check, label %alone
check:
  %w = phi i64 [1, %ask], [%w1, %awake]
  %left = icmp ult i64 %w, %threads
  br i1 %left, label %who, label %all
who:
  %slotp = call ptr @slot(ptr %team, i64 %w)
  %state = load atomic i64, ptr %slotp monotonic, align 8
  %up = icmp eq i64 %state, 0
  br i1 %up, label %awake, label %asleep
awake:
  %w1 = add i64 %w, 1
  br label %check
asleep:
  call void @asleep(ptr %team, ptr %record, ptr %fn, ptr %ctx, i64 %threads)
  br label %ran
all:
  call void @together(ptr %team, ptr %fn, ptr %ctx, i64 %threads)
  call void @leave(ptr %team)
  br label %ran
alone:
  call void %fn(ptr %ctx, i64 0, i64 1)
  br label %ran
ran:
  switch i64 %mode, label %out [i64 1, label %readdone i64 2, label %writedone]
readdone:
  %r3 = atomicrmw sub ptr %readersp, i64 1 seq_cst
  br label %out
writedone:
  store atomic i64 0, ptr %writingp release, align 8
  br label %out
out:
  %result = select i1 %short, i64 2, i64 0
  ret i64 %result
}
"""


def _header() -> int:
    """Return where in a NumPy array object the pointer to its data is: right after the object's header."""
    offset = object.__basicsize__
    probe = np.zeros(3, np.uint8)
    if ctypes.c_void_p.from_address(id(probe) + offset).value != probe.ctypes.data:
        raise ImportError("this Python and NumPy lay arrays out in a way Smelt does not know")
    return offset


@functools.cache
def library() -> jit.Library:
    """Return the linked functions: ``worker``, ``run``, ``run_on`` and ``quit``."""
    isa = host()
    if isa.triple.startswith("x86_64"):
        function = call = "llvm.x86.sse2.pause()"
    else:
        function, call = "llvm.aarch64.hint(i32)", "llvm.aarch64.hint(i32 1)"
    text = _TEXT.replace("PAUSE_FUNCTION", function).replace("PAUSE_CALL", call)
    numbers = {"CTX_TEAM": CTX_TEAM, "CTX_TABLE": CTX_TABLE, "CONTEXT": CONTEXT, "HEADER": _header()}
    numbers |= {"MOST": MAX_THREADS, "SHORT_STEP": SHORT_STEP, "RECENT": RECENT, "CLOCK_ID": time.CLOCK_MONOTONIC}
    numbers |= {"PATIENCE8": PATIENCE + 8, "PATIENCE": PATIENCE}
    for name, number in (numbers | OFFSETS).items():
        text = text.replace(name, str(number))
    text = f'target triple = "{isa.triple}"\n{text}'
    key = jit.key_of(text, isa)
    image = jit.read_cache(key)
    if image is None:
        image = jit.compile_object(text, isa)
        jit.write_cache(key, image)
    return jit.Library(image, ("worker", "run", "run_on", "quit"))
