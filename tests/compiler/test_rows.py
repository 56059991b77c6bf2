"""Kernels that take turns on a few rows of the batch: the units they do, and the bits that come out."""

from __future__ import annotations

import numpy as np
import pytest

import smelt
from smelt import nn, optim
from smelt.compiler import program
from smelt.compiler.loops import Buffer, Kernel
from smelt.compiler.passes import rows as passes
from smelt.compiler.passes.rows import slices_of, together, units_of
from smelt.compiler.program import Lowered
from smelt.measure.profile import profile
from smelt.runtime.ahead import QueuedExecutable
from tests.compiler.hazards import find_hazards
from tests.compiler.isas import ISAS
from tests.compiler.lowering import lower
from tests.compiler.zoo import Case, Training

BATCH = 40


class Step:
    """A training step with convolutions, batch normalization or none, and pooling."""

    def __init__(self, norm: bool = True) -> None:
        smelt.seed(0)
        self.model = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * 64, 5),
        )
        self.optimizer = optim.Adam(self.model.parameters(), lr=1e-3)
        self.compiled = smelt.compile(self._step)

    def _step(self, x: smelt.Tensor, y: smelt.Tensor) -> smelt.Tensor:
        loss = nn.functional.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss


def data(rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(rows, 3, 16, 16)).astype(np.float32), rng.integers(0, 5, rows)


@pytest.fixture(scope="module")
def step() -> Step:
    step = Step()
    step.compiled(*data(BATCH)).item()
    return step


@pytest.fixture(scope="module")
def plain() -> Step:
    """Without batch normalization, one phase has everything that reads max pooling's gradient."""
    step = Step(norm=False)
    step.compiled(*data(BATCH)).item()
    return step


def lowered(step: Step, isa: str) -> Lowered:
    graph = step.compiled.graph
    return program.lower(graph, dict.fromkeys(graph.states), ISAS[isa])


@pytest.mark.parametrize("isa", ISAS)
def test_forward_and_backward_take_turns(step: Step, isa: str) -> None:
    low = lowered(step, isa)
    runs = [run for phase in low.phases for run in together(phase, BATCH) if len(run) > 1]
    assert len(runs) >= 3
    assert any(slices_of(p) for p in low.phases if any(len(r) > 1 for r in together(p, BATCH)))
    assert sum(k.range.slices > 0 for run in runs for k in run) >= 4, "sums take part"


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("rows", [BATCH, 33, 7, 1])
def test_every_unit_is_done_once_by_one_thread(step: Step, rows: int, threads: int) -> None:
    for phase in lowered(step, "znver4").phases:
        done: dict[Kernel, list[tuple[int, int]]] = {}
        for thread in range(threads):
            for kernel, low, high in units_of(phase, rows, thread, threads, BATCH):
                done.setdefault(kernel, []).append((low, high))
        for kernel in phase:
            parts = sorted(done[kernel])
            assert [low for low, _ in parts] == [0, *(high for _, high in parts[:-1])]
            assert parts[-1][1] == kernel.range.units(rows)


@pytest.mark.parametrize(("rows", "threads"), [(BATCH, 3), (7, 2)])
def test_turns_have_no_hazard(step: Step, rows: int, threads: int) -> None:
    assert find_hazards(lowered(step, "haswell"), rows, threads, BATCH) == []


