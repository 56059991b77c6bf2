"""Write the function that takes a few rows of a batch through several kernels, then the next.

In: a run of :mod:`smelt.compiler.passes.rows`. Out: LLVM text of ``rowsN(ctx, arena, low, high, sums)``, which does
rows ``low`` to ``high``, or the slices of the batch with these numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from smelt.compiler.loops import Buffer, Kernel

Pointer = Callable[[str, Buffer], list[str]]


def emit_rows(
    name: str,
    run: Sequence[Kernel],
    slices: int,
    turn: int,
    calls: Mapping[str, tuple[str, Sequence[Buffer]]],
    pointer: Pointer,
    counter: str = "",
) -> str:
    """Return the function, for ``turn`` rows at a time or, where there are ``slices``, one of them.

    With a ``counter`` of cycles, it adds each kernel's to ``sums``.
    """
    lines = [
        f"define internal void @{name}(ptr %ctx, ptr %arena, i64 %low, i64 %high, ptr %sums) {{",
        "entry:",
        "  %n = load i64, ptr %ctx, align 8",
    ]
    arguments = []
    for i, kernel in enumerate(run):
        _, buffers = calls[kernel.name]
        names = [f"%b{i}.{j}" for j in range(len(buffers))]
        for one, buffer in zip(names, buffers, strict=True):
            lines += pointer(one, buffer)
        arguments.append("".join(f", ptr {n}" for n in names))
    step = 1 if slices else turn
    lines += [
        "  br label %next",
        "next:",
        f"  %at = phi i64 [%low, %entry], [%after, %done{len(run) - 1}]",
        "  %left = icmp slt i64 %at, %high",
        "  br i1 %left, label %turn, label %out",
        "turn:",
        f"  %after = add i64 %at, {step}",
    ]
    if slices:
        lines += [
            "  %first = mul i64 %n, %at",
            f"  %lo = sdiv i64 %first, {slices}",
            "  %last = mul i64 %n, %after",
            f"  %hi = sdiv i64 %last, {slices}",
        ]
    else:
        lines += [
            "  %lo = add i64 %at, 0",
            "  %beyond = icmp sgt i64 %after, %high",
            "  %hi = select i1 %beyond, i64 %high, i64 %after",
        ]
    for i, kernel in enumerate(run):
        function, _ = calls[kernel.name]
        low, high = "%lo", "%hi"
        if not kernel.range.rows:
            each = kernel.range.const // slices
            low, high = f"%lo{i}", f"%hi{i}"
            lines += [f"  {low} = mul i64 %at, {each}", f"  {high} = mul i64 %after, {each}"]
        lines += [f"  %clock{i} = call i64 {counter}()"] if counter else []
        lines += [
            f"  %some{i} = icmp slt i64 {low}, {high}",
            f"  br i1 %some{i}, label %do{i}, label %done{i}",
            f"do{i}:",
            f"  call void @{function}(ptr %ctx, i64 {low}, i64 {high}{arguments[i]})",
            f"  br label %done{i}",
            f"done{i}:",
        ]
        if counter:
            lines += [
                f"  %now{i} = call i64 {counter}()",
                f"  %took{i} = sub i64 %now{i}, %clock{i}",
                f"  %sum{i} = getelementptr i64, ptr %sums, i64 {i}",
                f"  %sofar{i} = load i64, ptr %sum{i}, align 8",
                f"  %longer{i} = add i64 %sofar{i}, %took{i}",
                f"  store i64 %longer{i}, ptr %sum{i}, align 8",
            ]
    return "\n".join([*lines, "  br label %next", "out:", "  ret void", "}"])
