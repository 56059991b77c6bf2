"""Describe contractions as axes with strides: what a matrix product and each form of convolution have in common.

In: a contraction's node, and where the plan put its operands. Out: :class:`Part` objects, one per nest of loops.
Every axis is one of *rows* (in operand a and the result), *lanes* (contiguous in operand b and the result; in
depthwise convolution also in a), *ks* (summed), or *outer* (groups, batches of matrices).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from smelt.compiler.loops import Index, var
from smelt.compiler.passes.layout import Storage
from smelt.compiler.passes.storage import Plan
from smelt.graph.graph import Node
from smelt.ops.primitive import Rows


@dataclass
class Part:
    """One nest of loops: axes by name, their extents and strides, and where results go.

    ``out`` gives the logical coordinates of the result in terms of the axes' variables; ``lane_axis`` is the result's
    axis along which lanes run. ``clip`` gives for an axis of taps (row axis, stride, padding in front, size): of a row,
    only the taps count that fall into the image; the others would read its padding, which is not in memory.
    """

    a: Storage
    b: Storage
    outer: list[str]
    rows: list[str]
    ks: list[str]
    lane: str
    extent: dict[str, int]
    a_stride: dict[str, int]
    b_stride: dict[str, int]
    out: tuple[Index, ...]
    lane_axis: int
    batch: dict[str, int] = field(default_factory=dict)  # axes that follow the batch, with rows per sample
    a_first: int = 0
    b_first: int = 0
    clip: dict[str, tuple[str, int, int, int]] = field(default_factory=dict)
    pair: str = ""  # the axis of the ks of which two neighbours are multiplied at once
    registers: int = 16
    unroll: int = 192  # multiply-adds in one straight run; half as many products of pairs, whose loads LLVM moves ahead
    window: tuple[tuple[str, int], ...] = ()  # axes of a pooling window, all of which lies in a tile
    pooled: tuple[Index, ...] = ()  # the coordinates of what a window becomes

    @property
    def empty(self) -> bool:
        """Whether there is nothing to multiply: pixels that a convolution with strides has stepped over."""
        return any(self.extent[name] == 0 for name in self.ks)

    def stop(self, name: str) -> Index:
        """Return how far a loop over an axis goes."""
        return var("n") * self.batch[name] if name in self.batch else Index(self.extent[name])


def _batch(rows: Rows | None, axis: int, name: str) -> dict[str, int]:
    return {name: rows.per} if rows is not None and rows.axis == axis else {}


def matmul_parts(plan: Plan, node: Node) -> list[Part]:
    """Describe ``a @ b``; when lanes run along the rows, the operands change places."""
    x, y = (plan.operand(node, i) for i in (0, 1))
    sx, sy = plan.storage[x], plan.storage[y]
    rank = len(node.shape)
    m, k, n = x.shape[-2], x.shape[-1], y.shape[-1]
    left = {"m": sx.strides[-2], "k": sx.strides[-1]}
    right = {"k": sy.strides[-2], "n": sy.strides[-1]}
    extent = {"m": m, "k": k, "n": n}
    batch = {**_batch(x.spec.rows, len(x.shape) - 2, "m"), **_batch(x.spec.rows, len(x.shape) - 1, "k")}
    batch |= {**_batch(y.spec.rows, len(y.shape) - 1, "n"), **_batch(y.spec.rows, len(y.shape) - 2, "k")}
    outer = []
    for i in range(rank - 2):
        name = f"b{i}"
        outer.append(name)
        extent[name] = node.shape[i]
        for operand, storage, strides in ((x, sx, left), (y, sy, right)):
            axis = i - (rank - len(operand.shape))
            strides[name] = storage.strides[axis] if axis >= 0 and operand.shape[axis] != 1 else 0
            if axis >= 0 and operand.shape[axis] == node.shape[i]:  # a batch of one may be repeated
                batch |= _batch(operand.spec.rows, axis, name)
    column = var("n")
    if sy.panel is not None:
        extent["n"], right["p"] = sy.panel
        left["p"], extent["p"] = 0, n // extent["n"]
        outer.append("p")
        column = var("p") * extent["n"] + column
    out = (*(var(o) for o in outer[: rank - 2]), var("m"), column)
    if node in plan.lane_rows:
        return [Part(sy, sx, outer, ["n"], ["k"], "m", extent, right, left, out, rank - 2, batch)]
    return [Part(sx, sy, outer, ["m"], ["k"], "n", extent, left, right, out, rank - 1, batch)]


def conv2d_parts(plan: Plan, node: Node) -> list[Part]:
    """Describe the convolution: rows are output pixels, lanes output channels."""
    x, w = (plan.operand(node, i) for i in (0, 1))
    sx, sw = plan.storage[x], plan.storage[w]
    a = node.attrs
    groups = a["groups"]
    o, i, kh, kw = w.shape
    n, _, oh, ow = node.shape
    (th, tw), (dh, dw) = a["stride"], a["dilation"]
    left = {"n": sx.strides[0], "y": sx.strides[2] * th, "x": sx.strides[3] * tw}
    left |= {"kh": sx.strides[2] * dh, "kw": sx.strides[3] * dw}
    right = {"kh": sw.strides[2], "kw": sw.strides[3]}
    extent = {"n": n, "y": oh, "x": ow, "kh": kh, "kw": kw}
    batch = _batch(x.spec.rows, 0, "n")
    clip, first = {}, 0
    if "clip" in a:
        top, at_left = a["clip"]
        clip = {"kh": ("y", th, top, x.shape[2]), "kw": ("x", tw, at_left, x.shape[3])}
        first = -top * sx.strides[2] - at_left * sx.strides[3]
    if groups == o and i == 1:
        left["c"], right["c"], extent["c"] = sx.strides[1], sw.strides[0], o
        out = (var("n"), var("c"), var("y"), var("x"))
        rows, ks = ["n", "y", "x"], ["kh", "kw"]
        return [Part(sx, sw, [], rows, ks, "c", extent, left, right, out, 1, batch, first, clip=clip)]
    per = o // groups
    left |= {"ic": sx.strides[1], "g": sx.strides[1] * i}
    right |= {"ic": sw.strides[1], "c": sw.strides[0], "g": sw.strides[0] * per}
    if sw.panel is not None:
        per, right["g"] = sw.panel
        left["g"], groups = 0, o // per
    extent |= {"ic": i, "c": per, "g": groups}
    out = (var("n"), var("g") * per + var("c"), var("y"), var("x"))
    ks = ["kh", "kw", "ic"]
    part = Part(sx, sw, ["g"], ["n", "y", "x"], ks, "c", extent, left, right, out, 1, batch, first, clip=clip)
    _pool(part, plan.fusion.group_of[node].window)
    return [part]


def _pool(p: Part, window: tuple[int, int]) -> None:
    """Let rows be the windows of a pooling, with the pixels in each as axes of their own."""
    if window == (1, 1):
        return
    n, c, y, x = p.out
    p.window = (("wy", window[0]), ("wx", window[1]))
    for axis, inner, size in (("y", "wy", window[0]), ("x", "wx", window[1])):
        p.a_stride[inner] = p.a_stride[axis]
        p.a_stride[axis] *= size
        p.extent[axis] //= size
    p.pooled = p.out
    p.out = (n, c, y * window[0] + var("wy"), x * window[1] + var("wx"))


def conv2d_input_grad_parts(plan: Plan, node: Node) -> list[Part]:
    """Describe the gradient of the images, one part per residue of the pixel's position modulo the stride."""
    g, w = (plan.operand(node, i) for i in (0, 1))
    sg, sw = plan.storage[g], plan.storage[w]
    a = node.attrs
    groups = a["groups"]
    o, i, *_ = w.shape
    depthwise = groups == o and i == 1
    axes = [list(_residues(node, w, axis)) for axis in (0, 1)]
    parts = []
    for ry, count_y, taps_y in axes[0]:
        for rx, count_x, taps_x in axes[1]:
            (ky, step_y, reach_y, back_y), (kx, step_x, reach_x, back_x) = taps_y[1], taps_x[1]
            left = {"n": sg.strides[0], "y": sg.strides[2], "x": sg.strides[3]}
            left |= {"kh": -back_y * sg.strides[2], "kw": -back_x * sg.strides[3]}
            right = {"kh": step_y * sw.strides[2], "kw": step_x * sw.strides[3]}
            extent = {"n": node.shape[0], "y": count_y, "x": count_x, "kh": taps_y[0], "kw": taps_x[0]}
            a_first = reach_y * sg.strides[2] + reach_x * sg.strides[3]
            b_first = ky * sw.strides[2] + kx * sw.strides[3]
            (sy, sx) = a["stride"]
            y, x = var("y") * sy + ry, var("x") * sx + rx
            batch = _batch(g.spec.rows, 0, "n")
            if depthwise:
                left["c"], right["c"], extent["c"] = sg.strides[1], sw.strides[0], o
                out = (var("n"), var("c"), y, x)
                outer, ks = [], ["kh", "kw"]
            else:
                per = o // groups
                left |= {"oc": sg.strides[1], "g": sg.strides[1] * per}
                right |= {"oc": sw.strides[0], "c": sw.strides[1], "g": sw.strides[0] * per}
                extent |= {"oc": per, "c": i, "g": groups}
                out = (var("n"), var("g") * i + var("c"), y, x)
                outer, ks = ["g"], ["kh", "kw", "oc"]
            parts.append(
                Part(
                    sg,
                    sw,
                    outer,
                    ["n", "y", "x"],
                    ks,
                    "c",
                    extent,
                    left,
                    right,
                    out,
                    1,
                    batch,
                    a_first,
                    b_first,
                )
            )
    return parts


