"""Sums that wait in the arena while a contraction works through a block of its ks for all tiles.

In: a part, and tiles of it. Out: their sums, cleared, loaded or saved. They are as wide in memory as in registers, so
blocking the ks changes no bit; it only keeps the operands of a block in the caches until every tile has used them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from smelt.compiler.builder import Builder
from smelt.compiler.loops import Buffer, Index, Value
from smelt.compiler.lower.microkernel import Steps, Widths
from smelt.compiler.lower.parts import Part
from smelt.compiler.lower.tiles import Tile

SLICES = 16  # of a batch, at least where there are as many rows
MOST_SLICES = 256
SLICE_ROWS = 16  # of a batch, at most: as long as a turn needs to be, see :mod:`smelt.compiler.passes.rows`
SLICE_BYTES = 1 << 17  # half a second-level cache
FEW = 8  # vectors of a tile that has no products itself: what follows is written out for each


def slices(nbytes: int, rows: int, most: int) -> int:
    """Return into how many slices to cut a batch of ``rows`` that takes ``nbytes``: a power of two, at most ``most``.

    It depends on sizes alone, as bits do. A slice fits in a cache, for the kernel that reads what another wrote.
    """
    fit = 1 << max(nbytes // SLICE_BYTES - 1, rows // SLICE_ROWS - 1, 0).bit_length()
    return min(max(fit, SLICES), MOST_SLICES, 1 << max(min(rows, most), 1).bit_length() - 1)


def few(tile: Tile) -> Tile:
    """Return as much of a tile as is finished at once where its sums are not its own products."""
    return replace(tile, high=1, wide=min(tile.wide, max(FEW // tile.vectors, 1)))


class Sums:
    """The results of one part, one number each (for each slice of the ks), in an arena buffer of their own."""

    def __init__(self, builder: Builder, part: Part, dtype: str, slices: int = 1) -> None:
        self.b, self.p, self.dtype = builder, part, dtype
        self.stride: dict[str, int] = {}
        size = 1
        for name in reversed([*part.outer, *part.rows, part.lane]):
            self.stride[name] = size
            size *= part.extent[name]
        self.stride["slice"] = size
        self.buffer = Buffer(f"{builder.name}_sums", dtype, size * slices, "arena")
        builder.unaligned.add(self.buffer)

    def _places(self, at: dict[str, Index], rows: Steps, widths: Widths) -> Iterator[tuple[Index, int]]:
        start = Index()
        for name, stride in self.stride.items():
            start = start + at.get(name, Index()) * stride
        for row in rows:
            shift = sum(i * self.stride[name] for name, i in row)
            for offset, width in widths:
                yield start + (shift + offset), width

    def clear(self, at: dict[str, Index], rows: Steps, widths: Widths) -> None:
        """Set the sums of a tile to zero."""
        for place, width in self._places(at, rows, widths):
            self.b.store(self.buffer, place, self.b.const(0.0, self.dtype, width))

    def load(self, at: dict[str, Index], rows: Steps, widths: Widths) -> list[Value]:
        """Return the sums of a tile."""
        return [self.b.load(self.buffer, place, width) for place, width in self._places(at, rows, widths)]

    def save(self, at: dict[str, Index], rows: Steps, widths: Widths, values: list[Value]) -> None:
        """Keep the sums of a tile."""
        for (place, _), value in zip(self._places(at, rows, widths), values, strict=True):
            self.b.store(self.buffer, place, value)
