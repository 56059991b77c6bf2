"""Write the function that runs kernels which take turns on one image.

In: a run of :mod:`smelt.compiler.passes.bands`. Out: LLVM text of a table of turns, for each number of threads, and of
``turnsN(ctx, arena, thread, threads, half)``, which does a thread's turns of one half. What is known beforehand is in
the table, for the code would be as long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from smelt.compiler.emit.stamps import clock_after, clock_before
from smelt.compiler.loops import Buffer, Kernel
from smelt.compiler.passes.bands import turns

Calls = Mapping[str, tuple[str, Sequence[Buffer]]]
MOST = 16  # threads that share a run; others wait
Pointer = Callable[[str, Buffer], list[str]]


def emit_turns(
    number: int,
    run: Sequence[Kernel],
    calls: Mapping[str, tuple[str, Sequence[Buffer]]],
    pointer: Pointer,
    counter: str = "",
) -> str:
    """Return the table and the function; with a ``counter`` of cycles, it adds each kernel's to ``sums``."""
    index = {k: i for i, k in enumerate(run)}
    table: list[tuple[int, int, int]] = []
    starts = [0]
    for threads in range(1, MOST + 1):
        for halves in turns(run, threads):
            for half in halves:
                table += [(index[k], low, high) for k, low, high in half]
                starts.append(len(table))
    entries = ", ".join(f"i32 {n}" for entry in table for n in entry)
    lines = [
        f"@turns{number}.table = private constant [{3 * len(table)} x i32] [{entries}]",
        f"@turns{number}.starts = private constant [{len(starts)} x i32] [{', '.join(f'i32 {s}' for s in starts)}]",
        "",
        f"define internal void @turns{number}(ptr %ctx, ptr %arena, i64 %thread, i64 %all, i64 %half, ptr %sums) {{",
        "entry:",
        f"  %many = icmp sgt i64 %all, {MOST}",
        f"  %threads = select i1 %many, i64 {MOST}, i64 %all",
        "  %idle = icmp sge i64 %thread, %threads",
        "  br i1 %idle, label %out, label %begin",
        "begin:",
        "  %less = sub i64 %threads, 1",
        "  %product = mul i64 %threads, %less",
        "  %before = lshr i64 %product, 1",
        "  %row = add i64 %before, %thread",
        "  %rows = shl i64 %row, 1",
        "  %at = add i64 %rows, %half",
        f"  %startp = getelementptr i32, ptr @turns{number}.starts, i64 %at",
        "  %start = load i32, ptr %startp, align 4",
        "  %endp = getelementptr i32, ptr %startp, i64 1",
        "  %end = load i32, ptr %endp, align 4",
    ]
    pointers, arguments = addresses(run, calls, pointer)
    lines += pointers
    cases = " ".join(f"i32 {i}, label %kernel{i}" for i in range(len(run)))
    lines += [
        "  br label %next",
        "next:",
        "  %turn = phi i32 [%start, %begin], [%following, %done]",
        "  %left = icmp slt i32 %turn, %end",
        "  br i1 %left, label %do, label %out",
        "do:",
        "  %first = mul i32 %turn, 3",
        f"  %kernelp = getelementptr i32, ptr @turns{number}.table, i32 %first",
        "  %kernel = load i32, ptr %kernelp, align 4",
        "  %lowp = getelementptr i32, ptr %kernelp, i64 1",
        "  %low32 = load i32, ptr %lowp, align 4",
        "  %highp = getelementptr i32, ptr %kernelp, i64 2",
        "  %high32 = load i32, ptr %highp, align 4",
        "  %low = sext i32 %low32 to i64",
        "  %high = sext i32 %high32 to i64",
        *clock_before("", counter),
        f"  switch i32 %kernel, label %done [{cases}]",
    ]
    for i, kernel in enumerate(run):
        function, _ = calls[kernel.name]
        call = f"  call void @{function}(ptr %ctx, i64 %low, i64 %high{arguments[i]})"
        lines += [f"kernel{i}:", call, "  br label %done"]
    lines.append("done:")
    lines += clock_after("", "i32 %kernel", counter)
    lines += ["  %following = add i32 %turn, 1", "  br label %next", "out:", "  ret void", "}"]
    return "\n".join(lines)


def addresses(
    run: Sequence[Kernel], calls: Calls, pointer: Pointer, known: Mapping[Buffer, str] | None = None
) -> tuple[list[str], list[str]]:
    """Return the lines that make the addresses of all buffers, and for each kernel the arguments to pass them.

    Those that are ``known`` by a name already need no lines.
    """
    lines, arguments = [], []
    for i, kernel in enumerate(run):
        _, buffers = calls[kernel.name]
        names = [(known or {}).get(b) or f"%b{i}.{j}" for j, b in enumerate(buffers)]
        for name, buffer in zip(names, buffers, strict=True):
            lines += pointer(name, buffer) if not known or buffer not in known else []
        arguments.append("".join(f", ptr {n}" for n in names))
    return lines, arguments
