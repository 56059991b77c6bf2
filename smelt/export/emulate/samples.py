"""Samples as a program reads them: one array per input in; the bytes of one run after the other out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from smelt.errors import ShapeError, at_user_line
from smelt.export.c99.host import NUMPY
from smelt.export.c99.network import Network


def in_runs(net: Network, inputs: Sequence[np.ndarray], what: str) -> list[np.ndarray]:
    """Return one array per input, its first axis counting runs.

    Raises
    ------
    ShapeError
        When one has another shape, or they do not have equally many samples; ``what`` begins the line.
    """
    out = []
    for end, x in zip(net.inputs, inputs, strict=False):
        x = np.ascontiguousarray(x, NUMPY[end.dtype])
        if x.ndim == 0 or x.shape[1:] != end.shape[1:] or len(x) % end.shape[0]:
            raise ShapeError(at_user_line(f"{what}: expected (a multiple of {end.shape}), received {x.shape}"))
        out.append(x.reshape(-1, *end.shape))
    if len(inputs) != len(net.inputs) or len({len(x) for x in out}) != 1:
        raise ShapeError(
            at_user_line(f"{what}: expected {len(net.inputs)} arrays of equal length, received {len(inputs)}")
        )
    return out


def interleaved(samples: Sequence[np.ndarray]) -> bytes:
    r"""Return the inputs of the first run, then those of the next.

    Examples
    --------
    >>> interleaved([np.array([[1], [2]], np.uint8), np.array([[3], [4]], np.uint8)])
    b'\x01\x03\x02\x04'
    """
    return b"".join(x[i].tobytes() for i in range(len(samples[0])) for x in samples)
