"""In place: which results may be written over an operand that nothing reads afterwards.

In: the kernels of one thread in the order they run. Out: pairs (operand, result) that may share their memory. A kernel
qualifies when it reads the operand only at the very elements it is about to write, each before it is written: a
residual that is added, an activation by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from smelt.compiler.loops import Buffer, If, Instr, Kernel, Loop, Stmt


def in_place(kernel: Kernel) -> Iterator[tuple[Buffer, Buffer]]:
    """Yield the pairs of one kernel, of operands in the arena."""
    for result in sorted(kernel.writes - kernel.reads, key=lambda b: b.name):
        for operand in sorted(kernel.reads - kernel.writes, key=lambda b: b.name):
            same = (operand.size, operand.dtype) == (result.size, result.dtype)
            if same and operand.kind == "arena" and _in_step(kernel.body, operand, result):
                yield operand, result


def _in_step(body: Sequence[Stmt], operand: Buffer, result: Buffer) -> bool:
    """Return whether every load of the operand comes before a store of the result at the same elements."""
    waiting: list[tuple] = []
    for s in body:
        if isinstance(s, (Loop, If)):
            if not _in_step(s.body, operand, result):
                return False
        elif isinstance(s, Instr) and s.op == "load" and s.imm[0] is operand:
            assert s.out is not None
            waiting.append((s.imm[1], s.imm[2] if s.out.lanes > 1 else 0, s.out.lanes))
        elif isinstance(s, Instr) and s.op == "store" and s.imm[0] is result:
            lanes = s.args[0].lanes
            at = (s.imm[1], s.imm[2] if lanes > 1 else 0, lanes)
            waiting = [w for w in waiting if w != at]
    return not waiting
