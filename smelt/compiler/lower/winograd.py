"""Lower convolutions by Winograd's F(2 x 2, 3 x 3), and the transform of their kernels.

In: a group of ``conv2d_winograd``, or of ``winograd_weights``. Out: one kernel. For a block of patches of an image, it
transforms each into 16 frequencies, multiplies every frequency with that of the kernels by the micro-kernel of all
products, and transforms the products of each patch into 2 x 2 pixels of the result, on which what follows is computed.
Frequencies wait in scratch memory on the thread's own stack.
"""

from __future__ import annotations

from smelt.compiler.builder import Builder
from smelt.compiler.isa import Isa
from smelt.compiler.loops import Index, Kernel, Range, Value, var
from smelt.compiler.lower.ahead import FAR_BYTES, ask_for_what_follows
from smelt.compiler.lower.contract import ContractLowering
from smelt.compiler.lower.evaluate import Evaluator, Point
from smelt.compiler.lower.microkernel import accumulate
from smelt.compiler.lower.parts import Part
from smelt.compiler.lower.patches import FREQUENCIES, choose_block, shared_images
from smelt.compiler.passes.fuse import Group
from smelt.compiler.passes.layout import Storage
from smelt.compiler.passes.storage import Plan
from smelt.graph.graph import Node
from smelt.ops.primitive import short_dtype
from smelt.ops.winograd import PATCH, TILE

Line = list[Value]
At = dict[str, Index]


