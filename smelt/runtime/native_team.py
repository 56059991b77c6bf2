"""LLVM text of the team: workers that spin, then sleep, and the call that runs a step on all of them at once.

In: the words in capitals, replaced by :mod:`smelt.runtime.native`. Out: ``worker``, ``run``, ``run_on`` and ``quit``.
"""

TEXT = """
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
  PAUSE
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
  %seen = alloca i64
  %looked = alloca i64
  call void @enter(ptr %team)
  %before = load i64, ptr %sizep, align 8
  %thread = add i64 %before, 1
  %slotp = call ptr @slot(ptr %team, i64 %thread)
  %pipep = getelementptr i8, ptr %slotp, i64 8
  %ticketp = getelementptr i8, ptr %slotp, i64 16
  %lookp = getelementptr i8, ptr %slotp, i64 24
  %room = icmp ult i64 %thread, MOST
  br i1 %room, label %join, label %full
full:
  call void @leave(ptr %team)
  ret void
join:
  store i32 %writer, ptr %pipep, align 4
  %seen0 = load i64, ptr %ticketp, align 8
  store i64 %seen0, ptr %seen
  %looked0 = load i64, ptr %lookp, align 8
  store i64 %looked0, ptr %looked
  store atomic i64 %thread, ptr %sizep release, align 8
  call void @leave(ptr %team)
  br label %fresh
fresh:
  br label %spin
spin:
  %i = phi i64 [0, %fresh], [%i1, %again]
  %old = load i64, ptr %seen
  %now0 = load atomic i64, ptr %ticketp acquire, align 8
  %same = icmp eq i64 %now0, %old
  br i1 %same, label %also, label %run
also:
  %oldlook = load i64, ptr %looked
  %look0 = load atomic i64, ptr %lookp acquire, align 8
  %quiet = icmp eq i64 %look0, %oldlook
  br i1 %quiet, label %wait, label %help
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
  PAUSE
  br label %again
yield:
  %ignored1 = call i32 @sched_yield()
  br label %again
again:
  br label %spin
park:
  %p = atomicrmw xchg ptr %slotp, i64 1 seq_cst
  %now1 = load atomic i64, ptr %ticketp seq_cst, align 8
  %look1 = load atomic i64, ptr %lookp seq_cst, align 8
  %same1 = icmp eq i64 %now1, %old
  %quiet1 = icmp eq i64 %look1, %oldlook
  %still = and i1 %same1, %quiet1
  br i1 %still, label %sleep, label %unpark
unpark:
  %pair = cmpxchg ptr %slotp, i64 1, i64 0 seq_cst seq_cst, align 8
  %ours = extractvalue { i64, i1 } %pair, 1
  br i1 %ours, label %fresh, label %sleep
sleep:
  %ignored2 = call i64 @read(i32 %reader, ptr %byte, i64 1)
  %woken = atomicrmw xchg ptr %slotp, i64 0 seq_cst
  br label %fresh
run:
  store i64 %now0, ptr %seen
  %fn = load ptr, ptr %jobp, align 8
  %ctx = load ptr, ptr %ctxp, align 8
  %threads = load i64, ptr %threadsp, align 8
  %quit = icmp eq ptr %fn, null
  br i1 %quit, label %out, label %share
share:
  call void %fn(ptr %ctx, i64 %thread, i64 %threads)
  %d = atomicrmw add ptr %finishedp, i64 1 acq_rel
  br label %fresh
help:
  store i64 %look0, ptr %looked
  call void @help(ptr %team, i64 %thread, i64 -1)
  br label %fresh
out:
  ret void
}

; Put the addresses of arrays' data where those of their objects are.
define internal void @find(ptr %table, i64 %count) {
entry:
  br label %next
next:
  %i = phi i64 [0, %entry], [%i1, %one]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %one, label %out
one:
  %entryp = getelementptr i64, ptr %table, i64 %i
  %object = load ptr, ptr %entryp, align 8
  %fieldp = getelementptr i8, ptr %object, i64 HEADER
  %data = load i64, ptr %fieldp, align 8
  store i64 %data, ptr %entryp, align 8
  %i1 = add i64 %i, 1
  br label %next
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
  %quick = icmp ult i64 %less, SHORT_STEP
  %alwaysp = getelementptr i8, ptr %record, i64 56
  %always = load i64, ptr %alwaysp, align 8
  %may = icmp eq i64 %always, 0
  %short = and i1 %quick, %may
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
  call void @find(ptr %table, i64 %count)
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
