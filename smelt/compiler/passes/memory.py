"""Memory: give every buffer of the arena an offset, so that buffers alive in the same phase never overlap.

In: phases of kernels. Out: the arena's size in bytes; offsets are set on the buffers. Placement is greedy by size,
largest first, at the lowest offset that is free during the buffer's life. Zeroed buffers live always.
"""

from __future__ import annotations

from collections.abc import Sequence

from smelt.compiler.loops import Buffer, Kernel

ALIGNMENT = 64


def lives(phases: Sequence[Sequence[Kernel]]) -> dict[Buffer, tuple[int, int]]:
    """Return the first and last phase in which each arena buffer is used."""
    out: dict[Buffer, tuple[int, int]] = {}
    for i, phase in enumerate(phases):
        for kernel in phase:
            for buffer in kernel.reads | kernel.writes:
                if buffer.kind == "arena":
                    first, _ = out.get(buffer, (i, i))
                    out[buffer] = (0, len(phases) - 1) if buffer.zeroed else (first, i)
    return out


def plan_memory(phases: Sequence[Sequence[Kernel]]) -> int:
    """Set the offsets of all arena buffers; return the arena's bytes."""
    live = lives(phases)
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last
    top = 0
    for buffer in sorted(live, key=lambda b: (-b.nbytes, b.name)):
        first, last = live[buffer]
        size = -(-max(buffer.nbytes, 1) // ALIGNMENT) * ALIGNMENT
        offset = 0
        for start, end, a, z in sorted(placed):
            if a <= last and first <= z and start < offset + size and offset < end:
                offset = end
        buffer.offset = offset
        placed.append((offset, offset + size, first, last))
        top = max(top, offset + size)
    return top


def format_memory(phases: Sequence[Sequence[Kernel]]) -> str:
    """Return the plan as text: a line per buffer with its bytes, its place and its life in phases."""
    rows = [
        f"  {b.offset:>10}  {b.nbytes:>10}  phases {first}..{last}  {b.name}"
        for b, (first, last) in sorted(lives(phases).items(), key=lambda i: (i[0].offset, i[1]))
    ]
    return "\n".join(["arena: offset, bytes, life, buffer", *rows])
