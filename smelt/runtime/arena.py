"""Memory that native code and NumPy share: 64-byte-aligned arrays with the strides a program asks for.

In: sizes in bytes, or tensors to be moved. Out: arrays; a moved tensor's value becomes a view of the arena.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from smelt.tensor import Tensor

ALIGNMENT = 64


class Moves:
    """Counts how often tensors were moved: who keeps pointers compares, instead of looking at every tensor."""

    count = 0


moves = Moves()


def aligned_bytes(size: int) -> np.ndarray:
    """Return ``size`` zeroed bytes that start at a multiple of 64."""
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size]


def element_strides(array: np.ndarray) -> tuple[int, ...]:
    """Return strides counted in elements."""
    return tuple(s // array.itemsize for s in array.strides)


def lies_as(array: np.ndarray, strides: tuple[int, ...]) -> bool:
    """Return whether an array is aligned, writable and has these element strides (sizes of 1 do not count)."""
    same = all(d <= 1 or a == s for d, a, s in zip(array.shape, element_strides(array), strides, strict=True))
    return same and array.ctypes.data % ALIGNMENT == 0 and array.flags.writeable


def aligned_as(array: np.ndarray, strides: tuple[int, ...]) -> np.ndarray:
    """Return an aligned copy with these element strides."""
    flat = aligned_bytes(max(array.nbytes, 1))[: array.nbytes].view(array.dtype)
    view = np.lib.stride_tricks.as_strided(flat, array.shape, tuple(s * array.itemsize for s in strides))
    view[...] = array
    return view


def laid_out(
    array: np.ndarray, strides: tuple[int, ...], pair: int | None, panel: tuple[int, int] | None
) -> np.ndarray:
    """Return an aligned copy that lies as :class:`smelt.compiler.passes.layout.Storage` says."""
    if pair is None and panel is None:
        return aligned_as(array, strides)
    axis = strides.index(1) if pair is None else pair
    size, outer = (2, strides[axis]) if panel is None else panel
    split = np.moveaxis(array, axis, -1).reshape(*np.delete(array.shape, axis), array.shape[axis] // size, size)
    return aligned_as(split, (*np.delete(strides, axis), outer, 1))


def bind(tensors: Sequence[Tensor], strides: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """Move tensors into one arena where they do not lie as asked; return the array of each."""
    move = []
    for tensor, wanted in zip(tensors, strides, strict=True):
        value = tensor.numpy()
        if not (tensor._bound and lies_as(value, wanted)):
            move.append((tensor, value, wanted))
    moves.count += bool(move)
    sizes = [-(-max(v.nbytes, 1) // ALIGNMENT) * ALIGNMENT for _, v, _ in move]
    arena = aligned_bytes(sum(sizes))
    offset = 0
    for (tensor, value, wanted), size in zip(move, sizes, strict=True):
        flat = arena[offset : offset + value.nbytes].view(value.dtype)
        byte_strides = tuple(s * value.itemsize for s in wanted)
        view = np.lib.stride_tricks.as_strided(flat, value.shape, byte_strides) if value.ndim else flat.reshape(())
        view[...] = value
        tensor._value = view
        tensor._bound = True
        offset += size
    return [t.numpy() for t in tensors]
