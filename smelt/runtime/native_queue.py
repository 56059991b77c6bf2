"""LLVM text of the queue: steps that are under way, run share by share by whichever threads have time.

In: the words in capitals, replaced by :mod:`smelt.runtime.native`. Out: ``submit``, ``wait``, and the ``help`` that
workers give.

At most two steps are in the queue: the one under way and the next. Each has three cache lines. The first holds one word
that says everything about who does what: the number of the step (32 bits), its present phase (16), and which shares of
that have been taken (16). A thread takes a share by changing the word from what it read; so whatever else it read about
the step was of this very step. The thread that ends the last share of a phase opens the next. A thread that comes late
begins with the present phase.
"""

TEXT = """
define internal ptr @ahead(ptr %team, i64 %number) {
  %which = and i64 %number, 1
  %shift = mul i64 %which, 192
  %offset = add i64 %shift, AHEAD
  %p = getelementptr i8, ptr %team, i64 %offset
  ret ptr %p
}

; Do shares of the steps in the queue until so many steps have ended, or none is left.
define internal void @help(ptr %team, i64 %me, i64 %until) {
entry:
FLUSH_DENORMALS
  %headp = getelementptr i8, ptr %team, i64 HEAD
  %tailp = getelementptr i8, ptr %team, i64 TAIL
  br label %fresh
fresh:
  br label %loop
loop:
  %looks = phi i64 [0, %fresh], [%looks1, %wait]
  %head = load atomic i64, ptr %headp acquire, align 8
  %reached = icmp uge i64 %head, %until
  br i1 %reached, label %out, label %any
any:
  %tail = load atomic i64, ptr %tailp acquire, align 8
  %none = icmp eq i64 %head, %tail
  br i1 %none, label %out, label %read
read:
  %stepp = call ptr @ahead(ptr %team, i64 %head)
  %word = load atomic i64, ptr %stepp acquire, align 8
  %donep = getelementptr i8, ptr %stepp, i64 64
  %fnp = getelementptr i8, ptr %stepp, i64 128
  %ctxp = getelementptr i8, ptr %stepp, i64 136
  %threadsp = getelementptr i8, ptr %stepp, i64 144
  %phasesp = getelementptr i8, ptr %stepp, i64 152
  %fn = load atomic ptr, ptr %fnp monotonic, align 8
  %ctx = load atomic ptr, ptr %ctxp monotonic, align 8
  %threads = load atomic i64, ptr %threadsp monotonic, align 8
  %phases = load atomic i64, ptr %phasesp monotonic, align 8
  %tag = lshr i64 %word, 32
  %low = and i64 %head, 4294967295
  %mine = icmp eq i64 %tag, %low
  %phase0 = lshr i64 %word, 16
  %phase = and i64 %phase0, 65535
  %open = icmp ult i64 %phase, %phases
  %fits = icmp ule i64 %threads, MOST_AHEAD
  %good0 = and i1 %mine, %open
  %good = and i1 %good0, %fits
  br i1 %good, label %choose, label %wait
choose:
  %every0 = shl i64 1, %threads
  %every = sub i64 %every0, 1
  %not = xor i64 %word, -1
  %free = and i64 %every, %not
  %full = icmp eq i64 %free, 0
  br i1 %full, label %wait, label %which
which:
  %own0 = lshr i64 %free, %me
  %own1 = and i64 %own0, 1
  %own = icmp eq i64 %own1, 1
  %first = call i64 @llvm.cttz.i64(i64 %free, i1 false)
  %share = select i1 %own, i64 %me, i64 %first
  %bit = shl i64 1, %share
  %taken = or i64 %word, %bit
  %pair = cmpxchg ptr %stepp, i64 %word, i64 %taken acq_rel monotonic, align 8
  %got = extractvalue { i64, i1 } %pair, 1
  br i1 %got, label %work, label %fresh
work:
  call void %fn(ptr %ctx, i64 %phase, i64 %share, i64 %threads)
  %done0 = atomicrmw add ptr %donep, i64 1 acq_rel
  %done = add i64 %done0, 1
  %next = add i64 %phase, 1
  %all = mul i64 %next, %threads
  %last = icmp eq i64 %done, %all
  br i1 %last, label %turn, label %fresh
turn:
  %ended = icmp eq i64 %next, %phases
  br i1 %ended, label %finish, label %advance
advance:
  %high = shl i64 %tag, 32
  %middle = shl i64 %next, 16
  %after = or i64 %high, %middle
  store atomic i64 %after, ptr %stepp release, align 8
  br label %fresh
finish:
  %writingp = getelementptr i8, ptr %team, i64 WRITING
  %w = atomicrmw sub ptr %writingp, i64 1 acq_rel
  %busyp = getelementptr i8, ptr %team, i64 BUSY
  %b = atomicrmw sub ptr %busyp, i64 2 acq_rel
  %later = add i64 %head, 1
  store atomic i64 %later, ptr %headp release, align 8
  br label %fresh
wait:
  call void @pause(ptr %team, i64 %looks)
  %looks1 = add i64 %looks, 1
  br label %loop
out:
KEEP_DENORMALS
  ret void
}

define void @wait(ptr %team, i64 %until) {
  call void @help(ptr %team, i64 0, i64 %until)
  ret void
}

; Put a step into the queue, which has room, and tell the workers. Returns its number, counted from 1, or 0 when there
; are not enough threads, or too many; then nothing has happened. One thread at a time submits.
define i64 @submit(ptr %record) {
entry:
  %ctx = getelementptr i8, ptr %record, i64 CONTEXT
  %teamp = getelementptr i8, ptr %ctx, i64 CTX_TEAM
  %team = load ptr, ptr %teamp, align 8
  %sizep = getelementptr i8, ptr %team, i64 SIZE
  %workers = load atomic i64, ptr %sizep acquire, align 8
  %wantedp = getelementptr i8, ptr %sizep, i64 8
  %wanted = load i64, ptr %wantedp, align 8
  %have = add i64 %workers, 1
  %short = icmp ult i64 %have, %wanted
  %single = icmp ult i64 %wanted, 2
  %many = icmp ugt i64 %wanted, MOST_AHEAD
  %refused0 = or i1 %short, %single
  %refused = or i1 %refused0, %many
  br i1 %refused, label %refuse, label %accept
refuse:
  ret i64 0
accept:
  %countp = getelementptr i8, ptr %record, i64 8
  %count = load i64, ptr %countp, align 8
  %table = getelementptr i8, ptr %ctx, i64 CTX_TABLE
  call void @find(ptr %table, i64 %count)
  %busyp = getelementptr i8, ptr %team, i64 BUSY
  br label %take
take:
  %busy = load atomic i64, ptr %busyp monotonic, align 8
  %odd0 = and i64 %busy, 1
  %odd = icmp eq i64 %odd0, 1
  br i1 %odd, label %later, label %try
later:
  %ignored1 = call i32 @sched_yield()
  br label %take
try:
  %more = add i64 %busy, 2
  %pair = cmpxchg ptr %busyp, i64 %busy, i64 %more acq_rel monotonic, align 8
  %got = extractvalue { i64, i1 } %pair, 1
  br i1 %got, label %write, label %take
write:
  %writingp = getelementptr i8, ptr %team, i64 WRITING
  %readersp = getelementptr i8, ptr %team, i64 READERS
  %w = atomicrmw add ptr %writingp, i64 1 seq_cst
  br label %readers
readers:
  %reading = load atomic i64, ptr %readersp seq_cst, align 8
  %some = icmp ne i64 %reading, 0
  br i1 %some, label %yield, label %put
yield:
  %ignored2 = call i32 @sched_yield()
  br label %readers
put:
  %tailp = getelementptr i8, ptr %team, i64 TAIL
  %number = load i64, ptr %tailp, align 8
  %stepp = call ptr @ahead(ptr %team, i64 %number)
  %tag = shl i64 %number, 32
  %shut = or i64 %tag, 4294901760
  store atomic i64 %shut, ptr %stepp seq_cst, align 8
  %donep = getelementptr i8, ptr %stepp, i64 64
  store atomic i64 0, ptr %donep monotonic, align 8
  %fnsrc = getelementptr i8, ptr %record, i64 48
  %fn = load ptr, ptr %fnsrc, align 8
  %phasessrc = getelementptr i8, ptr %record, i64 40
  %phases = load i64, ptr %phasessrc, align 8
  %fnp = getelementptr i8, ptr %stepp, i64 128
  %ctxp = getelementptr i8, ptr %stepp, i64 136
  %threadsp = getelementptr i8, ptr %stepp, i64 144
  %phasesp = getelementptr i8, ptr %stepp, i64 152
  store atomic ptr %fn, ptr %fnp monotonic, align 8
  store atomic ptr %ctx, ptr %ctxp monotonic, align 8
  store atomic i64 %wanted, ptr %threadsp monotonic, align 8
  store atomic i64 %phases, ptr %phasesp monotonic, align 8
  store atomic i64 %tag, ptr %stepp release, align 8
  %after = add i64 %number, 1
  store atomic i64 %after, ptr %tailp seq_cst, align 8
  br label %next
next:
  %i = phi i64 [1, %put], [%i1, %one]
  %left = icmp ult i64 %i, %wanted
  br i1 %left, label %one, label %out
one:
  %slotp = call ptr @slot(ptr %team, i64 %i)
  %lookp = getelementptr i8, ptr %slotp, i64 24
  %l = atomicrmw add ptr %lookp, i64 1 seq_cst
  call void @ring(ptr %slotp)
  %i1 = add i64 %i, 1
  br label %next
out:
  ret i64 %after
}

declare i64 @llvm.cttz.i64(i64, i1)
"""
