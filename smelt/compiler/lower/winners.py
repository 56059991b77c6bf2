"""Lower the gradient of a convolution's kernels that reads only the winners of the max pooling behind it.

In: its contract group, or the group of the images it reads. Out: kernels. Images are stored with each pixel beside its
neighbours in a window (passes/winners.py). For a window and a tap, the element that a channel's winner meets is one of
four numbers that lie together; a vector of channels picks its own with one permutation, whose indices are the winners
as the pooling stored them. Two taps' numbers lie in each table: the second's indices are the first's, or 4. Index 255,
of no winner, picks a zero.
"""

from __future__ import annotations

from smelt.compiler.builder import Builder
from smelt.compiler.isa import Isa
from smelt.compiler.loops import Index, Kernel, Range, Value, var
from smelt.compiler.lower.contract import ContractLowering
from smelt.compiler.lower.lines import LinesLowering, lower_line_weights
from smelt.compiler.lower.microkernel import Ahead, Steps, Widths
from smelt.compiler.lower.owned import OwnedLowering
from smelt.compiler.lower.parts import Part
from smelt.compiler.lower.sliced import SlicedLowering
from smelt.compiler.lower.tiles import Tile
from smelt.compiler.lower.winograd import WinogradLowering, lower_winograd_weights
from smelt.compiler.passes.fuse import Group
from smelt.compiler.passes.storage import Plan
from smelt.compiler.passes.winners import BESIDE, LANES, WINNER_GRAD, reach, span
from smelt.graph.graph import Node
from smelt.ops.winograd import conv2d_winograd, conv2d_winograd_lines, winograd_weights

OTHERS = 6  # registers beside the sums: two vectors of indices, the gradient, a table, what is picked, a constant


