"""Convolution and pooling against plain loops, and the counts of multiply-accumulates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from smelt.ops import REGISTRY, Spec

from .matrix import Case, cases, run


def window_sum(x: np.ndarray, w: np.ndarray, attrs: dict[str, Any], at: tuple[int, int, int, int]) -> float:
    """Return one element of a convolution, added term by term."""
    n, o, i, j = at
    per_group = w.shape[0] // attrs["groups"]
    total = 0.0
    for c in range(w.shape[1]):
        channel = o // per_group * w.shape[1] + c
        for ki in range(w.shape[2]):
            for kj in range(w.shape[3]):
                y = i * attrs["stride"][0] + ki * attrs["dilation"][0] - attrs["padding"][0][0]
                z = j * attrs["stride"][1] + kj * attrs["dilation"][1] - attrs["padding"][1][0]
                if 0 <= y < x.shape[2] and 0 <= z < x.shape[3]:
                    total += float(x[n, channel, y, z]) * float(w[o, c, ki, kj])
    return total


def ids(case: Case) -> str:
    return case.id


@pytest.mark.parametrize("case", list(cases(["conv2d"], layouts=["contiguous"])), ids=ids)
def test_conv2d_equals_a_loop_over_its_definition(case: Case) -> None:
    x, w = case.arrays
    out = run(case).numpy()
    want = np.array([window_sum(x, w, case.attrs, at) for at in np.ndindex(out.shape)]).reshape(out.shape)
    np.testing.assert_allclose(out, want, atol=1e-12)


def pooled(x: np.ndarray, attrs: dict[str, Any], at: tuple[int, ...]) -> list[tuple[float, int]]:
    """Return the (value, position in the window) pairs one pooled element chooses from."""
    n, c, i, j = at
    (kh, kw), stride, padding = attrs["kernel"], attrs["stride"], attrs["padding"]
    out = []
    for k in range(kh * kw):
        y = i * stride[0] + k // kw - padding[0][0]
        z = j * stride[1] + k % kw - padding[1][0]
        if 0 <= y < x.shape[2] and 0 <= z < x.shape[3]:
            out.append((float(x[n, c, y, z]), k))
    return out


@pytest.mark.parametrize("case", list(cases(["max_pool2d"], layouts=["contiguous"])), ids=ids)
def test_pooling_equals_a_loop_over_its_definition(case: Case) -> None:
    (x,) = case.arrays
    largest = run(case).numpy()
    index = run(case._replace(primitive=REGISTRY["max_pool2d_index"])).numpy()
    total = run(case._replace(primitive=REGISTRY["sum_pool2d"])).numpy()
    for at in np.ndindex(largest.shape):
        choices = pooled(x, case.attrs, at)
        assert (largest[at], index[at]) == max(choices), at
        assert total[at] == pytest.approx(sum(value for value, _ in choices), abs=1e-12), at


def test_the_first_of_equal_maxima_wins() -> None:
    attrs = {"kernel": (2, 2), "stride": (2, 2), "padding": ((0, 0), (0, 0))}
    x = np.array([[[[1.0, 3.0, 2.0, 2.0], [3.0, 0.0, 2.0, 2.0]]]])
    assert REGISTRY["max_pool2d_index"].evaluate(x, **attrs).tolist() == [[[[1, 0]]]]
    assert REGISTRY["argmax"].evaluate(np.array([[1.0, 5.0, 5.0]]), axes=(1,)).tolist() == [1]


def macs(name: str, *shapes: tuple[int, ...], **attrs: Any) -> int:
    primitive = REGISTRY[name]
    specs = tuple(Spec(s, np.dtype("float32")) for s in shapes)
    return primitive.macs(specs, primitive.infer(*specs, **attrs), attrs)


def test_multiply_accumulates_of_known_layers() -> None:
    same = {"stride": (1, 1), "padding": ((2, 2), (2, 2)), "dilation": (1, 1), "groups": 1}
    assert macs("matmul", (64, 6272), (6272, 128)) == 64 * 6272 * 128
    assert macs("matmul", (5, 1, 2, 3), (4, 3, 7)) == 5 * 4 * 2 * 3 * 7
    assert macs("conv2d", (64, 1, 28, 28), (32, 1, 5, 5), **same) == 64 * 32 * 28 * 28 * 25
    assert macs("conv2d_input_grad", (2, 32, 28, 28), (32, 3, 5, 5), size=(28, 28), **same) == 2 * 32 * 784 * 75
    assert macs("conv2d_weight_grad", (2, 3, 28, 28), (2, 32, 28, 28), kernel=(5, 5), **same) == 2 * 32 * 784 * 75
    depthwise = {"stride": (2, 2), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 16}
    assert macs("conv2d", (1, 16, 10, 10), (16, 1, 3, 3), **depthwise) == 16 * 5 * 5 * 9


def test_only_contractions_multiply_and_accumulate() -> None:
    counted = set()
    for case in cases(layouts=["contiguous"]):
        specs = tuple(Spec(a.shape, a.dtype) for a in case.arrays)
        if case.primitive.macs(specs, case.primitive.infer(*specs, **case.attrs), case.attrs):
            counted.add(case.primitive.name)
    assert counted == {"matmul", "conv2d", "conv2d_input_grad", "conv2d_weight_grad"}
