"""Kernels that take turns on one image: every unit once, and never before what it reads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import smelt
from smelt import nn
from smelt.compiler import program
from smelt.compiler.passes import bands
from smelt.compiler.passes.bands import takes_turns, turns
from smelt.compiler.program import Lowered
from smelt.measure.profile import profile
from smelt.runtime.inference import Inference
from tests.compiler.hazards import find_hazards
from tests.compiler.isas import ISAS
from tests.compiler.test_panels import frozen


def block(stride: int = 1, kernel: int = 3, dilation: int = 1) -> nn.Module:
    """Return an inverted residual's branch: expand, depthwise, project."""
    padding = dilation * (kernel - 1) // 2
    return nn.Sequential(
        nn.Conv2d(8, 48, 1),
        nn.ReLU6(),
        nn.Conv2d(48, 48, kernel, stride=stride, padding=padding, dilation=dilation, groups=48),
        nn.ReLU6(),
        nn.Conv2d(48, 8, 1),
    )


class Residual(nn.Module):
    def __init__(self) -> None:
        self.first, self.second = block(), block()

    def forward(self, x: smelt.Tensor) -> smelt.Tensor:
        x = self.first(x)
        return x + self.second(x)


CASES = {
    "block": block,
    "of stride 2": lambda: block(stride=2),
    "of 5 x 5": lambda: block(kernel=5),
    "dilated": lambda: block(dilation=2),
    "two with a sum": Residual,
    "dense 3 x 3": lambda: nn.Sequential(nn.Conv2d(8, 24, 3, padding=1), nn.Conv2d(24, 24, 3, stride=2, padding=1)),
}


@pytest.fixture(autouse=True)
def small_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let images of a few KB be large."""
    monkeypatch.setattr(bands, "LARGE", 1 << 10)
    monkeypatch.setattr(bands, "BAND", 1 << 11)


def lowered(case: str, isa: str, apart: bool = True) -> Lowered:
    graph = frozen(CASES[case](), (1, 8, 37, 22))
    return program.lower(graph, None, ISAS[isa], apart=apart)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("case", CASES)
def test_every_unit_is_computed_once_after_what_it_reads(case: str, isa: str) -> None:
    low = lowered(case, isa)
    run = max(low.phases, key=len)
    assert len(run) >= 2
    ((order, later),) = turns(run)
    assert later == [] and len(order) >= 3 * len(run), "they really take turns"
    for kernel in run:
        parts = [(lo, hi) for k, lo, hi in order if k is kernel]
        assert [lo for lo, _ in parts] == [0, *(hi for _, hi in parts[:-1])]
        assert parts[-1][1] == kernel.range.units(1)
    assert find_hazards(low, 1, 1) == []


@pytest.mark.parametrize("threads", [2, 3, 5, 16])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("case", CASES)
def test_threads_that_share_an_image_do_every_unit_once_and_wait_where_they_must(
    case: str, isa: str, threads: int
) -> None:
    low = lowered(case, isa, apart=False)
    run = max(low.phases, key=len)
    shares = turns(run, threads)
    assert sum(bool(first) for first, _ in shares) >= min(threads, 3)
    for kernel in run:
        done = sorted((lo, hi) for halves in shares for half in halves for k, lo, hi in half if k is kernel)
        assert [lo for lo, _ in done] == [0, *(hi for _, hi in done[:-1])]
        assert done[-1][1] == kernel.range.units(1)
    assert find_hazards(low, 1, threads) == []


def test_a_turn_that_comes_too_early_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    low = lowered("block", "znver4")
    for kernel in max(low.phases, key=len)[1:]:
        assert kernel.sweep is not None
        early = {b: (stride, first, reach - 1) for b, (stride, first, reach) in kernel.sweep.reads.items()}
        monkeypatch.setattr(kernel, "sweep", replace(kernel.sweep, reads=early))
    assert any("not written yet" in p for p in find_hazards(low, 1, 1))


def test_small_images_and_several_samples_take_no_turns() -> None:
    graph = frozen(block(), (4, 8, 13, 10))
    assert all(len(p) == 1 for p in program.lower(graph, None, ISAS["znver4"], apart=True).phases)


@pytest.fixture
def fast() -> Inference:
    model = nn.Sequential(*block(), nn.Conv2d(8, 64, 1), nn.ReLU6(), nn.Conv2d(64, 8, 3, padding=1))
    return model.compile()


def images(rows: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, 8, 112, 128)).astype(np.float32)


def test_bits_depend_neither_on_threads_nor_on_the_batch(fast: Inference) -> None:
    x = images(3)
    together = fast(x).numpy()
    assert any(takes_turns(p) for p in fast.lowered().phases)
    threads = smelt.get_threads()
    try:
        for n in (1, 2, 3):
            smelt.set_threads(n)
            for i in range(3):
                assert np.array_equal(fast(x[i : i + 1]).numpy()[0], together[i])
    finally:
        smelt.set_threads(threads)
    assert any(takes_turns(p) for p in fast.lowered().phases)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_profile_adds_up_the_turns_of_each_kernel(fast: Inference, rows: int) -> None:
    measured = profile(fast, images(rows), steps=3)
    assert all(k.microseconds > 0 for k in measured.kernels if k.macs)
    assert (np.diff(measured.timeline, axis=2) >= 0).all()
