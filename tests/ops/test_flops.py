"""Floating-point operations are counted where MACs are, for every primitive."""

from __future__ import annotations

import numpy as np
import pytest

from smelt.ops import REGISTRY
from smelt.ops.primitive import Sample, Spec


def count(name: str, sample: Sample) -> tuple[int, int]:
    op = REGISTRY[name]
    specs = tuple(Spec(s, np.dtype(sample.dtypes.get(i, "float32"))) for i, s in enumerate(sample.shapes))
    out = op.infer(*specs, **sample.attrs)
    return op.macs(specs, out, sample.attrs), op.flops(specs, out, sample.attrs)


@pytest.mark.parametrize("name", REGISTRY)
def test_every_sample_has_a_count_that_fits(name: str) -> None:
    for sample in REGISTRY[name].samples():
        macs, flops = count(name, sample)
        assert flops >= 2 * macs >= 0
        if all(d != "float32" and d != "float64" for d in sample.dtypes.values()) and len(sample.dtypes) == len(
            sample.shapes
        ):
            assert flops == 0, "integers are not floating-point"
        if macs:
            assert flops == 2 * macs


@pytest.mark.parametrize(
    "name, shapes, attrs, expected",
    [
        ("add", ((3, 5), (5,)), {}, 15),
        ("exp", ((3, 5),), {}, 15),
        ("sum", ((3, 5),), {"axes": (1,)}, 12),
        ("max", ((3, 5),), {"axes": (0, 1)}, 14),
        ("matmul", ((3, 5), (5, 4)), {}, 120),
        ("max_pool2d", ((1, 2, 6, 6),), {"kernel": (3, 3), "stride": (3, 3), "padding": ((0, 0), (0, 0))}, 64),
        ("softmax_cross_entropy", ((3, 5), (3,)), {}, 60),
        ("reshape", ((3, 5),), {"shape": (15,)}, 0),
        ("cast", ((3, 5),), {"dtype": "float64"}, 0),
    ],
)
def test_known_counts(name: str, shapes: tuple, attrs: dict, expected: int) -> None:
    dtypes = {1: "int64"} if name == "softmax_cross_entropy" else {}
    assert count(name, Sample(shapes, attrs, dtypes=dtypes))[1] == expected
