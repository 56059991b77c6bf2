"""Write the function that takes a few rows of a batch through several kernels, then the next.

In: a run of :mod:`smelt.compiler.passes.rows`. Out: LLVM text of ``rowsN(ctx, arena, own, low, high, sums)``, which
does rows ``low`` to ``high``, or the slices of the batch with these numbers. At ``own`` are the thread's own places.
"""

from __future__ import annotations

from collections.abc import Sequence

from smelt.compiler.emit.stamps import clock_after, clock_before
from smelt.compiler.emit.turns import Calls, Pointer, addresses
from smelt.compiler.loops import Kernel


def emit_rows(
    name: str,
    run: Sequence[Kernel],
    slices: int,
    turn: int,
    calls: Calls,
    pointer: Pointer,
    counter: str = "",
) -> str:
    """Return the function, for ``turn`` rows at a time or, where there are ``slices``, so many of these.

    With a ``counter`` of cycles, it adds each kernel's to ``sums``.
    """
    lines = [
        f"define internal void @{name}(ptr %ctx, ptr %arena, ptr %own, i64 %low, i64 %high, ptr %sums) {{",
        "entry:",
        "  %n = load i64, ptr %ctx, align 8",
    ]
    own = dict.fromkeys(b for k in run for b in calls[k.name][1] if b.turn)
    names = {b: f"%own{i}" for i, b in enumerate(own)}
    pointers, arguments = addresses(run, calls, pointer, names)
    lines += pointers
    lines += [
        "  br label %next",
        "next:",
        f"  %at = phi i64 [%low, %entry], [%after, %done{len(run) - 1}]",
        "  %left = icmp slt i64 %at, %high",
        "  br i1 %left, label %turn, label %out",
        "turn:",
        f"  %further = add i64 %at, {turn}",
        "  %after = call i64 @llvm.smin.i64(i64 %further, i64 %high)",
    ]
    if slices:
        lines += [
            "  %first = mul i64 %n, %at",
            f"  %lo = sdiv i64 %first, {slices}",
            "  %last = mul i64 %n, %after",
            f"  %hi = sdiv i64 %last, {slices}",
        ]
    else:
        lines += ["  %lo = add i64 %at, 0", "  %hi = add i64 %after, 0"]
    for buffer, name in names.items():
        lines += [
            f"  {name}.first = mul i64 %lo, {-buffer.row_bytes}",
            f"  {name}.back = add i64 {name}.first, {buffer.offset}",
            f"  {name} = getelementptr i8, ptr %own, i64 {name}.back",
        ]
    for i, kernel in enumerate(run):
        function, _ = calls[kernel.name]
        low, high = "%lo", "%hi"
        if not kernel.range.rows:
            each = kernel.range.const // slices
            low, high = f"%lo{i}", f"%hi{i}"
            lines += [f"  {low} = mul i64 %at, {each}", f"  {high} = mul i64 %after, {each}"]
        lines += [
            *clock_before(str(i), counter),
            f"  %some{i} = icmp slt i64 {low}, {high}",
            f"  br i1 %some{i}, label %do{i}, label %done{i}",
            f"do{i}:",
            f"  call void @{function}(ptr %ctx, i64 {low}, i64 {high}{arguments[i]})",
            f"  br label %done{i}",
            f"done{i}:",
            *clock_after(str(i), f"i64 {i}", counter),
        ]
    return "\n".join([*lines, "  br label %next", "out:", "  ret void", "}"])
