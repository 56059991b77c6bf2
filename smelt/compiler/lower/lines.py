"""Lower convolutions by Winograd's products along lines, F(2, 3) or F(2, 5), and the transform of their kernels.

In: a group of ``conv2d_winograd_lines``, or of ``winograd_line_weights``. Out: one kernel. For a block of an image's
lines it transforms each once for all channels out, all pixels at a time: pixels and channels of a line lie together.
Then two by two pixels of the result take the products of two lines, two frequencies at a time: they are added up over
the lines of taps in registers, and transformed back at once, beside the multiply-adds of the next. What follows is
computed on the pixels. Lines wait on the thread's own stack.

All frequencies at a time take 24 sums, and nothing runs beside the transform and what follows: written in C for 32
channels of 5 x 5 taps on one thread of Zen 4, 145 cycles for 2 x 2 pixels instead of 135, of which the multiply-adds
are 120.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from smelt.compiler.builder import Builder
from smelt.compiler.isa import Isa
from smelt.compiler.loops import Index, Kernel, Range, Value, var
from smelt.compiler.lower.contract import ContractLowering
from smelt.compiler.lower.evaluate import Evaluator
from smelt.compiler.lower.patches import line_block, line_span, shared_images
from smelt.compiler.lower.winograd import patches_of
from smelt.compiler.passes.fuse import Group
from smelt.compiler.passes.storage import Plan
from smelt.graph.graph import Node
from smelt.ops.primitive import short_dtype
from smelt.ops.winograd import LINE_FACTOR, LINE_IMAGE, LINE_KERNEL, LINE_RESULT, TILE

SUMS = 24  # and pixels, in registers
TOGETHER = 2  # frequencies


class LinesLowering(ContractLowering):
    """Builds the kernel of one convolution. What follows it is computed as behind every contraction."""

    def kernel(self) -> tuple[Kernel, set[Node]]:
        """Return the kernel and the nodes it loads."""
        image, weights = (self.plan.operand(self.root, i) for i in (0, 1))
        images, out, height, width = self.root.shape
        self.taps, self.patch, self.channels, _ = weights.shape
        shared = shared_images(images, self.root.spec.rows is not None)
        lines = height // TILE
        most = line_block(self.channels, lines, width, (self.taps, self.patch - 1), self.isa)
        self.high = 1 if shared else most
        self.span = line_span(self.channels, width, self.isa)
        self.vectors = max(v for v in range(1, out // self.vl + 1) if out // self.vl % v == 0 and self._fits(v))
        self.p = patches_of(self.plan.storage[image], self.plan.storage[weights], self.root)
        self.p.window = tuple(zip(("wy", "wx"), self.group.window, strict=True)) if self.group.window != (1, 1) else ()
        self.parts = [self.p]
        count = (TILE * self.high + self.taps - 1) * self.patch * self.span
        self.transformed = self.b.local("lines", self.dtype, count)
        self.row = var("row")
        self.e = Evaluator(self.plan, self.group, self.b, self.row)
        self.e.hoist(self.group.members(), self.vl)
        taps = self.patch - 1
        held = f"{TILE * (TOGETHER + TILE) * self.vectors} of {self.isa.registers} registers"
        self.b.choose(
            "registers", f"Winograd along lines: {self.patch} products for {2 * taps} of a direct one, {held}"
        )
        self.b.choose("memory", f"transformed lines wait in {count * 4 / 1024:.0f} KB of the thread's own stack")
        units = self._by_lines(lines) if shared else self._by_image(lines)
        self.e.used |= {image, weights}
        return self.b.finish(units), self.e.used

    def _fits(self, vectors: int) -> bool:
        return TILE * (TOGETHER + TILE) * vectors <= min(SUMS, self.isa.registers)

    # --- loops -------------------------------------------------------------------------------------------------

    def _by_image(self, lines: int) -> Range:
        """Share the images of a batch."""
        self.b.choose("shared", "samples")
        with self.b.loop("row", var("lo"), var("hi")) as n, self.b.loop("block", 0, lines, self.high) as line:
            self._block(n, line)
        return Range(per=self.p.batch["n"])

    def _by_lines(self, lines: int) -> Range:
        """Share pairs of lines of all images; those of a batch of a few at the same place are one unit."""
        self.b.choose("shared", "pairs of lines")
        with self.b.loop("unit", var("lo"), var("hi")) as unit:
            if "n" in self.p.batch:
                self._nest(["n"], self.p, {}, lambda at: self._block(at["n"], unit))
                return Range(lines)
            n = self.b.let("image", "muldiv", unit, 1, lines)
            self._block(n, unit + n * -lines)
        return Range(lines * self.p.extent["n"])

    def _block(self, n: Index, first: Index) -> None:
        """Emit ``high`` pairs of lines of an image."""
        self._transform(n, first)
        wide = self.vectors * self.vl
        loop = self.b.loop
        with (
            loop("y", 0, self.high) as y,
            loop("x", 0, self.p.extent["x"]) as x,
            loop("c", 0, self.p.extent["c"], wide) as c,
        ):
            self._finish_patch({"n": n, "y": first + y, "x": x, "c": c}, self._pixels(y, x, c))

    def _transform(self, n: Index, first: Index) -> None:
        """Transform the lines that a block reads, a vector of pixels (and channels) at a time."""
        b, p = self.b, self.p
        numbers = (TILE * p.extent["x"] - 1) * self.channels
        start = n * p.a_stride["n"] + first * p.a_stride["y"] + p.a.offset

        def vector(line: Index, at: Index) -> None:
            here = start + line * p.a.strides[2] + at
            pixels = [b.load(p.a.buffer, here + i * self.channels, self.vl) for i in range(self.patch)]
            for f, row in enumerate(LINE_IMAGE[self.patch - 1]):
                place = line * (self.patch * self.span) + (at + f * self.span)
                b.store(self.transformed, place, _combined(b, row, pixels))

        whole = numbers - numbers % self.vl
        with b.loop("line", 0, TILE * self.high + self.taps - 1) as line:
            with b.loop("i", 0, whole, self.vl) as i:
                vector(line, i)
            if whole < numbers:  # the last vector ends with the last pixel that is read
                vector(line, Index(numbers - self.vl))

    def _pixels(self, y: Index, x: Index, c: Index) -> list[list[Value]]:
        """Return, by vector, 2 x 2 pixels of the result."""
        last, inner = self.patch - 1, range(1, self.patch - 1)
        totals: list[Value | None] = [None] * (TILE * TILE * self.vectors)
        for some in [*zip(inner[::2], inner[1::2], strict=True), (0, last)]:
            sums = iter(self._sums(y, x, c, some))
            for f in some:
                for r in range(TILE):
                    for v in range(self.vectors):
                        value = next(sums)
                        for j, row in enumerate(LINE_RESULT[last]):
                            i = (v * TILE + r) * TILE + j
                            totals[i] = _added(self.b, totals[i], row[f], value)
        pixels = [t for t in totals if t is not None]
        return [pixels[v * TILE * TILE : (v + 1) * TILE * TILE] for v in range(self.vectors)]

    def _sums(self, y: Index, x: Index, c: Index, some: Sequence[int]) -> list[Value]:
        """Return the sums of products of two lines, by frequency (of ``some``), line and vector."""
        b, u, vl = self.b, self.p.b, self.vl
        left = y * (TILE * self.patch * self.span) + x * (TILE * self.channels)
        right = c * u.strides[3] + u.offset
        zeros = [b.const(0.0, self.dtype, vl)] * (len(some) * TILE * self.vectors)
        with b.carry("kh", 0, self.taps, zeros) as (kh, values):
            acc = list(values)
            for ic in range(self.channels):
                for i, f in enumerate(some):
                    at = right + kh * u.strides[0] + (f * u.strides[1] + ic * u.strides[2])
                    weights = [b.load(u.buffer, at + v * vl, vl) for v in range(self.vectors)]
                    for r in range(TILE):
                        here = left + kh * (self.patch * self.span) + ((r * self.patch + f) * self.span + ic)
                        pixel = b.splat(b.load(self.transformed, here), vl)
                        for v, weight in enumerate(weights):
                            k = (i * TILE + r) * self.vectors + v
                            acc[k] = b.op("fma", pixel, weight, acc[k])
            values[:] = acc
        return values

    def _finish_patch(self, at: dict[str, Index], values: list[list[Value]]) -> None:
        """Compute what follows on 2 x 2 pixels of the result."""
        pixels = [[("wy", i), ("wx", j)] for i in range(TILE) for j in range(TILE)]
        for v in range(self.vectors):
            here = {**at, "c": at["c"] + v * self.vl}
            if self.p.window:
                self._finish_pooled(self.p, here, [[]], pixels, [(0, self.vl)], values[v])
            else:
                self._finish(self.p, here, pixels, [(0, self.vl)], values[v])


def _combined(b: Builder, factors: Sequence[float] | np.ndarray, values: Sequence[Value]) -> Value:
    """Return the sum of values times factors, those of 1 and -1 without a product."""
    terms = sorted(((float(f), v) for f, v in zip(factors, values, strict=True) if f), key=lambda t: t[0] != 1.0)
    total: Value | None = None
    for factor, value in terms:
        total = _added(b, total, factor, value)
    assert total is not None
    return total


def _added(b: Builder, total: Value | None, factor: float, value: Value) -> Value | None:
    """Return a sum, or none yet, plus a value times a factor."""
    if factor == 0.0:
        return total
    if factor == 1.0:
        return value if total is None else b.op("add", total, value)
    if factor == -1.0 and total is not None:
        return b.op("sub", total, value)
    times = b.const(float(factor), value.dtype, value.lanes)
    return b.op("mul", value, times) if total is None else b.op("fma", value, times, total)


def lower_line_weights(plan: Plan, group: Group, isa: Isa, name: str) -> tuple[list[Kernel], set[Node]]:
    """Return the kernel that transforms the lines of kernels: a unit is a line of taps, lanes are channels out."""
    (root,) = group.roots
    b, vl = Builder(name), isa.lanes(short_dtype(root.dtype))
    ((_, to),) = plan.stores[group]
    w = plan.operand(root, 0)
    where = plan.storage[w]
    lines, patch, channels, out = root.shape
    with b.loop("unit", var("lo"), var("hi")) as unit, b.loop("ic", 0, channels) as ic, b.loop("c", 0, out, vl) as c:
        first = unit * where.strides[2] + ic * where.strides[1] + c * where.strides[0] + where.offset
        step = where.strides[0]
        taps = [b.load(where.buffer, first + i * where.strides[3], vl, step) for i in range(patch - 1)]
        at = unit * to.strides[0] + ic * to.strides[2] + c * to.strides[3] + to.offset
        for f, (row, factor) in enumerate(zip(LINE_KERNEL[patch - 1], LINE_FACTOR[patch - 1], strict=True)):
            value = _combined(b, row, taps)
            if factor != 1:
                value = b.op("mul", value, b.const(factor, value.dtype, value.lanes))
            b.store(to.buffer, at + f * to.strides[1], value, to.strides[3])
    b.choose("shared", "lines of taps")
    return [b.finish(Range(lines))], {w}
