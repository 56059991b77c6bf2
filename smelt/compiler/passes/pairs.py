"""Pairs: along which axis a contraction of bfloat16 multiplies two elements at once, and how pairs lie in memory.

In: a contraction. Out: a :class:`Pairing`, or None where the sum has an odd length or no axis serves both operands. One
operand gives the lanes: its pairs lie next to each other along them. The other's pairs are repeated in every lane.

Gradients of weights sum over the batch, and pair two samples. An odd last sample is paired with zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smelt.graph.graph import Node

FEW = 4  # lanes below which nothing is gained


@dataclass(frozen=True)
class Pairing:
    """The axis of both operands that pairs, its name among the ks, and the operand and axis of the lanes."""

    axes: tuple[int, int]
    name: str
    lanes: int
    lane_axis: int


def pairing(node: Node, along_rows: bool) -> Pairing | None:
    """Return how a contraction can multiply pairs; ``along_rows`` as in :class:`Plan.lane_rows`."""
    found = _matmul(node, along_rows) if node.opname == "matmul" else _convolution(node)
    if found is None:
        return None
    x, axis = node.inputs[found.lanes], found.axes[found.lanes]
    follows = x.spec.rows is not None and x.spec.rows.axis == axis
    return found if x.shape[found.lane_axis] >= FEW and (follows or x.shape[axis] % 2 == 0) else None


def _matmul(node: Node, along_rows: bool) -> Pairing:
    a, b = (len(x.shape) for x in node.inputs)
    return Pairing((a - 1, b - 2), "k", 0 if along_rows else 1, a - 2 if along_rows else b - 1)


def _convolution(node: Node) -> Pairing | None:
    a, (x, w) = node.attrs, node.inputs
    if a["groups"] > 1:
        return None
    if node.opname == "conv2d_input_grad":
        return Pairing((1, 0), "oc", 1, 1)
    single = x.shape[1] == 1  # then the pixels of a row lie side by side
    if node.opname == "conv2d":
        if not single:
            return Pairing((1, 1), "ic", 1, 0)
        return Pairing((3, 3), "kw", 1, 0) if a["dilation"][1] == 1 else None
    if single and a["stride"][1] == 1 and w.shape[3] % 2 == 0:
        return Pairing((3, 3), "x", 1, 1)
    return Pairing((0, 0), "n", 1, 1)


def dense_pairs(shape: Sequence[int], order: Sequence[int], pair: int) -> tuple[tuple[int, ...], int]:
    """Return strides and number of elements of an array whose axes lie in ``order``, pairs along ``pair`` innermost."""
    strides = [0] * len(shape)
    step = 2
    for axis in reversed(order):
        strides[axis] = step
        step *= -(-shape[axis] // 2) if axis == pair else max(shape[axis], 1)
    return tuple(strides), step
