"""The barrier between two phases: every thread arrives, and none goes on before the last has.

Out: LLVM text of ``barrier(team, threads)``, which the step calls; in its ``PAUSE`` goes the processor's own.
"""

from __future__ import annotations

from collections.abc import Callable

BARRIER_PATIENCE = 72
# Arrivals at +0; generation at +64 (a cache line of its own), and beside it how often a waiting thread looks before it
# yields the processor between looks, so that more threads than processors cannot stall each other.
_TEXT = """define internal void @barrier(ptr %team, i64 %threads) {
entry:
  %single = icmp eq i64 %threads, 1
  br i1 %single, label %done, label %arrive
arrive:
  %turn = getelementptr i8, ptr %team, i64 64
  %patiencep = getelementptr i8, ptr %team, i64 PATIENCE
  %patience = load i64, ptr %patiencep, align 8
  %before = load atomic i64, ptr %turn acquire, align 8
  %arrived = atomicrmw add ptr %team, i64 1 acq_rel
  %others = sub i64 %threads, 1
  %last = icmp eq i64 %arrived, %others
  br i1 %last, label %open, label %spin
open:
  store atomic i64 0, ptr %team monotonic, align 8
  %after = add i64 %before, 1
  store atomic i64 %after, ptr %turn release, align 8
  br label %done
spin:
  %round = phi i64 [0, %arrive], [%round.next, %again]
  %now = load atomic i64, ptr %turn acquire, align 8
  %same = icmp eq i64 %now, %before
  br i1 %same, label %wait, label %done
wait:
  %round.next = add i64 %round, 1
  %long = icmp uge i64 %round, %patience
  br i1 %long, label %yield, label %breathe
yield:
  %ignored = call i32 @sched_yield()
  br label %again
breathe:
  PAUSE
  br label %again
again:
  br label %spin
done:
  ret void
}""".replace("PATIENCE", str(BARRIER_PATIENCE))


def emit_barrier(triple: str, declare: Callable[[str], None]) -> str:
    """Return the function for a processor; what it calls is declared."""
    declare("i32 @sched_yield()")
    pause = ""
    if triple.startswith("x86_64"):
        declare("void @llvm.x86.sse2.pause()")
        pause = "call void @llvm.x86.sse2.pause()"
    elif triple.startswith(("aarch64", "arm64")):
        declare("void @llvm.aarch64.hint(i32)")
        pause = "call void @llvm.aarch64.hint(i32 1)"
    return _TEXT.replace("PAUSE", pause)
