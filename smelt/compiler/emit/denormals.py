"""Lines of LLVM text that decide whether denormals count as zero in the thread that runs them.

In: a processor. Out: lines that set the mode, and lines that put the old one back.
"""

from __future__ import annotations

from collections.abc import Callable

_FTZ_DAZ = 0x8040  # bits of x86's MXCSR
_FZ = 1 << 24  # bit of AArch64's FPCR


def denormals(triple: str, declare: Callable[[str], None], flush: bool) -> tuple[list[str], list[str]]:
    """Return the lines that ``flush`` denormals to zero or keep them, and those that put the old mode back."""
    if triple.startswith("x86_64"):
        declare("void @llvm.x86.sse.stmxcsr(ptr)")
        declare("void @llvm.x86.sse.ldmxcsr(ptr)")
        change = f"or i32 %mode, {_FTZ_DAZ}" if flush else f"and i32 %mode, {~_FTZ_DAZ}"
        return [
            "  %oldmode = alloca i32, align 4",
            "  %newmode = alloca i32, align 4",
            "  call void @llvm.x86.sse.stmxcsr(ptr %oldmode)",
            "  %mode = load i32, ptr %oldmode, align 4",
            f"  %changedmode = {change}",
            "  store i32 %changedmode, ptr %newmode, align 4",
            "  call void @llvm.x86.sse.ldmxcsr(ptr %newmode)",
        ], ["  call void @llvm.x86.sse.ldmxcsr(ptr %oldmode)"]
    if triple.startswith(("aarch64", "arm64")):
        declare("i64 @llvm.aarch64.get.fpcr()")
        declare("void @llvm.aarch64.set.fpcr(i64)")
        change = f"or i64 %oldmode, {_FZ}" if flush else f"and i64 %oldmode, {~_FZ}"
        return [
            "  %oldmode = call i64 @llvm.aarch64.get.fpcr()",
            f"  %newmode = {change}",
            "  call void @llvm.aarch64.set.fpcr(i64 %newmode)",
        ], ["  call void @llvm.aarch64.set.fpcr(i64 %oldmode)"]
    return [], []
