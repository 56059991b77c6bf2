"""Memory of one thread: packings against all orders, results in place, the order of branches."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from smelt import nn
from smelt.compiler.isa import PLAIN_C
from smelt.compiler.passes.inplace import in_place
from smelt.compiler.passes.packing import Block, Packing, bound, greedy, pack
from smelt.compiler.serial import Serial, lower_serial
from smelt.tensor import Tensor

from .zoo import trace


@st.composite
def blocks(draw: st.DrawFn, most: int) -> list[Block]:
    out = []
    for _ in range(draw(st.integers(1, most))):
        first = draw(st.integers(0, 7))
        out.append(Block(draw(st.integers(1, 9)), first, draw(st.integers(first, 8))))
    return out


def check(given: list[Block], packing: Packing) -> None:
    for (a, x), (b, y) in itertools.combinations(zip(given, packing.offsets, strict=True), 2):
        assert not a.meets(b) or x + a.size <= y or y + b.size <= x
    assert packing.total == max(o + b.size for b, o in zip(given, packing.offsets, strict=True)) >= bound(given)


@given(blocks(most=24))
def test_packings_never_overlap(given: list[Block]) -> None:
    packing = pack(given)
    check(given, packing)
    assert packing.total <= greedy(given, lambda b: (-b.size,)).total


@settings(max_examples=60)
@given(blocks(most=6))
def test_packings_of_a_few_blocks_are_the_smallest_there_are(given: list[Block]) -> None:
    """Placing blocks one by one at the lowest free offset gives a smallest packing in at least one of the orders."""
    packing = pack(given)
    assert packing.proven
    orders = itertools.permutations(range(len(given)))
    rank = {id(b): i for i, b in enumerate(given)}
    assert packing.total == min(greedy(given, lambda b, o=o: (o[rank[id(b)]],)).total for o in orders)  # type: ignore[misc]


def test_a_chain_that_defeats_greedy_placement_by_size() -> None:
    sizes = [27648, 18432, 18432, 36864, 9216, 18432, 18432, 18432, 4608, 9216]
    chain = [Block(s, i, i + 1) for i, s in enumerate(sizes)]
    assert greedy(chain, lambda b: (-b.size,)).total > bound(chain) == 55296
    assert pack(chain).total == 55296


def serial(function: object, *shapes: tuple[int, ...]) -> Serial:
    graph = trace(function, [np.zeros(s, np.float32) for s in shapes], rows=False)  # type: ignore[arg-type]
    return lower_serial(graph, PLAIN_C)


class Residual(nn.Module):
    def __init__(self) -> None:
        self.first, self.second, self.third = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(3))
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last((self.third(self.second(x).relu()) + x).relu())


def test_a_residual_is_overwritten_by_the_sum() -> None:
    image = 8 * 6 * 6
    plan = serial(Residual(), (1, 8, 6, 6))
    assert plan.arenas["f32"].size == 2 * image, "the residual, and the image between the two convolutions"
    assert sorted(len(buffers) for buffers, _ in plan.arenas["f32"].blocks) == [1, 2]


def test_what_is_read_at_other_elements_is_not_overwritten() -> None:
    def mirrored(x: Tensor) -> Tensor:
        y = x @ x.T
        return (y + y[::-1]) @ x

    plan = serial(mirrored, (5, 5))
    assert [list(in_place(k)) for k in plan.kernels] == [[]] * len(plan.kernels)
    assert plan.arenas["f32"].size == 2 * 25


def test_branches_run_in_the_order_that_needs_least() -> None:
    """Of two branches that end in little, the one that needs much runs while nothing else is kept."""
    wide, narrow = nn.Linear(4, 400), nn.Linear(400, 40)
    small, end = nn.Linear(4, 60), nn.Linear(60, 40)

    def one(x: Tensor) -> Tensor:
        return small(x).relu() @ end.weight.T + narrow(wide(x).relu())

    def other(x: Tensor) -> Tensor:
        return narrow(wide(x).relu()) + small(x).relu() @ end.weight.T

    sizes = {serial(f, (1, 4)).arenas["f32"].size for f in (one, other)}
    assert sizes == {400 + 40}
