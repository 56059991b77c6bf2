"""What kernels execute and move, counted in their loops, against what the shapes say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import smelt
from smelt import nn
from smelt.compiler.builder import Builder
from smelt.compiler.isa import host
from smelt.compiler.loops import Buffer, Kernel, Range, var
from smelt.measure.work import Work, distances, work


def kernels(function: Any, *arrays: np.ndarray) -> list[Kernel]:
    step = smelt.compile(function)
    step(*arrays)
    return step.lowered().kernels


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize("shape", [(8, 16), (3, 5), (7, 37), (1, 1)])
def test_a_map_reads_and_writes_once(shape: tuple[int, ...]) -> None:
    (kernel,) = kernels(lambda x, y: x * y + 1.0, ones(*shape), ones(*shape))
    n = shape[0] * shape[1]
    did = work(kernel, shape[0])
    assert (did.flops, did.bytes) == (2 * n, 12 * n)
    assert [sum(side.values()) for side in (did.reads, did.writes)] == [8 * n, 4 * n]


@pytest.mark.parametrize("m, k, n", [(12, 40, 64), (13, 7, 32), (64, 1100, 48), (5, 3, 2)])
def test_a_product_multiplies_and_adds_each_pair_once(m: int, k: int, n: int) -> None:
    w = smelt.Parameter(ones(k, n))
    found = kernels(lambda x: x @ w, ones(m, k))
    flops = sum(work(k, m).flops for k in found)
    assert flops == 2 * m * k * n
    product = next(k for k in found if k.macs)
    assert product.macs == m * k * n
    assert sum(work(product, m).writes.values()) >= 4 * m * n


def test_lanes_of_a_last_vector_that_overlaps_the_one_before_count_again() -> None:
    lanes = host().lanes("f32")
    w = smelt.Parameter(ones(7, lanes + 1))
    flops = sum(work(k, 13).flops for k in kernels(lambda x: x @ w, ones(13, 7)))
    assert flops == 2 * 13 * 7 * 2 * lanes


def test_a_batch_of_fewer_rows_does_less() -> None:
    w = smelt.Parameter(ones(8, 16))
    (product,) = [k for k in kernels(lambda x: x @ w, ones(10, 8)) if k.macs]
    assert work(product, 4).flops == 2 * 4 * 8 * 16


@pytest.mark.parametrize("stride, groups", [(1, 1), (2, 1), (1, 6)])
def test_a_convolution_and_its_gradients_do_their_macs(stride: int, groups: int) -> None:
    conv = nn.Conv2d(6, 12 if groups == 1 else 6, 3, stride=stride, padding=1, groups=groups, bias=False)

    def step(x: smelt.Tensor) -> smelt.Tensor:
        loss = conv(x).sum()
        loss.backward()
        return loss

    for kernel in kernels(step, ones(4, 6, 9, 9)):
        if kernel.macs:
            assert 2 * kernel.macs <= work(kernel, 4).flops <= 2 * kernel.macs + 4 * 12 * 81 * 4


def test_loops_whose_bounds_depend_on_others_are_walked() -> None:
    out = Buffer("out", "f32", 100, "output", 0)
    b = Builder("triangle")
    with b.loop("i", var("lo"), var("hi")) as i:
        limit = b.let("limit", "min", i, 5)
        with b.loop("j", 0, limit) as j, b.when(j, 3):
            one = b.load(out, i * 10 + j)
            b.store(out, i * 10 + j, b.op("fma", one, one, one))
    kernel = b.finish(Range(7))
    times = sum(min(min(i, 5), 3) for i in range(7))
    did = work(kernel, 1)
    assert (did.flops, did.reads[out], did.writes[out]) == (2 * times, 4 * times, 4 * times)


def test_integers_are_no_floating_point() -> None:
    found = kernels(lambda x: x + x, np.ones((4, 4), np.int64))
    assert [work(k, 4).flops for k in found] == [0]


def arena(name: str, offset: int, size: int) -> Buffer:
    return Buffer(name, "f32", size // 4, "arena", offset=offset)


def test_distance_is_what_was_touched_since() -> None:
    k = 1024
    a, b = arena("a", 0, 4 * k), arena("b", 4 * k, 8 * k)
    state = Buffer("w", "f32", 16 * k // 4, "state", 3)
    works = [
        Work(reads={state: state.nbytes}, writes={a: a.nbytes}),
        Work(reads={a: a.nbytes}, writes={b: b.nbytes}),
        Work(reads={b: b.nbytes}),
    ]
    first, second, third = distances(works)
    assert first == [(16 * k, 28 * k), (4 * k, 12 * k)]  # the state a whole step ago, and a since the second kernel
    assert second == [(4 * k, 20 * k), (8 * k, 28 * k)]  # b was last touched by the third kernel of the step before
    assert third == [(8 * k, 12 * k)]


def test_buffers_of_one_place_are_one_place() -> None:
    a, b = arena("a", 0, 4096), arena("b", 0, 4096)
    first, second = distances([Work(writes={a: 4096}), Work(writes={b: 4096})])
    assert first == second == [(4096, 4096)]
