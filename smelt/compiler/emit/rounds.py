"""Write the functions that take a batch through a step in rounds, each with a context of its own.

In: how many phases there are for all rounds but the last, for each of these, and for the last; the function ``part``
that runs one.
Out: LLVM text of ``phase(ctx, number, thread, threads)``, which knows the phases of all rounds by one number, and of
``step``, which runs them in order. A round's context says how many rows it has; the inputs begin with its first one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smelt.compiler.emit.llvm import CTX_BATCH, CTX_FIRST, CTX_TABLE, CTX_TEAM
from smelt.compiler.emit.stamps import Clock, add_time
from smelt.compiler.loops import Kernel
from smelt.compiler.passes.rounds import GRAIN

Lines = Sequence[str]


@dataclass(frozen=True)
class InRounds:
    """A step in rounds.

    ``phases`` counts those for all rounds but the last, which are ``once``, those of each of these, which are
    ``before`` and follow, and those of the last; with one round there is only that. ``steps`` says by how many bytes
    the first pointers of the table, of ``slots``, go on from one row to the next.
    """

    phases: int
    once: int
    before: int
    capacity: int
    slots: int
    steps: Sequence[int]


def emit_phase_of(r: InRounds) -> list[str]:
    """Return ``phase``, and what it and ``step`` ask: how many rounds there are, and where a phase is in its round."""
    size = CTX_TABLE + 8 * r.slots
    rounds = [
        "define internal i64 @rounds(ptr %ctx) {",
        "  %rows = load i64, ptr %ctx, align 8",
        f"  %up = add i64 %rows, {r.capacity - 1}",
        f"  %whole = sdiv i64 %up, {r.capacity}",
        "  %rounds = call i64 @llvm.smax.i64(i64 %whole, i64 1)",
        "  ret i64 %rounds",
        "}",
    ]
    round_of = [
        "define internal i64 @round(i64 %number, i64 %rounds) {",
        f"  %behind = sub i64 %number, {r.once}",
        "  %some = call i64 @llvm.smax.i64(i64 %behind, i64 0)",
        f"  %passed = sdiv i64 %some, {r.before}",
        "  %least = sub i64 %rounds, 1",
        "  %round = call i64 @llvm.smin.i64(i64 %passed, i64 %least)",
        "  ret i64 %round",
        "}",
    ]
    place = [
        "define internal i64 @place(i64 %number, i64 %round, i64 %rounds) {",
        f"  %done = mul i64 %round, {r.before}",
        "  %left = sub i64 %number, %done",
        "  %next = add i64 %round, 1",
        "  %more = icmp slt i64 %next, %rounds",
        f"  %others = select i1 %more, i64 0, i64 {r.before}",
        "  %one = icmp eq i64 %rounds, 1",
        f"  %early = select i1 %one, i64 {r.once}, i64 0",
        "  %skipped = add i64 %others, %early",
        "  %at = add i64 %left, %skipped",
        "  ret i64 %at",
        "}",
    ]
    phase = [
        "define void @phase(ptr %ctx, i64 %number, i64 %thread, i64 %threads) {",
        f"  %mine = alloca [{size} x i8], align 64",
        f"  call void @llvm.memcpy.p0.p0.i64(ptr %mine, ptr %ctx, i64 {size}, i1 false)",
        "  %rounds = call i64 @rounds(ptr %ctx)",
        "  %round = call i64 @round(i64 %number, i64 %rounds)",
        "  %at = call i64 @place(i64 %number, i64 %round, i64 %rounds)",
        "  %rows = load i64, ptr %ctx, align 8",
        f"  %up = add i64 %rows, {GRAIN - 1}",
        f"  %grains = sdiv i64 %up, {GRAIN}",
        "  %next = add i64 %round, 1",
        "  %first = call i64 @share(i64 %grains, i64 %round, i64 %rounds)",
        "  %last = call i64 @share(i64 %grains, i64 %next, i64 %rounds)",
        f"  %start = mul i64 %first, {GRAIN}",
        f"  %most = mul i64 %last, {GRAIN}",
        "  %end = call i64 @llvm.smin.i64(i64 %most, i64 %rows)",
        "  %count = sub i64 %end, %start",
        "  store i64 %count, ptr %mine, align 8",
        f"  %batchslot = getelementptr i8, ptr %mine, i64 {CTX_BATCH}",
        "  store i64 %rows, ptr %batchslot, align 8",
        f"  %firstslot = getelementptr i8, ptr %mine, i64 {CTX_FIRST}",
        "  store i64 %start, ptr %firstslot, align 8",
    ]
    phase += [*advance(r.steps), "  call void @part(ptr %mine, i64 %at, i64 %thread, i64 %threads)", "  ret void", "}"]
    return ["\n".join(lines) for lines in (rounds, round_of, place, phase)]


def advance(steps: Sequence[int]) -> list[str]:
    """Return the lines that let the first pointers of ``mine``, a copy of ``ctx``, begin with the row ``start``."""
    lines = []
    for i, step in enumerate(steps):
        if step:
            at = CTX_TABLE + 8 * i
            lines += [
                f"  %theirs{i} = getelementptr i8, ptr %ctx, i64 {at}",
                f"  %first{i} = load ptr, ptr %theirs{i}, align 8",
                f"  %skip{i} = mul i64 %start, {step}",
                f"  %here{i} = getelementptr i8, ptr %first{i}, i64 %skip{i}",
                f"  %slot{i} = getelementptr i8, ptr %mine, i64 {at}",
                f"  store ptr %here{i}, ptr %slot{i}, align 8",
            ]
    return lines


def emit_rounds(r: InRounds, flush: tuple[Lines, Lines]) -> str:
    """Return ``step``; denormals count as zero between the two parts of ``flush``."""
    return _step(r, flush, [], ["  call void @barrier(ptr %team, i64 %threads)"], [])


def emit_stamped_rounds(
    r: InRounds, phases: Sequence[Sequence[Kernel]], counter: str, flush: tuple[Lines, Lines]
) -> str:
    """Return ``step`` that writes stamps: as far apart as all rounds of a kernel, or of a barrier, took together."""
    slots, slot = [], 0
    for phase in phases:
        slot += len(phase) + 1
        slots.append(slot)
    clock = Clock(counter, slots[-1] - 1)
    begin = [*clock.begin(), f"  %begun = call i64 {counter}()", "  store i64 %begun, ptr %mystamps, align 8"]
    wait = [
        "  %round = call i64 @round(i64 %number, i64 %rounds)",
        "  %at = call i64 @place(i64 %number, i64 %round, i64 %rounds)",
        "  %slotp = getelementptr i64, ptr @slots, i64 %at",
        "  %slot = load i64, ptr %slotp, align 8",
        f"  %start = call i64 {counter}()",
        "  call void @barrier(ptr %team, i64 %threads)",
        f"  %end = call i64 {counter}()",
        *add_time("", "%mystamps", "i64 %slot", "%start", "%end"),
    ]
    table = f"@slots = private constant [{len(slots)} x i64] [{', '.join(f'i64 {s}' for s in slots)}]"
    return table + "\n\n" + _step(r, flush, begin, wait, clock.end())


def _step(r: InRounds, flush: tuple[Lines, Lines], begin: Lines, wait: Lines, end: Lines) -> str:
    return "\n".join(
        [
            "define void @step(ptr %ctx, i64 %thread, i64 %threads) {",
            "entry:",
            f"  %teamslot = getelementptr i8, ptr %ctx, i64 {CTX_TEAM}",
            "  %team = load ptr, ptr %teamslot, align 8",
            *flush[0],
            *begin,
            "  %rounds = call i64 @rounds(ptr %ctx)",
            "  %others = sub i64 %rounds, 1",
            f"  %theirs = mul i64 %others, {r.before}",
            "  %several = icmp sgt i64 %rounds, 1",
            f"  %own = select i1 %several, i64 {r.phases - r.before}, i64 {r.phases - r.before - r.once}",
            "  %phases = add i64 %theirs, %own",
            "  br label %next",
            "next:",
            "  %number = phi i64 [0, %entry], [%later, %wait]",
            "  call void @phase(ptr %ctx, i64 %number, i64 %thread, i64 %threads)",
            "  %later = add i64 %number, 1",
            "  %more = icmp slt i64 %later, %phases",
            "  br i1 %more, label %wait, label %out",
            "wait:",
            *wait,
            "  br label %next",
            "out:",
            *end,
            *flush[1],
            "  ret void",
            "}",
        ]
    )