class WinnersLowering(SlicedLowering):
    """Builds the kernels of a gradient that reads winners: the sums of slices of the samples, then theirs."""

    def kernel(self) -> tuple[Kernel, set[Node]]:
        """Return the last kernel and the nodes that all of them load."""
        kernel, used = super().kernel()
        return kernel, used | {self.plan.operand(self.root, 2)}

    def _is_sliced(self, p: Part) -> bool:
        return True

    def _pick(self, p: Part, rows: list[str], kept: int = 0) -> Tile:
        """Return equal tiles of taps, as many in each as have registers, for one vector of channels."""
        wide, high = ([*(p.extent[r] for r in reversed(rows)), 1, 1])[:2]
        most = p.registers - OTHERS
        across = _equal(wide, most)
        return Tile(_equal(high, max(1, most // across)), across, 1)

    def _accumulate(
        self, p: Part, at: dict[str, Index], rows: Steps, widths: Widths, before: list[Value], ahead: Ahead
    ) -> list[Value]:
        """Add a tile's products of one sample: of each window's gradient and the numbers its winners meet."""
        b, won = self.b, self.plan.storage[self.plan.operand(self.root, 2)]
        stride = dict(zip(("n", "c", "y", "x"), won.strides, strict=True))
        start_a, start_b, start_w = Index(p.a.offset), Index(p.b.offset), Index(won.offset)
        for name, i in at.items():
            start_a = start_a + i * p.a_stride.get(name, 0)
            start_b = start_b + i * p.b_stride.get(name, 0)
            start_w = start_w + i * stride.get(name, 0)
        shifts = [sum(i * p.a_stride[name] for name, i in row) // BESIDE for row in rows]

        def window(acc: list[Value], ia: Index, ib: Index, iw: Index) -> list[Value]:
            tables: dict[int, Value] = {}
            for shift in shifts:
                two = shift - shift % 2
                if two not in tables:
                    tables[two] = b.load(p.a.buffer, ia + two * BESIDE, 2 * BESIDE)
            out = list(acc)
            for v, (off, w) in enumerate(widths):
                g = b.load(p.b.buffer, ib + off, w)
                winner = b.op("cast", b.load(won.buffer, iw + off, w), dtype="i32")
                for r, shift in enumerate(shifts):
                    indices = winner if shift % 2 == 0 else b.op("or", winner, b.const(BESIDE, "i32", w))
                    i = r * len(widths) + v
                    out[i] = b.op("fma", b.permute(tables[shift - shift % 2], indices), g, acc[i])
            return out

        def nest(ks: list[str], acc: list[Value], ia: Index, ib: Index, iw: Index) -> list[Value]:
            if not ks:
                return window(acc, ia, ib, iw)
            (k, *more) = ks
            with b.carry(k, 0, p.stop(k), acc) as (i, values):
                if ks is p.ks:
                    ahead(i)
                here = ia + i * p.a_stride[k], ib + i * p.b_stride[k], iw + i * stride[k]
                values[:] = nest(more, list(values), *here)
            return values

        return nest(p.ks, before, start_a, start_b, start_w)


def _equal(size: int, most: int) -> int:
    """Return into how much to cut a size, at most ``most``, for parts as equal as can be."""
    return -(-size // -(-size // most))


_LOWERINGS: dict[str, type[ContractLowering]] = {
    WINNER_GRAD.name: WinnersLowering,
    conv2d_winograd.name: WinogradLowering,
    conv2d_winograd_lines.name: LinesLowering,
}


def lower_contract(plan: Plan, group: Group, isa: Isa, name: str) -> tuple[list[Kernel], set[Node]]:
    """Return the kernels of a contract group and the nodes they load."""
    lowering = _LOWERINGS.get(group.roots[0].opname, OwnedLowering)
    return lowering(plan, group, isa, name).kernels()


def lower_transformed_weights(plan: Plan, group: Group, isa: Isa, name: str) -> tuple[list[Kernel], set[Node]]:
    """Return the kernel that transforms kernels for Winograd's products, and the node it loads."""
    lower = lower_winograd_weights if group.roots[0].op is winograd_weights else lower_line_weights
    return lower(plan, group, isa, name)


def lower_neighbours(plan: Plan, group: Group, isa: Isa, name: str) -> tuple[list[Kernel], set[Node]]:
    """Return the kernel that stores each pixel beside its neighbours, and the node it loads."""
    b, (node,) = Builder(name), group.roots
    x, attrs = plan.operand(node, 0), node.attrs
    source, ((_, target),) = plan.storage[x], plan.stores[group]
    _, channels, _, width = x.shape
    below, right = reach(attrs)
    (_, window), size = attrs["window"], span(attrs, channels)
    numbers, results, pixels = width * channels, (width - right) * channels, LANES // BESIDE
    steps = [(0, 0) if p >= window * (2 if below else 1) else divmod(p, window) for p in range(BESIDE)]
    b.choose("shared", "samples")
    b.choose("registers", f"vectors of {LANES}: {pixels} pixels, each with its neighbours")
    with b.loop("row", var("lo"), var("hi")) as row, b.loop("line", 0, node.shape[1]) as line:
        here = row * source.strides[0] + line * source.strides[2] + source.offset
        there = row * target.strides[0] + line * target.strides[1] + target.offset

        def beside(first: Index, start: Index, places: list[int]) -> None:
            """Store some pixels, from what is read of their lines from ``start`` on; beyond the last, it once more."""
            lines = [b.load(source.buffer, here + start + y * source.strides[2], size) for y in (0, below)]
            mask = tuple(i + x * (right * channels) + y * size for i in places for y, x in steps)
            b.store(target.buffer, there + first * BESIDE, b.op("shuffle", *lines, lanes=LANES, imm=mask))

        whole = min(numbers - size, results - pixels) // pixels * pixels + pixels
        with b.loop("i", 0, whole, pixels) as i:
            beside(i, i, list(range(pixels)))
        for first in range(whole, node.shape[2], pixels):
            start = min(first, numbers - size)
            beside(Index(first), Index(start), [min(first + i, results - 1) - start for i in range(pixels)])
    return [b.finish(Range(per=1))], {x}
