"""Graphs that were once compiled wrongly: each test says what went wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import smelt
from smelt import nn, ops
from smelt.compiler.builder import Builder
from smelt.tensor import Tensor


def assert_compiled_equals_eager(function: Callable[..., tuple[Tensor, ...]], *arrays: np.ndarray) -> None:
    want = function(*(Tensor(a) for a in arrays))
    got = smelt.compile(function)(*arrays)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g.numpy(), w.numpy(), rtol=1e-5, atol=1e-5)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def test_a_node_does_not_join_the_group_whose_result_it_reads_through_a_view() -> None:
    """``g + g.T`` was computed in the loop that was still writing ``g``."""

    def function(x: Tensor) -> tuple[Tensor, ...]:
        g = x * 2.0
        return g, g + ops.permute(g, axes=(1, 0))

    assert_compiled_equals_eager(function, normal(19, 19))


def test_a_batch_of_one_repeated_by_a_product_is_not_the_batch_any_more() -> None:
    """The loop over the repeated axis stopped after the one row of the batch."""

    def function(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        return (ops.matmul(x, w),)

    assert_compiled_equals_eager(function, normal(1, 4, 3, 2), normal(4, 1, 2, 5))


def test_a_gradient_waits_for_the_product_it_is_a_view_of() -> None:
    """A view was traced to an operand of the product it looks at, and its reader ran a step too early."""
    rng = np.random.default_rng(0)
    conv = rng.standard_normal((6, 1, 3, 3)).astype(np.float32)
    dense = rng.standard_normal((96, 10)).astype(np.float32)

    def function(x: Tensor) -> tuple[Tensor, ...]:
        w, v = Tensor(conv, requires_grad=True), Tensor(dense)
        out = nn.functional.conv2d(x, w).flatten(1) @ v
        (out * out).mean().backward()
        assert w.grad is not None
        return (w.grad,)

    assert_compiled_equals_eager(function, normal(8, 1, 6, 6))


def test_a_large_window_is_a_loop() -> None:
    """Every element of a window was an instruction of its own: one of 65536 x 3 took 12 seconds to compile."""
    for pool in (nn.AvgPool2d, nn.MaxPool2d):
        model = nn.Sequential(pool((17, 9), stride=2))
        x = normal(2, 5, 20, 21)
        np.testing.assert_allclose(model.compile()(x).numpy(), model(Tensor(x)).numpy(), rtol=1e-5, atol=1e-5)
        assert len(smelt.export.c(model, None, (5, 20, 21), name="net").files["net.c"]) < 10_000


def test_images_that_are_pooled_to_one_pixel() -> None:
    """A tile of several samples took the last one's pixels for those of all."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((16, 1, 3, 7)).astype(np.float32)

    def function(x: Tensor) -> tuple[Tensor, ...]:
        return (nn.functional.max_pool2d(nn.functional.conv2d(x, Tensor(w)).relu(), 2),)

    assert_compiled_equals_eager(function, normal(21, 1, 4, 8))


def test_a_numbered_name_is_not_given_twice() -> None:
    builder = Builder("kernel")
    names = [builder.fresh(name) for name in ("i1", "i", "i", "i1", "k", "k")]
    assert names == ["i1", "i", "i2", "i11", "k", "k1"]
