"""Operators that move elements: reshape, transpose, slice, pad, split, gather by known indices.

In: a tensor and numbers, which must be known without running the network. Out: the same elements elsewhere. The same
functions move the elements of arrays, so that shapes are computed by the code that moves images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from smelt import ops
from smelt.functions import concat
from smelt.graph.trace import BatchSize, plain
from smelt.onnx.reader.arguments import Arguments, Unsupported, Value, as_tensor, axes_of, axis_of, follows_batch, room
from smelt.onnx.reader.operators.entry import Entry
from smelt.tensor import Tensor

Function = Callable[[Arguments], Any]
FAR = (1 << 31) - 1
"""An end that exporters write for: as far as there is."""


def _both(function: Callable[[Arguments, Value], Any]) -> Entry:
    """Return an entry of a function that moves a tensor as well as an array."""
    return Entry(lambda c: function(c, c.tensor()), lambda c: function(c, c.known(0)))


def _shape_of(x: Value) -> tuple[Any, ...]:
    return tuple(x.shape)


# --- shapes ------------------------------------------------------------------------------------------------------


def _reshape(c: Arguments, x: Value) -> Value:
    wanted = c.integers("shape") if "shape" in c.attributes else c.ints(1)
    sizes = list(wanted or [])
    have = _shape_of(x)
    if not c.attribute("allowzero", 0):
        if any(type(d) is int and d == 0 and i >= len(have) for i, d in enumerate(sizes)):
            raise Unsupported(f"shape {sizes[:8]} keeps a size that an input of shape {have} does not have")
        sizes = [have[i] if type(d) is int and d == 0 else d for i, d in enumerate(sizes)]
    return x.reshape(tuple(sizes))


def _flatten(c: Arguments, x: Value) -> Value:
    have = _shape_of(x)
    axis = c.attribute("axis", 1)
    if not -len(have) <= axis <= len(have):
        raise Unsupported(f"axis {axis} of {len(have)} axes")
    axis = axis + len(have) if axis < 0 else axis
    after = math.prod(plain(d) for d in have[axis:])
    lead: Any = have[0] if axis == 1 else math.prod(plain(d) for d in have[:axis])
    return x.reshape((lead, after))


def _squeeze(c: Arguments, x: Value) -> Value:
    have = _shape_of(x)
    asked = c.given("axes", 1)
    axes = axes_of(asked, len(have)) if asked is not None else tuple(i for i, d in enumerate(have) if d == 1)
    if any(have[a] != 1 for a in axes):
        raise Unsupported(f"axes {list(axes)} of shape {have} have not size 1")
    return x.reshape(tuple(d for i, d in enumerate(have) if i not in axes))


def _unsqueeze(c: Arguments, x: Value) -> Value:
    have, axes = list(_shape_of(x)), c.given("axes", 1)
    if not axes or len(axes) > 16:
        raise Unsupported("expected 1 to 16 axes")
    for axis in axes_of(axes, len(have) + len(axes)):
        have.insert(axis, 1)
    return x.reshape(tuple(have))


def _transpose(c: Arguments, x: Value) -> Value:
    order = c.integers("perm")
    if order is None:
        order = list(reversed(range(x.ndim)))
    if sorted(order) != list(range(x.ndim)):
        raise Unsupported(f"perm {order[:8]} of {x.ndim} axes")
    return x.transpose(order) if isinstance(x, np.ndarray) else x.permute(*order)


def _expand(c: Arguments, x: Value) -> Value:
    wanted, have = c.ints(1), _shape_of(x)
    rank = max(len(wanted), len(have))
    mine, other = ([1] * (rank - len(s)) + list(s) for s in (have, wanted))
    sizes = [a if type(b) is int and b == 1 else b for a, b in zip(mine, other, strict=True)]
    if isinstance(x, np.ndarray) and not follows_batch(sizes):
        return np.broadcast_to(x, room(sizes)).copy()
    return (x if isinstance(x, Tensor) else as_tensor(x)).broadcast_to(tuple(sizes))


# --- parts -------------------------------------------------------------------------------------------------------


def _slice(c: Arguments, x: Value) -> Value:
    starts, ends = c.given("starts", 1), c.given("ends", 2)
    if starts is None or ends is None:
        raise Unsupported("expected starts and ends")
    axes = c.given("axes", 3)
    axes = list(range(len(starts))) if axes is None else axes
    steps = c.ints(4) if c.has(4) else [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise Unsupported("starts, ends, axes and steps of different lengths")
    cut = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step == 0:
            raise Unsupported("a step of 0")
        size = x.shape[axis_of(axis, x.ndim)]
        if type(start) is int and start == 0 and step == 1 and _reaches(end, size):
            continue  # the whole axis, whatever the batch
        stop = int(end)
        if step < 0 and stop < -int(size):
            cut[axis_of(axis, x.ndim)] = slice(int(start), None, int(step))
        else:
            cut[axis_of(axis, x.ndim)] = slice(int(start), stop, int(step))
    return x[tuple(cut)]


def _reaches(end: Any, size: Any) -> bool:
    """Return whether a slice that ends there takes the whole axis, for every batch."""
    if isinstance(size, BatchSize):
        return plain(end) >= FAR or (isinstance(end, BatchSize) and (end.per, plain(end)) == (size.per, plain(size)))
    return bool(end >= size)


def _split(c: Arguments, x: Value) -> tuple[Value, ...]:
    axis = axis_of(c.attribute("axis", 0), x.ndim)
    size, count = int(x.shape[axis]), len(c.outputs)
    sizes = c.given("split", 1)
    if sizes is None:
        each = -(-size // count)
        sizes = [each] * (size // each if each else 0)
        sizes += [size - sum(sizes)] * (len(sizes) < count)
    if len(sizes) != count or sum(sizes) != size or min(sizes) < 0:
        raise Unsupported(f"parts of sizes {sizes[:8]} of an axis of {size} for {count} outputs")
    ends = np.cumsum(sizes).tolist()
    lead = (slice(None),) * axis
    return tuple(x[(*lead, slice(end - n, end))] for n, end in zip(sizes, ends, strict=True))


def take(x: Value, indices: Sequence[int], axis: int) -> Value:
    """Return entries of an axis by known indices: slices of even steps, joined."""
    if isinstance(x, np.ndarray):
        room([*x.shape[:axis], len(indices), *x.shape[axis + 1 :]])
        return np.take(x, np.asarray(indices, np.int64), axis)
    runs: list[list[int]] = []
    for i in indices:
        last = runs[-1] if runs else None
        if last and (len(last) == 1 or last[-1] - last[-2] == i - last[-1]) and i != last[-1]:
            last.append(i)
        else:
            runs.append([i])
    if len(runs) > 256:
        raise Unsupported(f"{len(indices)} indices in no order; at most 256 runs of even steps can be taken")
    lead = (slice(None),) * axis
    parts = []
    for run in runs:
        step = run[1] - run[0] if len(run) > 1 else 1
        stop = run[-1] + (1 if step > 0 else -1)
        parts.append(x[(*lead, slice(run[0], stop if stop >= 0 else None, step))])
    return parts[0] if len(parts) == 1 else concat(parts, axis) if parts else x[(*lead, slice(0, 0))]


def _gather(c: Arguments, x: Value) -> Value:
    axis, indices = axis_of(c.attribute("axis", 0), x.ndim), c.known(1)
    if indices.dtype.kind not in "iu" or x.ndim == 0:
        raise Unsupported(f"indices of {indices.dtype} into shape {_shape_of(x)}")
    size = int(x.shape[axis])
    flat = [int(i) for i in indices.reshape(-1)]
    if any(not -size <= i < size for i in flat):
        raise Unsupported(f"indices outside of an axis of {size}")
    out = take(x, [i % size for i in flat], axis)
    return out.reshape((*out.shape[:axis], *indices.shape, *out.shape[axis + 1 :]))


# --- several, and more -------------------------------------------------------------------------------------------


def _concat(c: Arguments) -> Tensor:
    parts = c.tensors()
    return concat(parts, axis_of(c.attribute("axis", 0), parts[0].ndim))


def _concat_known(c: Arguments) -> np.ndarray:
    parts = [c.known(i) for i in range(len(c))]
    axis = axis_of(c.attribute("axis", 0), parts[0].ndim)
    room([sum(p.size for p in parts)])
    return np.concatenate(parts, axis)


def _pad(c: Arguments) -> Tensor:
    x, mode = c.tensor(), c.attribute("mode", "constant")
    amounts = c.given("pads", 1) or []
    axes = [axis_of(a, x.ndim) for a in c.ints(3)] if c.has(3) else list(range(x.ndim))
    if len(amounts) != 2 * len(axes) or max((abs(int(n)) for n in amounts), default=0) > 1 << 24:
        raise Unsupported(f"pads {amounts[:8]} for {len(axes)} axes")
    pads = {a: (int(amounts[i]), int(amounts[i + len(axes)])) for i, a in enumerate(axes)}
    for axis, (before, after) in pads.items():  # negative amounts cut off
        if before < 0 or after < 0:
            x = x[(slice(None),) * axis + (slice(max(-before, 0), int(x.shape[axis]) - max(-after, 0)),)]
    pads = {a: (max(before, 0), max(after, 0)) for a, (before, after) in pads.items() if max(before, after) > 0}
    if mode == "constant":
        fill = c.known(2).reshape(()).item() if c.has(2) else c.attribute("value", 0.0)
        return _placed(x, pads, fill)
    if mode not in ("edge", "reflect", "wrap"):
        raise Unsupported(f"mode={mode!r}")
    for axis, amount in pads.items():
        size = int(x.shape[axis])
        if size == 0 or (mode == "reflect" and size == 1) or max(size, *amount) > 1 << 16:
            raise Unsupported(f"{mode} padding of {amount} of an axis of {size}")
        moved = take(x, np.pad(np.arange(size), amount, mode=mode).tolist(), axis)
        assert isinstance(moved, Tensor)
        x = moved
    return x


def _placed(x: Tensor, pads: dict[int, tuple[int, int]], fill: float) -> Tensor:
    if not pads:
        return x
    shape = tuple(d + sum(pads[i]) if i in pads else d for i, d in enumerate(x.shape))
    start = tuple(pads[i][0] if i in pads else 0 for i in range(x.ndim))
    return ops.place(x, shape=shape, start=start, step=(1,) * x.ndim, fill=fill)


def _tile(c: Arguments) -> Tensor:
    x, repeats = c.tensor(), [int(n) for n in c.ints(1)]
    if len(repeats) != x.ndim or min(repeats, default=1) < 0:
        raise Unsupported(f"repeats {repeats[:8]} of {x.ndim} axes")
    for axis, n in enumerate(repeats):
        if n == 1:
            continue
        before, size, after = x.shape[:axis], int(x.shape[axis]), x.shape[axis + 1 :]
        spread = x.reshape((*before, 1, size, *after)).broadcast_to((*before, n, size, *after))
        x = spread.reshape((*before, n * size, *after))
    return x


def _depth_to_space(c: Arguments) -> Tensor:
    x, block = c.tensor(), c.attribute("blocksize", 1)
    if x.ndim != 4 or block < 1 or x.shape[1] % (block * block):
        raise Unsupported(f"blocks of {block} of an input of shape {x.shape}")
    n, channels, h, w = x.shape
    deep = channels // (block * block)
    if c.attribute("mode", "DCR") == "DCR":
        split = x.reshape(n, block, block, deep, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        split = x.reshape(n, deep, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
    return split.reshape(n, deep, h * block, w * block)


def _space_to_depth(c: Arguments) -> Tensor:
    x, block = c.tensor(), c.attribute("blocksize", 1)
    if x.ndim != 4 or block < 1 or x.shape[2] % block or x.shape[3] % block:
        raise Unsupported(f"blocks of {block} of an input of shape {x.shape}")
    n, channels, h, w = x.shape
    order = (0, 3, 5, 1, 2, 4) if c.attribute("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    split = x.reshape(n, channels, h // block, block, w // block, block).permute(*order)
    return split.reshape(n, channels * block * block, h // block, w // block)


OPERATORS: dict[str, Entry] = {
    "Identity": _both(lambda c, x: x),
    "Reshape": _both(_reshape),
    "Flatten": _both(_flatten),
    "Squeeze": _both(_squeeze),
    "Unsqueeze": _both(_unsqueeze),
    "Transpose": _both(_transpose),
    "Expand": _both(_expand),
    "Slice": _both(_slice),
    "Split": _both(_split),
    "Gather": _both(_gather),
    "Concat": Entry(_concat, _concat_known),
    "Pad": Entry(_pad, fixed=frozenset({2})),
    "Tile": Entry(_tile),
    "DepthToSpace": Entry(_depth_to_space),
    "SpaceToDepth": Entry(_space_to_depth),
}