class WinogradLowering(ContractLowering):
    """Builds the kernel of one convolution. What follows it is computed as behind every contraction."""

    def kernel(self) -> tuple[Kernel, set[Node]]:
        """Return the kernel and the nodes it loads."""
        image, weights = (self.plan.operand(self.root, i) for i in (0, 1))
        images, out, height, width = self.root.shape
        channels, rows = image.shape[1], self.root.spec.rows
        shared = shared_images(images, rows is not None)
        lines, across = height // TILE, width // TILE
        self.block = choose_block(channels, out, lines, across, shared, self.isa, self.group.rank)
        self.p = patches_of(self.plan.storage[image], self.plan.storage[weights], self.root)
        self.p.window = tuple(zip(("wy", "wx"), self.group.window, strict=True)) if self.group.window != (1, 1) else ()
        self.parts = [self.p]
        self.q = self._products(channels, out)
        self.row = var("row")
        self.e = Evaluator(self.plan, self.group, self.b, self.row)
        self.e.hoist(self.group.members(), self.vl)
        self._say()
        loops = self._by_blocks if shared else self._by_image
        units = loops(lines // self.block.high, across // self.block.wide)
        self.e.used |= {image, weights}
        return self.b.finish(units), self.e.used

    def _products(self, channels: int, out: int) -> Part:
        """Describe the product of a frequency: rows are patches, lanes channels out; frequencies are an axis beside."""
        block, weights = self.block, self.p.b
        left, right = block.scratch(channels, self.vl)
        self.frequencies = self.b.local("patches", self.dtype, FREQUENCIES * left)
        self.product = self.b.local("products", self.dtype, FREQUENCIES * right)
        a = {"t": channels, "ic": 1, "f": left}
        b = {"ic": weights.strides[2], "c": weights.strides[3], "f": weights.strides[1]}
        extent = {"t": block.patches, "ic": channels, "c": out}
        return Part(Storage(self.frequencies, ()), weights, [], ["t"], ["ic"], "c", extent, a, b, (), 1)

    def _say(self) -> None:
        block, count = self.block, self.block.patches * self.block.vectors
        held = f"{count} of {self.isa.registers} registers"
        tile = f"{block.patches} patches × {block.vectors} vectors of {self.vl} sums"
        self.b.choose("registers", f"Winograd: 16 products of {tile}, {held}, for 36 of a direct convolution")
        kilobytes = (self.frequencies.nbytes + self.product.nbytes) / 1024
        self.b.choose("memory", f"patches and their products wait in {kilobytes:.0f} KB of the thread's own stack")

    # --- loops -------------------------------------------------------------------------------------------------

    def _by_image(self, lines: int, parts: int) -> Range:
        """Share the images of a batch."""
        self.b.choose("shared", "samples")
        loop = self.b.loop
        with loop("row", var("lo"), var("hi")) as n, loop("line", 0, lines) as line, loop("part", 0, parts) as part:
            self._block({"n": n, "line": line, "part": part})
        return Range(per=self.p.batch["n"])

    def _by_blocks(self, lines: int, parts: int) -> Range:
        """Share the blocks of all images; those of a batch of a few at the same place are one unit."""
        self.b.choose("shared", "blocks of patches")
        p, batch = self.p, "n" in self.p.batch
        with self.b.loop("unit", var("lo"), var("hi")) as unit:
            line = self.b.let("above", "muldiv", unit, 1, parts)
            part = unit + line * -parts
            if batch:
                self._nest(["n"], p, {"line": line, "part": part}, self._block)
            else:
                n = self.b.let("image", "muldiv", unit, 1, lines * parts)
                self._block({"n": n, "line": line + n * -lines, "part": part})
        return Range(lines * parts * (1 if batch else p.extent["n"]))

    def _block(self, at: At) -> None:
        """Emit one block: patches in, products, and tiles of the result for so many channels at a time."""
        block, vl = self.block, self.vl
        here = {"n": at["n"], "y": at["line"] * block.high, "x": at["part"] * block.wide}
        self._transform_patches(here)
        wide = block.vectors * vl
        widths = [(v * vl, vl) for v in range(block.vectors)]
        rows = [[("t", t)] for t in range(block.patches)]
        stride = self.product.size // FREQUENCIES
        with self.b.loop("c", 0, self.p.extent["c"], wide) as c:
            with self.b.loop("f", 0, FREQUENCIES) as f:
                self._ask_ahead(here, c, f)
                sums = accumulate(self.b, self.q, {"f": f, "c": c}, rows, widths)
                for i, value in enumerate(sums):
                    self.b.store(self.product, f * stride + i * vl, value)
            self._transform_products({**here, "c": c})

    def _transform_patches(self, at: At) -> None:
        """Transform a line of patches after the other; of each patch, half the columns are those of the one before."""
        b, p, block = self.b, self.p, self.block
        start = Index(p.a.offset)
        for name, index in at.items():
            start = start + index * p.a_stride[name]
        down, right = p.a.strides[2], p.a.strides[3]
        stride = self.frequencies.size // FREQUENCIES

        def column(first: Index, j: int) -> Line:
            return _image([b.load(p.a.buffer, first + (i * down + j * right), self.vl) for i in range(PATCH)], b)

        with b.loop("h", 0, block.high) as h, b.loop("ic", 0, self.q.extent["ic"], self.vl) as c:
            first = start + h * p.a_stride["y"] + c
            left = [*column(first, 0), *column(first, 1)]
            with b.carry("w", 0, block.wide, left) as (w, kept):
                here = first + w * p.a_stride["x"]
                columns = [kept[:PATCH], kept[PATCH:], column(here, 2), column(here, 3)]
                to = h * (block.wide * self.q.a_stride["t"]) + w * self.q.a_stride["t"] + c
                for i in range(PATCH):
                    for j, value in enumerate(_image([line[i] for line in columns], b)):
                        b.store(self.frequencies, to + (i * PATCH + j) * stride, value)
                kept[:] = [*columns[2], *columns[3]]

    def _ask_ahead(self, at: At, c: Index, f: Index) -> None:
        """Ask in each frequency for a share of what the transforms read next, in this image and in the next one.

        Products take longest, and few loads: what arrives meanwhile would be waited for otherwise.
        """
        p, b, block = self.p, self.b, self.block
        width, count = TILE * block.wide, TILE * TILE * block.patches // FREQUENCIES
        far = [b for b in (p.a.buffer, *(s.buffer for _, s in self.stores)) if b.nbytes >= FAR_BYTES]
        if not far or not count or width % count:
            return
        line = b.let("line", "muldiv", f, count, width)
        column = f * count + line * -width
        pixels = [(at["y"] * TILE + line, at["x"] * TILE + (column + i)) for i in range(count)]
        lanes = [c + v * self.vl for v in range(block.vectors)]
        points = [Point((at["n"], lane, y, x), p.lane_axis, self.vl) for y, x in pixels for lane in lanes]
        ask_for_what_follows(b, self.plan, self.group, points)
        for _, storage in self.stores:
            if storage.buffer.nbytes >= FAR_BYTES and storage.pair is None and not p.window:
                for point in points:
                    b.prefetch(storage.buffer, self.e.offset(storage, point.coords))
        _, down, right = p.a.strides[1:]
        if p.extent["n"] > 1 and p.a.buffer.nbytes >= FAR_BYTES and self.q.extent["ic"] == p.extent["c"]:
            for y, x in pixels:
                first = (at["n"] + 1) * p.a.strides[0] + (y + 1) * down + (x + 1) * right + p.a.offset
                for lane in lanes:
                    b.prefetch(p.a.buffer, first + lane)

    def _transform_products(self, at: At) -> None:
        """Make 2 x 2 pixels of the result of each patch's products, and what follows."""
        b, p, vl, vectors = self.b, self.p, self.vl, self.block.vectors
        stride = self.product.size // FREQUENCIES
        pixels = [[("wy", i), ("wx", j)] for i in range(TILE) for j in range(TILE)]
        high, wide = self.block.high, self.block.wide
        with b.loop("h", 0, high) as h, b.loop("w", 0, wide) as w, b.loop("v", 0, vectors * vl, vl) as v:
            first = h * (wide * vectors * vl) + w * (vectors * vl) + v
            columns = []
            for j in range(PATCH):
                column = [b.load(self.product, first + (i * PATCH + j) * stride, vl) for i in range(PATCH)]
                columns.append(_result(column, b))
            values = [y for i in range(TILE) for y in _result([column[i] for column in columns], b)]
            here = {"n": at["n"], "y": at["y"] + h, "x": at["x"] + w, "c": at["c"] + v}
            if p.window:
                self._finish_pooled(p, here, [[]], pixels, [(0, vl)], values)
            else:
                self._finish(p, here, pixels, [(0, vl)], values)


def patches_of(image: Storage, weights: Storage, root: Node) -> Part:
    """Describe the result: rows are patches of the image, each of which becomes 2 x 2 pixels."""
    n, c, height, width = root.shape
    extent = {"n": n, "y": height // TILE, "x": width // TILE, "c": c}
    strides = {"n": image.strides[0], "y": image.strides[2] * TILE, "x": image.strides[3] * TILE}
    out = (var("n"), var("c"), var("y") * TILE + var("wy"), var("x") * TILE + var("wx"))
    pooled = (var("n"), var("c"), var("y"), var("x"))
    batch = {"n": root.spec.rows.per} if root.spec.rows is not None else {}
    return Part(image, weights, [], ["n", "y", "x"], [], "c", extent, strides, {}, out, 1, batch, pooled=pooled)


def _image(d: Line, b: Builder) -> Line:
    """Transform four pixels."""
    return [b.op("sub", d[0], d[2]), b.op("add", d[1], d[2]), b.op("sub", d[2], d[1]), b.op("sub", d[1], d[3])]


def _result(m: Line, b: Builder) -> Line:
    """Transform four products into two results."""
    return [b.op("add", b.op("add", m[0], m[1]), m[2]), b.op("sub", b.op("sub", m[1], m[2]), m[3])]


def _kernel(g: Line, b: Builder) -> Line:
    """Transform three taps."""
    half = b.const(0.5, g[0].dtype, g[0].lanes)
    ends = b.op("add", g[0], g[2])
    both = [b.op("mul", b.op(op, ends, g[1]), half) for op in ("add", "sub")]
    return [g[0], *both, g[2]]


def lower_winograd_weights(plan: Plan, group: Group, isa: Isa, name: str) -> tuple[list[Kernel], set[Node]]:
    """Return the kernel that transforms kernels of 3 x 3: a unit is one channel in, lanes are channels out."""
    (root,) = group.roots
    b, vl = Builder(name), isa.lanes(short_dtype(root.dtype))
    ((_, to),) = plan.stores[group]
    w = plan.operand(root, 0)
    where = plan.storage[w]
    units, lanes = root.shape[2:]
    flip = root.attrs["flip"]
    unit_axis, lane_axis = (0, 1) if flip else (1, 0)
    down, right = where.strides[2:]
    with b.loop("unit", var("lo"), var("hi")) as unit, b.loop("c", 0, lanes, vl) as c:
        first = unit * where.strides[unit_axis] + c * where.strides[lane_axis] + where.offset
        step = where.strides[lane_axis]

        def tap(i: int, j: int) -> Value:
            i, j = (2 - i, 2 - j) if flip else (i, j)
            return b.load(where.buffer, first + (i * down + j * right), vl, step)

        columns = [_kernel([tap(i, j) for i in range(3)], b) for j in range(3)]
        at = unit * to.strides[2] + c * to.strides[3] + to.offset
        for i in range(PATCH):
            for j, value in enumerate(_kernel([column[i] for column in columns], b)):
                b.store(to.buffer, at + (i * to.strides[0] + j * to.strides[1]), value, to.strides[3])
    b.choose("shared", "channels in")
    return [b.finish(Range(units))], {w}
