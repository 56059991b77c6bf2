"""Steps that take a large batch in rounds: the same results, the same bits for any threads, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import smelt
from smelt import nn
from smelt.compiler import program
from smelt.compiler.passes.memory import lives
from smelt.compiler.passes.rounds import GRAIN, obstacle, rows_per_round
from smelt.compiler.program import Lowered
from smelt.graph.graph import Graph
from smelt.measure.explain import explain
from smelt.measure.profile import profile
from smelt.tensor import Tensor

from .hazards import find_hazards
from .isas import ISAS
from .zoo import CASES, Training, trace, unbound

ROWS = 16  # of a round in these tests
NAMES = ["mnist_cnn", "lenet5", "normalized", "dropout"]
SIZES = (67, 67, 1, 16, 17, 40)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every step that can go in rounds do so, and keep what is compiled for these out of the cache."""

    def long(graph: Graph) -> int:
        return 0 if obstacle(graph) or graph.inputs[0].shape[0] < 2 * ROWS else ROWS

    monkeypatch.setattr("smelt.runtime.step.rows_per_round", long)
    monkeypatch.setattr("smelt.compiler.jit.read_cache", lambda key: None)
    monkeypatch.setattr("smelt.compiler.jit.write_cache", lambda key, data: None)
    yield
    smelt.set_threads(None)


def lowered(name: str, isa: str, rows: int = ROWS) -> Lowered:
    training = Training(CASES[name])
    graph = trace(training.step, list(training.case.data(rows)))
    return program.lower(graph, unbound(graph), ISAS[isa], rounds=True)


def trained(
    name: str, dtype: str = "float32"
) -> tuple[list[float], dict[str, np.ndarray], smelt.runtime.step.Compiled]:
    training = Training(CASES[name], dtype)
    step = smelt.compile(training.step)
    losses = [step(*training.case.data(rows, dtype, seed=i)).item() for i, rows in enumerate(SIZES)]
    return losses, training.values(), step


@pytest.mark.parametrize("name", NAMES)
def test_results_are_those_of_eager_steps(name: str, short: None) -> None:
    losses, values, step = trained(name, "float64")
    training = Training(CASES[name], "float64")
    want = [
        training.step(Tensor(x), Tensor(y)).item()
        for x, y in (training.case.data(rows, "float64", seed=i) for i, rows in enumerate(SIZES))
    ]
    np.testing.assert_allclose(losses, want, rtol=1e-11)
    for key, value in training.values().items():
        np.testing.assert_allclose(values[key], value, rtol=1e-8, atol=1e-11, err_msg=key)
    assert step.traces == 1, "one trace serves every size"
    assert step.lowered().before


@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_threads_gives_the_same_bits(name: str, short: None) -> None:
    found = []
    for threads in (1, 2, 3, 4, 8):
        smelt.set_threads(threads)
        losses, values, _ = trained(name)
        found.append((losses, [v.tobytes() for v in values.values()]))
    assert all(f == found[0] for f in found)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", NAMES)
def test_rounds_have_no_hazard(name: str, isa: str) -> None:
    if name == "mnist_cnn" and isa != "znver4":
        return
    low = lowered(name, isa)
    for rows, threads in ((ROWS, 2), (ROWS - 3, 3), (1, 2)):
        assert find_hazards(low, rows, threads, ROWS) == []


def test_the_checker_sees_a_sum_that_something_else_overwrites() -> None:
    low = lowered("lenet5", "znver4")
    kept = next(b for b in lives(low.phases) if b.name.startswith("sum") and b.nbytes > 1000)
    other = next(b for k in low.phases[low.once] for b in k.writes if b.kind == "arena" and not b.turn)
    kept.offset = other.offset
    assert find_hazards(low, ROWS, 1, ROWS) != []


def test_what_a_batch_summed_up_does_not_reach_the_next(short: None) -> None:
    weight = smelt.Parameter(np.ones((5, 3), np.float32))

    @smelt.compile
    def step(x: Tensor) -> Tensor:
        loss = ((x @ weight) ** 2).sum()
        loss.backward()
        gradient, weight.grad = weight.grad, None
        return gradient

    bad = np.full((2 * ROWS, 5), np.inf, np.float32)
    good = np.random.default_rng(0).normal(size=(2 * ROWS, 5)).astype(np.float32)
    assert not np.isfinite(step(bad).numpy()).any()
    for rows in (2 * ROWS, ROWS, 3):
        x = good[:rows]
        np.testing.assert_allclose(step(x).numpy(), 2 * x.T @ (x @ np.ones((5, 3), np.float32)), rtol=1e-5)


