"""Pooling over windows of one to three spatial axes, with every form of padding ONNX has.

In: images (N, C, ...). Out: one value per window. Windows are separable: where there is no primitive for them (three
axes, dilation, padding as wide as the window) they are taken axis by axis.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from smelt import ops
from smelt.functions import maximum
from smelt.onnx.reader.arguments import Arguments, Unsupported, room
from smelt.onnx.reader.operators.contraction import Pair, window
from smelt.onnx.reader.operators.entry import Entry
from smelt.tensor import Tensor

MAX_WINDOW = 1 << 8
"""Most elements along one axis of a window that is taken element by element."""


class _Windows:
    """Where the windows of a pooling lie: sizes and padding (after ``ceil_mode``) of each spatial axis."""

    def __init__(self, c: Arguments) -> None:
        x = c.tensor()
        kernel = c.integers("kernel_shape") or []
        if not 1 <= len(kernel) <= 3 or min(kernel) < 1 or max(kernel) > 1 << 20:
            raise Unsupported(f"kernel_shape {kernel[:8]}, expected 1 to 3 numbers of at least 1")
        if x.ndim != len(kernel) + 2:
            raise Unsupported(f"windows of {len(kernel)} axes of an input of shape {x.shape}")
        self.sizes = [int(d) for d in x.shape[2:]]
        self.kernel = kernel
        self.strides, self.declared, self.dilations = window(c, self.sizes, kernel)
        ceil = c.attribute("ceil_mode", 0) and c.attribute("auto_pad", "NOTSET") == "NOTSET"
        self.out, self.pads = [], []
        for size, k, s, d, (before, after) in zip(
            self.sizes, kernel, self.strides, self.dilations, self.declared, strict=True
        ):
            room = size + before + after - d * (k - 1) - 1
            if room < 0 and not (ceil and room > -s):
                raise Unsupported(f"a window of {k} (dilation {d}) does not fit into {size} + {before} + {after}")
            count = (-(-room // s) if ceil else room // s) + 1
            if ceil and (count - 1) * s >= size + before:  # a window must begin in the image or before it
                count -= 1
            self.out.append(count)
            self.pads.append((before, max(after, (count - 1) * s + d * (k - 1) + 1 - size - before)))

    @property
    def options(self) -> tuple[list[int], list[int], list[Pair], list[int]]:
        """Kernel, strides, padding and dilations."""
        return self.kernel, self.strides, self.pads, self.dilations

    def counts(self, include_pad: bool) -> list[np.ndarray]:
        """Return how many elements of each spatial axis each window's mean is over."""
        lines = []
        for size, k, s, d, (before, after), n in zip(
            self.sizes, self.kernel, self.strides, self.dilations, self.declared, self.out, strict=True
        ):
            low, high = (0, size + before + after) if include_pad else (before, before + size)
            at = np.arange(*room([n])) * s
            first = np.maximum(-((at - low) // d), 0)  # of the window's elements the first inside: rounded up
            last = np.minimum((high - 1 - at) // d, k - 1)
            lines.append(np.maximum(last - first + 1, 1))
        return lines


def _pooled(
    x: Tensor,
    options: tuple[Sequence[int], Sequence[int], Sequence[Pair], Sequence[int]],
    primitive: Any,
    join: Callable[[Tensor, Tensor], Tensor],
    fill: float,
) -> Tensor:
    kernel, strides, pads, dilations = options
    plain = max(dilations) == 1 and all(max(p) < k for p, k in zip(pads, kernel, strict=True))
    if len(kernel) == 1:
        one = ([1, *kernel], [1, *strides], [(0, 0), *pads], [1, *dilations])
        return _pooled(x.unsqueeze(2), one, primitive, join, fill).squeeze(2)
    if plain and len(kernel) == 2:
        return primitive(x, kernel=tuple(kernel), stride=tuple(strides), padding=tuple(pads))
    if plain:  # the last two axes, then the first
        n, c, depth, h, w = x.shape
        flat = primitive(
            x.reshape(n, c * depth, h, w), kernel=tuple(kernel[1:]), stride=tuple(strides[1:]), padding=tuple(pads[1:])
        )
        h, w = flat.shape[2:]
        deep = primitive(
            flat.reshape(n, c, depth, h * w),
            kernel=(kernel[0], 1),
            stride=(strides[0], 1),
            padding=(pads[0], (0, 0)),
        )
        return deep.reshape(n, c, deep.shape[2], h, w)
    return _by_slices(x, options, join, fill)


def _by_slices(
    x: Tensor,
    options: tuple[Sequence[int], Sequence[int], Sequence[Pair], Sequence[int]],
    join: Callable[[Tensor, Tensor], Tensor],
    fill: float,
) -> Tensor:
    for axis, (k, s, (before, after), d) in enumerate(zip(*options, strict=True), start=2):
        if k > MAX_WINDOW:
            raise Unsupported(f"a window of {k} elements along an axis")
        size = int(x.shape[axis]) + before + after
        if before or after:
            shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
            start = tuple(before if i == axis else 0 for i in range(x.ndim))
            x = ops.place(x, shape=shape, start=start, step=(1,) * x.ndim, fill=fill)
        count = (size - d * (k - 1) - 1) // s + 1
        parts = []
        for i in range(k):
            cut = slice(i * d, i * d + (count - 1) * s + 1, s)
            parts.append(x[(slice(None),) * axis + (cut,)])
        x = functools.reduce(join, parts)
    return x


def _max_pool(c: Arguments) -> Tensor | tuple[Tensor, Tensor]:
    x, windows = c.tensor(), _Windows(c)
    dtype = x.dtype
    floating = x if dtype.kind == "f" else x.astype("float32")  # exact: ONNX pools 8-bit integers only
    out = _pooled(floating, windows.options, ops.max_pool2d, maximum, -math.inf).astype(dtype)
    if not c.wants(1):
        return out
    return out, _positions(floating, windows, c.attribute("storage_order", 0))


def _positions(x: Tensor, windows: _Windows, by_columns: int) -> Tensor:
    """Return where in the whole tensor each window's first maximum lies."""
    kernel, strides, pads, dilations = windows.options
    if len(kernel) > 2 or max(dilations) > 1:
        raise Unsupported("the positions of maxima in windows of three axes or with dilation")
    lift = len(kernel) == 1
    if lift:
        x = x.unsqueeze(2)
        kernel, strides, pads = [1, *kernel], [1, *strides], [(0, 0), *pads]
    inside = ops.max_pool2d_index(x, kernel=tuple(kernel), stride=tuple(strides), padding=tuple(pads))
    inside = inside.astype("float32")
    down = ops.floor((inside + 0.5) / float(kernel[1]))
    right = inside - down * float(kernel[1])
    shape = inside.shape

    def line(axis: int) -> Tensor:
        return ops.iota(shape=shape, axis=axis, dtype="int64")

    y = line(2) * strides[0] - pads[0][0] + down.astype("int64")
    z = line(3) * strides[1] - pads[1][0] + right.astype("int64")
    channels, (h, w) = int(shape[1]), (int(d) for d in x.shape[2:])
    image = (line(0) * channels + line(1)) * (h * w)
    out = image + (z * h + y if by_columns else y * w + z)
    return out.squeeze(2) if lift else out


def _average_pool(c: Arguments) -> Tensor:
    x, windows = c.tensor(), _Windows(c)
    total = _pooled(x, windows.options, ops.sum_pool2d, operator.add, 0.0)
    counts = windows.counts(bool(c.attribute("count_include_pad", 0)))
    fixed = math.prod(int(n[0]) for n in counts if n.min() == n.max())
    varying = [
        Tensor(n.astype(x.dtype).reshape(-1, *(1,) * (len(counts) - 1 - i)))
        for i, n in enumerate(counts)
        if n.min() != n.max()
    ]
    return total / functools.reduce(operator.mul, varying, float(fixed))


def _global(reduce: Callable[[Tensor, Any], Tensor]) -> Callable[[Arguments], Tensor]:
    def run(c: Arguments) -> Tensor:
        x = c.tensor()
        if x.ndim < 3:
            raise Unsupported(f"an input of shape {x.shape}, expected (N, C, ...)")
        return reduce(x, tuple(range(2, x.ndim)))

    return run


OPERATORS: dict[str, Entry] = {
    "MaxPool": Entry(_max_pool),
    "AveragePool": Entry(_average_pool),
    "GlobalAveragePool": Entry(_global(lambda x, axes: x.mean(axes, keepdims=True))),
    "GlobalMaxPool": Entry(_global(lambda x, axes: x.max(axes, keepdims=True))),
}
