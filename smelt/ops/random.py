"""Counter-based random numbers: the same key and counter give the same numbers on every machine and thread count.

In: a state uint32[4] = (key low, key high, counter low, counter high). Out: uniform floats in [0, 1). Element ``i``
of a draw is a pure function of (key, counter, i): Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random
numbers: as easy as 1, 2, 3", SC 2011).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from smelt.errors import ShapeError
from smelt.ops.primitive import Primitive, Rows, Sample, Spec

ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
PARITY = 0x1BD11BDA


def threefry2x32(key: tuple[Any, Any], x0: Any, x1: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return both output words of Threefry-2x32-20 for uint32 keys and counters.

    Examples
    --------
    >>> [hex(int(w)) for w in threefry2x32((np.uint32(0), np.uint32(0)), np.uint32(0), np.uint32(0))]
    ['0x6b200159', '0x99ba4efe']
    """
    with np.errstate(over="ignore"):
        ks = (key[0], key[1], np.uint32(PARITY) ^ key[0] ^ key[1])
        x0, x1 = x0 + ks[0], x1 + ks[1]
        for block in range(5):
            for r in ROTATIONS[:4] if block % 2 == 0 else ROTATIONS[4:]:
                x0 = x0 + x1
                x1 = (x1 << np.uint32(r)) | (x1 >> np.uint32(32 - r))
                x1 = x1 ^ x0
            x0 = x0 + ks[(block + 1) % 3]
            x1 = x1 + ks[(block + 2) % 3] + np.uint32(block + 1)
    return x0, x1


class RandomUniform(Primitive):
    """Uniform numbers in [0, 1) with 24 random bits, of attribute ``shape`` and ``dtype``.

    Element ``i`` (in C order) is word 0 of Threefry with the state's key and the counter (i, counter low).
    """

    differentiable = False

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        if specs[0].shape != (4,) or specs[0].dtype != np.uint32:
            raise ShapeError(f"random_uniform: expected a state u32[4], received {specs[0]}")
        if int(np.prod(attrs["shape"], dtype=np.int64)) >= 2**31:
            raise ShapeError(f"random_uniform: {attrs['shape']} has 2**31 elements or more")
        rows = Rows(*attrs["rows"]) if attrs.get("rows") else None
        return Spec(attrs["shape"], np.dtype(attrs["dtype"]), rows)

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        (state,) = arrays
        n = int(np.prod(attrs["shape"], dtype=np.int64))
        index = np.arange(n, dtype=np.uint32)
        word, _ = threefry2x32((state[0], state[1]), index, state[2])
        return (
            ((word >> np.uint32(8)).astype(np.float32) * np.float32(2**-24))
            .astype(attrs["dtype"])
            .reshape(attrs["shape"])
        )


random_uniform = RandomUniform(
    "random_uniform",
    tuple(
        Sample(((4,),), {"shape": s, "dtype": d}, dtypes={0: "uint32"}, below=1000)
        for s, d in (
            ((5,), "float32"),
            ((3, 37), "float32"),
            ((2, 3), "float64"),
            ((0,), "float32"),
            ((1,), "float32"),
        )
    ),
)


class AdvanceRandom(Primitive):
    """Return the state with its counter one further: what a draw leaves behind."""

    differentiable = False

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        return specs[0]

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        out = arrays[0].copy()
        with np.errstate(over="ignore"):
            out[2] += np.uint32(1)
        return out


advance_random = AdvanceRandom("advance_random", (Sample(((4,),), dtypes={0: "uint32"}),))