def test_gradients_that_are_kept_and_several_sums(short: None) -> None:
    layer = nn.Linear(7, 3)

    @smelt.compile
    def step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = layer(x)
        loss = ((out - y) ** 2).mean()
        loss.backward()
        return loss, (out > y).astype("int64").sum(), x.sum(0)

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 7)).astype(np.float32), rng.normal(size=(50, 3)).astype(np.float32)
    loss, right, total = step(x, y)
    assert step.lowered().before
    got = layer.weight.grad
    assert got is not None
    got = got.numpy().copy()
    layer.weight.grad = layer.bias.grad = None
    out = layer(Tensor(x))
    ((out - Tensor(y)) ** 2).mean().backward()
    np.testing.assert_allclose(got, layer.weight.grad.numpy(), rtol=1e-5, atol=1e-7)
    assert right.item() == (out.numpy() > y).sum()
    np.testing.assert_allclose(total.numpy(), x.sum(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(loss.item(), np.mean((out.numpy() - y) ** 2), rtol=1e-6)


def test_values_of_each_sample_are_all_returned(short: None) -> None:
    layer = nn.Linear(7, 3)

    @smelt.compile
    def step(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = layer(x)
        loss = (out**2).mean()
        loss.backward()
        layer.weight.assign(layer.weight * 1.0)
        layer.weight.grad = layer.bias.grad = None
        return out, loss, out.argmax(1)

    x = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    for rows in (50, 33, 16, 5):
        out, loss, best = step(x[:rows])
        want = layer(Tensor(x[:rows])).numpy()
        np.testing.assert_allclose(out.numpy(), want, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(loss.item(), np.mean(want**2), rtol=1e-6)
        assert best.numpy().tolist() == want.argmax(1).tolist()
    assert step.lowered().before and step.traces == 1


# --- when -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mnist_cnn", ""),
        ("normalized", ""),
        ("odd_convolutions", "of each sample needs a sum over the batch"),
        ("dropout", ""),
    ],
)
def test_what_stands_against_rounds(name: str, reason: str) -> None:
    training = Training(CASES[name])
    found = obstacle(trace(training.step, list(training.case.data(8))))
    assert (reason in found) if reason else not found


def test_custom_operations_and_samples_that_do_not_come_first_stand_against_rounds() -> None:
    layer = nn.Linear(4, 4)
    double = smelt.custom_op(lambda x: x * 2, name="double", out=lambda x: x, gradient=lambda g, y, x: g * 2)

    def returns_turned(x: Tensor) -> Tensor:
        out = layer(x)
        out.sum().backward()
        layer.weight.assign(layer.weight - layer.weight.grad)
        return out.T

    def calls(x: Tensor) -> Tensor:
        loss = double(layer(x)).sum()
        loss.backward()
        layer.weight.assign(layer.weight - layer.weight.grad)
        return loss

    x = [np.ones((8, 4), np.float32)]
    assert obstacle(trace(returns_turned, x)) == "it returns values whose samples do not come first"
    assert obstacle(trace(calls, x)) == "a user's function takes the whole batch"


def test_only_sums_are_summed_up() -> None:
    weight = smelt.Parameter(np.ones((4, 4), np.float32))

    def step(x: Tensor) -> Tensor:
        weight.assign(weight * 0.5)
        return (x @ weight).max(0)

    assert obstacle(trace(step, [np.ones((8, 4), np.float32)])) == "max over the batch is no sum of 32 bits or more"


def test_rounds_are_as_long_as_their_operands_stay_near() -> None:
    training = Training(CASES["mnist_cnn"])
    found = []
    for rows in (64, 127, 128, 1024):
        graph = trace(training.step, list(training.case.data(rows)))
        found.append(rows_per_round(graph))
    assert found == [0, 0, 64, 64]
    assert all(n % GRAIN == 0 for n in found)


def test_weights_that_cost_more_than_activations_are_read_once() -> None:
    wide = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.Flatten(), nn.Linear(57600, 9)
    )

    def step(x: Tensor, y: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(wide(x), y)
        loss.backward()
        for p in wide.parameters():
            p.assign(p - p.grad * 0.1)
        return loss

    data = [np.zeros((64, 3, 32, 32), np.float32), np.zeros(64, np.int64)]
    graph = trace(step, data)
    assert not obstacle(graph)
    assert rows_per_round(graph) == 0, "a round would have fewer than 32 samples"


# --- what they cost, and say --------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_batch() -> None:
    sizes = []
    for rows in (128, 1024):
        training = Training(CASES["mnist_cnn"])
        step = smelt.compile(training.step)
        step(*training.case.data(rows)).item()
        low = step.lowered()
        assert low.before
        sizes.append(low.memory.shared)
    assert sizes[0] == sizes[1]


def test_the_last_round_runs_the_code_of_the_others() -> None:
    low = lowered("mnist_cnn", "znver4", 64)
    text = program.module_text(low, ISAS["znver4"])
    assert text.count("define internal void @rk") + text.count("define internal void @k") < len(low.kernels) - 12


def test_instruments_tell_of_rounds(short: None) -> None:
    training = Training(CASES["lenet5"])
    step = smelt.compile(training.step)
    x, y = training.case.data(50)
    step(x, y).item()
    told = str(explain(step)).splitlines()
    assert told[2].startswith("a batch goes in rounds of at most 16 samples: kernels with an r, in phases 0 to ")
    found = profile(step, x, y, steps=3)
    assert (found.rounds, found.round_rows) == (4, 16)
    low = step.lowered()
    assert found.barriers == 2 * low.before + len(low.phases) - 1
    assert "the batch goes in 4 rounds of at most 16 samples" in str(found)
    each = sum(k.macs for phase in low.phases[: low.once + low.before] for k in phase)
    assert sum(k.macs for k in low.kernels) == 2 * each, "every round multiplies the same"
    assert sum(k.macs for k in found.kernels) == 4 * each
    assert np.all(np.diff(found.timeline, axis=2) >= 0)
    first = low.text(loops=False).splitlines()
    assert low.once and low.before
    assert "phase 0, for all rounds but the last" in first
    assert f"phase {low.once}, of each round but the last" in first
    assert f"phase {low.once + low.before}" in first


def test_why_a_step_goes_at_once_is_explained() -> None:
    training = Training(CASES["odd_convolutions"])
    step = smelt.compile(training.step)
    step(*training.case.data(8)).item()
    assert "a batch, however large, goes at once: " in str(explain(step))


def test_a_batch_of_too_many_rounds_goes_at_once(short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "MOST_PHASES", 60)
    training = Training(CASES["lenet5"])
    step = smelt.compile(training.step)
    step(*training.case.data(100)).item()
    assert not step.lowered().before
    step(*training.case.data(40)).item()
    assert step.traces == 1


def test_every_round_takes_the_tiles_that_were_asked_for() -> None:
    training = Training(CASES["lenet5"])
    graph = trace(training.step, list(training.case.data(ROWS)))
    low = program.lower(graph, unbound(graph), ISAS["znver4"], rounds=True)
    asked = {group.number: 1 for group in low.of if group.kind == "contract"}
    other = program.lower(graph, unbound(graph), ISAS["znver4"], ranks=asked, rounds=True)
    assert low.earlier and other.earlier
    ranks = [[g.rank for g in f.earlier.fusion.groups if g.kind == "contract"] for f in (low, other) if f.earlier]
    assert ranks[0] == [0] * len(asked) and ranks[1] == [1] * len(asked)


def test_arrays_that_are_constants_have_places_in_every_round(short: None) -> None:
    weight = smelt.Parameter(np.ones((7, 3), np.float32))
    scale, target = np.arange(1, 4, dtype=np.float32), np.full((1, 3), 2.0, np.float32)

    @smelt.compile
    def step(x: Tensor) -> Tensor:
        loss = (((x @ weight - Tensor(target)) * Tensor(scale)) ** 2).sum()
        loss.backward()
        weight.assign(weight * Tensor(np.linspace(0.5, 1.0, 3, dtype=np.float32)))
        weight.grad = None
        return loss

    x = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    for _ in range(2):
        want = float(((((x @ weight.numpy()) - target) * scale) ** 2).sum())
        np.testing.assert_allclose(step(x).item(), want, rtol=1e-5)
    assert step.lowered().before and len(step.lowered().plan.arrays) >= 3
