"""Memory: give every buffer of the arena an offset, so that buffers alive in the same phase never overlap.

In: phases of kernels. Out: the bytes that all threads share, and those that each has for itself, behind them; offsets
are set on the buffers. Placement is greedy by size, largest first, at the lowest offset that is free during the
buffer's life. A border that is zeroed once must stay so: its place serves nobody but buffers with the same border.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smelt.compiler.loops import Buffer, Kernel

ALIGNMENT = 64


def lives(phases: Sequence[Sequence[Kernel]]) -> dict[Buffer, tuple[int, int]]:
    """Return the first and last phase in which each arena buffer is used."""
    out: dict[Buffer, tuple[int, int]] = {}
    for i, phase in enumerate(phases):
        for kernel in phase:
            for buffer in kernel.reads | kernel.writes:
                if buffer.kind == "arena":
                    first, _ = out.get(buffer, (0 if buffer.kept else i, i))
                    out[buffer] = (first, max(i, buffer.kept - 1))
    return out


@dataclass(frozen=True)
class Memory:
    """Bytes of an arena: ``shared`` by all threads, and behind them ``own`` for each thread."""

    shared: int
    own: int

    def total(self, threads: int) -> int:
        """Return the bytes for so many threads."""
        return self.shared + self.own * threads


@dataclass
class _Place:
    """Where one buffer lies, or several with equal borders one after the other, and the life of all of them."""

    buffers: list[Buffer]
    first: int
    last: int

    @property
    def nbytes(self) -> int:
        return aligned(max(self.buffers[0].place_bytes, 1))


def aligned(nbytes: int) -> int:
    """Return the next multiple of the alignment."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def plan_memory(phases: Sequence[Sequence[Kernel]], apart: bool = False) -> Memory:
    """Set the offsets of all arena buffers; threads that work ``apart`` share none of them."""
    live = lives(phases)
    own = {b: life for b, life in live.items() if apart or b.turn}
    return Memory(_place({b: life for b, life in live.items() if b not in own}, len(phases)), _place(own, len(phases)))


def _place(live: dict[Buffer, tuple[int, int]], phases: int) -> int:
    """Set the offsets of buffers with these lives; return the end of the last."""
    places: list[_Place] = []
    bordered: dict[tuple, list[_Place]] = {}
    for buffer, (first, last) in sorted(live.items(), key=lambda i: (i[1], i[0].name)):
        like = bordered.setdefault((buffer.border, buffer.dtype), []) if buffer.border else []
        free = next((p for p in like if p.last < first), None)
        if free is None:
            free = _Place([], first, last)
            places.append(free)
            like.append(free)
        free.buffers.append(buffer)
        free.last = last
    for like in bordered.values():
        for place in like:
            place.first, place.last = 0, phases - 1
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last
    top = 0
    for place in sorted(places, key=lambda p: (-p.buffers[0].place_bytes, p.buffers[0].name)):
        offset = 0
        for start, end, a, z in sorted(placed):
            if a <= place.last and place.first <= z and start < offset + place.nbytes and offset < end:
                offset = end
        for buffer in place.buffers:
            buffer.offset = offset
        placed.append((offset, offset + place.nbytes, place.first, place.last))
        top = max(top, offset + place.nbytes)
    return top


def format_memory(phases: Sequence[Sequence[Kernel]]) -> str:
    """Return the plan as text: a line per buffer with its bytes, its place and its life in phases."""
    live = sorted(lives(phases).items(), key=lambda i: (i[0].offset, i[1]))
    out = []
    for title, own in (("arena", False), ("each thread's own places", True)):
        rows = [
            f"  {b.offset:>10}  {b.place_bytes:>10}  phases {first}..{last}  {b.name}"
            + (f", {b.turn} rows at a time" if own else "")
            for b, (first, last) in live
            if own == bool(b.turn)
        ]
        out += [f"{title}: offset, bytes, life, buffer", *rows] if rows or not own else []
    return "\n".join(out)