def _residues(node: Node, w: Node, axis: int) -> Iterator[tuple[int, int, tuple[int, tuple[int, int, int, int]]]]:
    """Yield (residue, pixels, (taps, (first tap, tap step, first gradient, gradients back per tap)))."""
    a = node.attrs
    size, s, d = a["size"][axis], a["stride"][axis], a["dilation"][axis]
    before, origin = a["padding"][axis][0], a["origin"][axis]
    for r in range(min(s, size)):
        taps = [k for k in range(w.shape[2 + axis]) if (r + before - k * d) % s == 0]
        count = -(-(size - r) // s)
        if not taps:
            yield r, count, (0, (0, 0, 0, 0))
            continue
        step = taps[1] - taps[0] if len(taps) > 1 else 1
        reach = (r + before - taps[0] * d) // s + origin
        yield r, count, (len(taps), (taps[0], step, reach, step * d // s))


def conv2d_weight_grad_parts(plan: Plan, node: Node) -> list[Part]:
    """Describe the gradient of the kernels: rows are taps and input channels, the ks are all pixels."""
    x, g = (plan.operand(node, i) for i in (0, 1))
    sx, sg = plan.storage[x], plan.storage[g]
    a = node.attrs
    groups = a["groups"]
    o, i, kh, kw = node.shape
    n, _, oh, ow = g.shape
    (th, tw), (dh, dw) = a["stride"], a["dilation"]
    left = {"kh": sx.strides[2] * dh, "kw": sx.strides[3] * dw}
    left |= {"n": sx.strides[0], "y": sx.strides[2] * th, "x": sx.strides[3] * tw}
    right = {"n": sg.strides[0], "y": sg.strides[2], "x": sg.strides[3]}
    extent = {"n": n, "y": oh, "x": ow, "kh": kh, "kw": kw}
    batch = _batch(x.spec.rows, 0, "n")
    ks = ["n", "y", "x"]
    if groups == o and i == 1:
        left["c"], right["c"], extent["c"] = sx.strides[1], sg.strides[1], o
        out = (var("c"), Index(), var("kh"), var("kw"))
        return [Part(sx, sg, [], ["kh", "kw"], ks, "c", extent, left, right, out, 0, batch)]
    per = o // groups
    left |= {"ic": sx.strides[1], "g": sx.strides[1] * i}
    right |= {"c": sg.strides[1], "g": sg.strides[1] * per}
    extent |= {"ic": i, "c": per, "g": groups}
    out = (var("g") * per + var("c"), var("ic"), var("kh"), var("kw"))
    return [Part(sx, sg, ["g"], ["kh", "kw", "ic"], ks, "c", extent, left, right, out, 0, batch)]


def conv2d_winner_grad_parts(plan: Plan, node: Node) -> list[Part]:
    """Describe the gradient of the kernels from pooled images: the ks are windows, a number of a is four of them."""
    x, g = (plan.operand(node, i) for i in (0, 1))
    sx, sg = plan.storage[x], plan.storage[g]
    a = node.attrs
    o, i, kh, kw = node.shape
    n, _, oh, ow = g.shape
    (th, tw), (dh, dw), (ph, pw) = a["stride"], a["dilation"], a["window"]
    _, line, one, _ = sx.strides
    left = {"kh": line * dh, "kw": one * i * dw, "ic": one}
    left |= {"n": sx.strides[0], "y": line * th * ph, "x": one * i * tw * pw}
    right = {"n": sg.strides[0], "y": sg.strides[2], "x": sg.strides[3], "c": sg.strides[1]}
    extent = {"n": n, "y": oh, "x": ow, "kh": kh, "kw": kw, "ic": i, "c": o}
    out = (var("c"), var("ic"), var("kh"), var("kw"))
    rows, ks = ["kh", "kw", "ic"], ["n", "y", "x"]
    return [Part(sx, sg, [], rows, ks, "c", extent, left, right, out, 0, _batch(g.spec.rows, 0, "n"))]


def describe(plan: Plan, node: Node) -> list[Part]:
    """Return the parts of a contraction; where it multiplies pairs, their axis counts pairs."""
    parts = DESCRIBE[node.opname](plan, node)
    if node in plan.pairs:
        for p in parts:
            p.pair = plan.pairs[node]
            p.extent[p.pair] = -(-p.extent[p.pair] // 2)
            if p.a.pair is None:
                p.a_stride[p.pair] *= 2
    return parts


DESCRIBE: dict[str, Callable[[Plan, Node], list[Part]]] = {
    "matmul": matmul_parts,
    "conv2d": conv2d_parts,
    "conv2d_input_grad": conv2d_input_grad_parts,
    "conv2d_weight_grad": conv2d_weight_grad_parts,
    "conv2d_winner_grad": conv2d_winner_grad_parts,
}
