"""Choose how many patches of an image Winograd's convolution works on at a time, and whether it is worth it.

In: the sizes of a convolution and a processor. Out: a :class:`Block`, or why a direct convolution is faster. The cost
model counts slots of a vector multiply-add; additions take their own, and a store of a vector takes two.
"""

from __future__ import annotations

import functools
import heapq
from dataclasses import dataclass

from smelt.compiler.isa import Isa
from smelt.compiler.lower.tiles import LOAD, RANKS
from smelt.ops.winograd import PATCH, TILE

FREQUENCIES = PATCH * PATCH
SCRATCH = 1 << 16  # bytes of transformed patches and products, on the stack
STORE = 2.0  # of a vector
LATENCY = 4.0  # until the result of a multiply-add can be added to
INPUT = FREQUENCIES * STORE  # of a vector of channels of a patch: its stores
OUTPUT = FREQUENCIES * STORE + 24 + FREQUENCIES / 2  # of a vector of channels of a tile: stores, additions, loads
READ = ((1 << 19, 2.0), (1 << 23, 4.0), (1 << 62, 16.0))  # a vector of so many bytes of weights: of L2, L3, or memory
SHARES = 4  # equal ones of a single sample, for as many threads as that divides into
WIDE = 64  # bytes of a vector from which on this is measured
MOST_CHANNELS, MOST_FREQUENCIES = 3, 6  # of a convolution along lines, which holds 2 lines of frequencies in registers
GAIN = 0.9  # of a direct convolution's time, at most


@dataclass(frozen=True)
class Block:
    """Patches that are transformed together, ``high`` lines of ``wide``, and vectors of channels out at a time."""

    high: int
    wide: int
    vectors: int

    @property
    def patches(self) -> int:
        """How many there are: the rows of each product."""
        return self.high * self.wide

    def scratch(self, channels: int, lanes: int) -> tuple[int, int]:
        """Return how many elements lie from one frequency of the patches, and of the products, to the next.

        One vector more than there are, so that the frequencies of a patch do not meet in a set of the cache.
        """
        return self.patches * channels + lanes, (self.patches * self.vectors + 1) * lanes


def choose_block(channels: int, out: int, high: int, wide: int, shared: int, isa: Isa, rank: int = 0) -> Block:
    """Return the block with the least estimated time for ``high`` x ``wide`` patches of an image."""
    found = _blocks(channels, out, high, wide, shared, isa)
    return found[min(rank, len(found) - 1)][1]


@functools.cache
def _blocks(channels: int, out: int, high: int, wide: int, shared: int, isa: Isa) -> list[tuple[float, Block]]:
    """Return the best blocks, and the slots each takes for all of an image.

    Blocks are equal: no code is needed for what remains. ``shared`` is how many images' blocks threads share, or 0
    where each takes images of its own.
    """
    lanes = isa.lanes("f32")
    vectors = out // lanes
    weights = next(slots for size, slots in READ if FREQUENCIES * channels * out * 4 <= size)
    found = []
    for v in _divisors(vectors):
        for w in _divisors(wide):
            for h in _divisors(high) if w == wide else [1]:
                block = Block(h, w, v)
                if block.patches * v + v + 1 > isa.registers:
                    continue
                if 4 * FREQUENCIES * sum(block.scratch(channels, lanes)) > SCRATCH:
                    continue
                step = max(block.patches * v, v * weights, LATENCY) + LOAD * (block.patches + v)
                cost = FREQUENCIES * channels * (vectors // v) * step
                cost += block.patches * (INPUT * channels / lanes + OUTPUT * vectors)
                units = high // h * (wide // w)
                share = shared * units
                uneven = -(-share // SHARES) * SHARES / share if share else 1.0
                found.append((units * cost * uneven, block))
    return heapq.nsmallest(RANKS, found, key=lambda each: round(each[0], 3))


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def winning(isa: Isa) -> bool:
    """Return whether a processor is of a kind that this was measured on, and code for it is not to be small."""
    return isa.vector_bytes >= WIDE and not isa.serial


def obstacle(channels: int, out: int, height: int, width: int, isa: Isa) -> str:
    """Return why a convolution of 3 x 3 with such results is not faster by Winograd's products; empty when it is.

    The number of images does not matter: the bits of a sample do not depend on the batch it is in.
    """
    lanes = isa.lanes("f32")
    if not winning(isa):
        return "the processor's vectors are short"
    if min(channels, out, height, width) < 1:
        return "there is nothing to compute"
    if channels % lanes or out % lanes:
        return f"channels are no multiple of {lanes}"
    if height % TILE or width % TILE:
        return "the result is not even"
    direct = 9 * channels * (out // lanes) * height * width * (1 + LOAD)
    for images in (0, 1):
        blocks = _blocks(channels, out, height // TILE, width // TILE, images, isa)
        if not blocks or blocks[0][0] > GAIN * direct:
            return "transforms and larger weights would cost more than it saves"
    return ""


def shared_images(images: int, batch: bool) -> int:
    """Return of how many images threads share the blocks: of none in a batch, whose images they share."""
    return 0 if batch and images >= 4 else 1 if batch else images


def lines_fit(channels: int, out: int, size: tuple[int, ...], kernel: tuple[int, ...], isa: Isa) -> bool:
    """Return whether products along lines are faster, for images of so few channels that nothing is shared over them.

    Per line of taps they are 6 for 2 results instead of 10, or 4 instead of 6. The transform of a line is done for all
    pixels at once, so that a line has at least a vector of them; it is small beside the products of two vectors or more
    of channels. mnist_cnn's first layer with its pooling, on one thread of Zen 4: 299 instead of 406 us (written in C).
    """
    lanes = isa.lanes("f32")
    (height, width), (_, taps) = size, kernel
    even = height % TILE == 0 and width % TILE == 0
    enough = (width - 1) * channels >= lanes and out >= 2 * lanes and out % lanes == 0
    block = line_block(channels, height // TILE, width, kernel, isa)
    return winning(isa) and even and enough and channels <= MOST_CHANNELS and taps + 1 <= MOST_FREQUENCIES and block > 0


def line_block(channels: int, high: int, width: int, kernel: tuple[int, ...], isa: Isa) -> int:
    """Return how many pairs of lines are worked on at a time, whose transforms fit on the stack; 0 if none do."""
    row = 4 * (kernel[1] + 1) * line_span(channels, width, isa)
    return max((h for h in _divisors(high) if (TILE * h + kernel[0] - 1) * row <= SCRATCH), default=0)


def line_span(channels: int, width: int, isa: Isa) -> int:
    """Return how many numbers a transformed line has room for: whole vectors."""
    lanes = isa.lanes("f32")
    return -(-(width - 1) * channels // lanes) * lanes
