"""Contractions: convolution of one or two spatial axes, and matrix products.

In: images or sequences and kernels; matrices. Out: tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from smelt import ops
from smelt.onnx.reader.arguments import Arguments, Unsupported
from smelt.onnx.reader.operators.entry import Entry
from smelt.tensor import Tensor, matmul

Pair = tuple[int, int]


def window(c: Arguments, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[Pair], list[int]]:
    """Return strides, padding (before, after) and dilations for each spatial axis, ``auto_pad`` worked out.

    Parameters
    ----------
    c : Arguments
        Of a convolution or pooling.
    sizes, kernel : sequence of int
        Of the spatial axes.
    """
    rank = len(kernel)
    strides = per_axis(c, "strides", rank)
    dilations = per_axis(c, "dilations", rank)
    auto = c.attribute("auto_pad", "NOTSET")
    if len(sizes) != rank:
        raise Unsupported(f"{len(sizes)} spatial axes and windows of {rank}")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = []
        for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
            total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
            small, large = total // 2, total - total // 2
            pads.append((small, large) if auto == "SAME_UPPER" else (large, small))
    elif auto == "NOTSET":
        flat = c.integers("pads") or [0] * (2 * rank)
        if len(flat) != 2 * rank or min(flat) < 0 or max(flat) > 1 << 20:
            raise Unsupported(f"pads {flat[:8]}, expected {2 * rank} numbers of at least 0")
        pads = list(zip(flat[:rank], flat[rank:], strict=True))
    elif auto == "VALID":
        pads = [(0, 0)] * rank
    else:
        raise Unsupported(f"auto_pad={auto!r}")
    return strides, pads, dilations


def per_axis(c: Arguments, name: str, rank: int) -> list[int]:
    """Return an attribute with one number of at least 1 for each spatial axis; ones by default."""
    values = c.integers(name) or [1] * rank
    if len(values) != rank or min(values) < 1 or max(values) > 1 << 20:
        raise Unsupported(f"{name} {values[:8]}, expected {rank} numbers of at least 1")
    return values


def _conv(c: Arguments) -> Tensor:
    x, w = c.tensor(0), c.tensor(1)
    rank = w.ndim - 2
    if rank not in (1, 2) or x.ndim != w.ndim:
        raise Unsupported(f"images of {x.ndim - 2} and kernels of {rank} spatial axes, expected 1 or 2")
    kernel = c.integers("kernel_shape") or list(w.shape[2:])
    if kernel != list(w.shape[2:]):
        raise Unsupported(f"kernel_shape {kernel[:8]} for weights of shape {w.shape}")
    strides, pads, dilations = window(c, [int(d) for d in x.shape[2:]], kernel)
    if rank == 1:
        x, w = x.unsqueeze(2), w.unsqueeze(2)
        strides, pads, dilations = [1, *strides], [(0, 0), *pads], [1, *dilations]
    groups = c.attribute("group", 1)
    if groups < 1:
        raise Unsupported(f"group {groups}, expected at least 1")
    attributes: dict[str, Any] = {"stride": strides, "padding": pads, "dilation": dilations}
    out = ops.conv2d(x, w, **{k: tuple(v) for k, v in attributes.items()}, groups=groups)
    if c.has(2):
        out = out + c.tensor(2).reshape(-1, 1, 1)
    return out.squeeze(2) if rank == 1 else out


def _gemm(c: Arguments) -> Tensor:
    a, b = c.tensor(0), c.tensor(1)
    if a.ndim != 2 or b.ndim != 2:
        raise Unsupported(f"operands of shapes {a.shape} and {b.shape}, expected matrices")
    a = a.mT if c.attribute("transA", 0) else a
    b = b.mT if c.attribute("transB", 0) else b
    alpha, beta = c.attribute("alpha", 1.0), c.attribute("beta", 1.0)
    out = a @ b
    out = out if alpha == 1.0 else out * alpha
    if not c.has(2) or beta == 0.0:
        return out
    bias = c.tensor(2)
    return out + (bias if beta == 1.0 else bias * beta)


OPERATORS: dict[str, Entry] = {
    "Conv": Entry(_conv),
    "Gemm": Entry(_gemm),
    "MatMul": Entry(lambda c: matmul(c.tensor(0), c.tensor(1))),
}