def test_bits_are_those_without_turns(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    got = []
    for large in (1, 1 << 60):
        monkeypatch.setattr(passes, "LARGE", large)
        monkeypatch.setattr("smelt.compiler.jit.read_cache", lambda key: None)
        for threads in (1, 2, 3):
            smelt.set_threads(threads)
            step = Step()
            losses = [step.compiled(*data(rows)).item() for rows in (BATCH, BATCH, 17)]
            got.append((losses, [p.numpy().tobytes() for p in step.model.parameters()]))
    smelt.set_threads(None)
    assert all(g == got[0] for g in got)


def largest(low: Lowered) -> list[Buffer]:
    """Return the buffers that each thread has places of its own for, largest first."""
    buffers: set[Buffer] = set().union(*(k.reads | k.writes for k in low.kernels))
    return sorted((b for b in buffers if b.turn), key=lambda b: -b.nbytes)


@pytest.mark.parametrize("isa", ISAS)
def test_what_is_gone_after_a_turn_has_a_place_for_one_turn_in_each_thread(plain: Step, isa: str) -> None:
    low = lowered(plain, isa)
    gradient = largest(low)[0]
    assert gradient.border and gradient.nbytes == BATCH * 18 * 18 * 16 * 4, "of max pooling, with zeros around"
    assert gradient.place_bytes <= low.memory.own <= gradient.nbytes // 4
    assert not any("prefetch " + gradient.name in str(k) for k in low.kernels)
    phase = next(p for p in low.phases if any(gradient in k.writes for k in p))
    users = [k for k in low.kernels if gradient in k.reads | k.writes]
    assert len(users) >= 3 and all(k in phase for k in users)


@pytest.mark.parametrize(("rows", "threads"), [(BATCH, 3), (BATCH, 1), (33, 2), (3, 8)])
def test_own_places_have_no_hazard(plain: Step, rows: int, threads: int) -> None:
    assert find_hazards(lowered(plain, "haswell"), rows, threads, BATCH) == []


def test_the_checker_sees_places_that_are_too_small() -> None:
    step = Step(norm=False)
    step.compiled(*data(BATCH)).item()
    low = lowered(step, "haswell")
    largest(low)[0].turn -= 1
    assert any("touches more than" in problem for problem in find_hazards(low, BATCH, 1, BATCH))


def test_memory_grows_by_the_own_places_of_a_thread(plain: Step) -> None:
    memory = lowered(plain, "znver4").memory
    assert memory.total(3) - memory.total(2) == memory.own > 0


def test_bits_do_not_change_with_the_number_of_threads_from_step_to_step() -> None:
    got = []
    for counts in ([1, 1, 1, 1], [1, 3, 2, 8]):
        step = Step(norm=False)
        losses = []
        for threads in counts:
            smelt.set_threads(threads)
            losses.append(step.compiled(*data(BATCH)).item())
        got.append((losses, [p.numpy().tobytes() for p in step.model.parameters()]))
    smelt.set_threads(None)
    assert got[0] == got[1]


@pytest.mark.parametrize("threads", [2, 5])
def test_more_threads_than_there_are_places_wait(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of threads can grow between the look at it and the step: nobody may write where there is no place."""
    got = []
    for places in (threads, 1):
        monkeypatch.setattr(QueuedExecutable, "_enough_places", lambda self, n=places: setattr(self, "_arenas", n))
        smelt.set_threads(threads)
        step = Step(norm=False)
        losses = [step.compiled(*data(BATCH)).item() for _ in range(6)]
        got.append((losses, [p.numpy().tobytes() for p in step.model.parameters()]))
    smelt.set_threads(None)
    assert got[0] == got[1]


def test_a_profile_adds_up_the_turns_of_each_kernel(step: Step) -> None:
    measured = profile(step.compiled, *data(BATCH), steps=3)
    assert all(k.microseconds > 0 for k in measured.kernels if k.macs)
    assert (np.diff(measured.timeline, axis=2) >= 0).all()


def test_what_is_read_beside_the_batch_is_not_read_again_in_every_turn() -> None:
    model = nn.Linear(512, 512)

    @smelt.compile
    def forward(x: smelt.Tensor) -> smelt.Tensor:
        return model(nn.functional.relu(x).sum(-1)).tanh()

    forward(np.zeros((64, 512, 64), np.float32))
    heavy = next(k for k in forward.lowered().kernels if "matmul" in k.name)
    assert all(run == [heavy] for phase in forward.lowered().phases for run in together(phase, 64) if heavy in run)


def pooled(rows: int) -> Lowered:
    """Return a step in which the gradient of a large product goes to a pooling, traced with so many rows."""
    layers = (nn.Conv2d(1, 16, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 256))
    training = Training(Case(lambda: nn.Sequential(*layers), (1, 12, 12), 256))
    return lower(training.step, list(training.case.data(rows)), "znver4")


def test_a_product_with_large_weights_takes_turns_that_are_worth_reading_them() -> None:
    low = pooled(256)
    runs = [run for phase in low.phases for run in together(phase, 256) if len(run) > 1]
    (run,) = [run for run in runs if any("conv2d_winner_grad" in k.note for k in run)]
    product = next(k for k in run if k.note == "matmul")
    (gradient,) = product.writes
    beside = sum(b.nbytes for b in product.reads - product.aligned)
    assert beside > passes.HEAVY
    assert gradient.turn * product.macs >= passes.MACS_PER_BYTE * beside * 256 > (gradient.turn - 16) * product.macs
    assert {k.note for k in run} >= {"matmul", "neighbours"}, "the neighbours wait for their reader"
    for rows, threads in ((256, 3), (101, 2)):
        assert find_hazards(low, rows, threads, 256) == []


def test_a_small_batch_does_not_read_large_weights_again() -> None:
    low = pooled(64)
    for run in (r for phase in low.phases for r in together(phase, 64) if len(r) > 1):
        assert all(sum(b.nbytes for b in k.reads - k.aligned - k.writes) <= passes.HEAVY for k in run)
