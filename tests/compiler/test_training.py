"""Compiled training equals eager training: losses, parameters, buffers and optimizer state, over several steps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import smelt
from smelt import nn, ops, optim
from smelt.runtime import arena
from smelt.runtime.step import Compiled
from smelt.tensor import Tensor

from .hazards import poison
from .zoo import CASES, Training, eager

ROWS = 6
TOLERANCE = {"float64": 1e-9, "float32": 2e-4}


def assert_close(got: dict[str, np.ndarray], want: dict[str, np.ndarray], tolerance: float) -> None:
    """Compare by the largest element of each array; scales below 1e-3 of a step count as zero."""
    assert got.keys() == want.keys()
    for name, w in want.items():
        assert got[name].dtype == w.dtype and got[name].shape == w.shape, name
        if w.size and w.dtype.kind == "f":
            difference = float(np.max(np.abs(got[name] - w)))
            assert difference <= tolerance * (float(np.max(np.abs(w))) + 1e-2), name
        else:
            np.testing.assert_array_equal(got[name], w, err_msg=name)


def assert_trains_alike(
    a: Training, b: Training, sizes: list[int], traces: int = 1, tolerance: float | None = None
) -> Compiled:
    """Train ``a`` compiled and ``b`` eagerly on batches of these sizes; random numbers start anew for both."""
    tolerance = tolerance or TOLERANCE[a.dtype]
    step = smelt.compile(a.step)
    losses: list[list[float]] = [[], []]
    batches = [a.case.data(n, a.dtype, seed=i) for i, n in enumerate(sizes)]
    smelt.seed(11)
    losses[0] = [step(*batch).item() for batch in batches]
    drawn = smelt.random.get_state()["default"]
    smelt.seed(11)
    losses[1] = [eager(b.step, *batch).item() for batch in batches]
    np.testing.assert_array_equal(drawn, smelt.random.get_state()["default"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=10 * tolerance)
    assert_close(a.values(), b.values(), tolerance)
    assert step.traces == traces
    return step


def pair(name: str, **options: object) -> tuple[Training, Training]:
    """Return two trainings that start alike."""
    return Training(CASES[name], **options), Training(CASES[name], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("name", CASES)
def test_float64_training_is_the_same(name: str, optimizer: str) -> None:
    """Short batches run the first one's code. Ten layers of batch-norm amplify rounding: they have more rows."""
    a, b = pair(name, dtype="float64", optimizer_name=optimizer)
    sizes = [16, 12, 16, 14] if name == "autoencoder" else [ROWS, 1 if name != "convolutions_1d" else 2, ROWS, 4]
    assert_trains_alike(a, b, sizes)


@pytest.mark.parametrize("name", CASES)
def test_float32_training_is_the_same_up_to_rounding(name: str) -> None:
    a, b = pair(name)
    assert_trains_alike(a, b, [16, 16, 14] if name == "autoencoder" else [ROWS, ROWS, 5])


@pytest.mark.parametrize("name", ["lenet5", "odd_convolutions", "convolutions_1d"])
def test_training_after_another_program_bound_the_parameters_is_the_same(name: str) -> None:
    """Evaluation compiled first fixes an order of the weights; training must take them as they lie, and back."""
    a, b = pair(name, dtype="float64")
    x, _ = a.case.data(ROWS, "float64", seed=9)
    forward = smelt.compile(a.forward)

    def evaluate() -> None:
        a.model.eval(), b.model.eval()
        np.testing.assert_allclose(forward(x).numpy(), b.forward(Tensor(x)).numpy(), rtol=1e-9, atol=1e-10)
        a.model.train(), b.model.train()

    evaluate()
    step = assert_trains_alike(a, b, [ROWS, 3])
    evaluate()
    batch = a.case.data(ROWS, "float64", seed=7)
    np.testing.assert_allclose(step(*batch).item(), eager(b.step, *batch).item(), rtol=1e-9)
    evaluate()
    assert_close(a.values(), b.values(), 1e-9)
    assert (step.traces, forward.traces) == (1, 1)


def test_state_a_user_replaces_is_bound_anew() -> None:
    a, b = pair("lenet5", dtype="float64")
    assert_trains_alike(a, b, [ROWS])
    start = Training(CASES["lenet5"], dtype="float64", seed=8)
    for t in (a, b):
        t.model.load_state_dict(start.model.state_dict())
        t.optimizer.load_state_dict(start.optimizer.state_dict())
    step = assert_trains_alike(a, b, [ROWS, ROWS])
    for t in (a, b):
        for p in t.optimizer.params:
            p._value = p.numpy()[::-1].copy()  # memory that no program knows
    arena.moves.count += 1  # as whoever moves a tensor does
    batch = a.case.data(ROWS, "float64")
    np.testing.assert_allclose(step(*batch).item(), eager(b.step, *batch).item(), rtol=1e-9)
    assert_close(a.values(), b.values(), 1e-9)
    assert step.traces == 1


@pytest.mark.parametrize("capacity", [5, 6, 10, 16])
def test_clipping_by_the_norm_is_the_same(capacity: int) -> None:
    """Also when the batch is as long as some gradient: 6 and 16 channels, 10 classes."""
    a, b = pair("lenet5", dtype="float64", clip=0.05)
    assert_trains_alike(a, b, [capacity, capacity, 2])


# --- gradients that are kept ------------------------------------------------------------------------------


class Net:
    """Two layers, to look at gradients."""

    def __init__(self) -> None:
        smelt.seed(4)
        self.model = nn.Sequential(nn.Linear(7, 19), nn.Tanh(), nn.Linear(19, 3))
        self.optimizer = optim.SGD(self.model.parameters(), lr=0.1, momentum=0.5)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.model(x), y)

    def grads(self) -> list[np.ndarray | None]:
        return [None if p.grad is None else p.grad.numpy().copy() for p in self.model.parameters()]

    def values(self) -> dict[str, np.ndarray]:
        return self.model.state_dict()


Way = Callable[[Net, Tensor, Tensor], Tensor]


def two_backwards_then_step(net: Net, x: Tensor, y: Tensor) -> Tensor:
    net.loss(x, y).backward()
    loss = net.loss(x * 0.5, y)
    loss.backward()
    net.optimizer.step()
    return loss


def backward_only(net: Net, x: Tensor, y: Tensor) -> Tensor:
    loss = net.loss(x, y)
    loss.backward()
    return loss


def backward_into_nothing(net: Net, x: Tensor, y: Tensor) -> Tensor:
    net.optimizer.zero_grad()
    return backward_only(net, x, y)


def step_and_keep_a_gradient(net: Net, x: Tensor, y: Tensor) -> Tensor:
    loss = backward_only(net, x, y)
    first = next(net.model.parameters())
    kept = first.grad
    net.optimizer.step()
    first.grad = kept
    return loss


WAYS: dict[str, Way] = {
    "two backwards, then step": two_backwards_then_step,
    "backward alone": backward_only,
    "backward after zero_grad": backward_into_nothing,
    "clip by value": lambda net, x, y: clipped(net, x, y, optim.clip_grad_value_),
    "clip by norm": lambda net, x, y: clipped(net, x, y, optim.clip_grad_norm_),
}


def clipped(net: Net, x: Tensor, y: Tensor, clip: Callable[..., object]) -> Tensor:
    loss = backward_only(net, x, y)
    clip(net.model.parameters(), 0.01)
    net.optimizer.step()
    return loss


def batch(seed: int, rows: int = 9) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 7)).astype(np.float32), rng.integers(0, 3, rows)


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_gradients_are_the_same_however_they_are_used(way: Way) -> None:
    a, b = Net(), Net()
    step = smelt.compile(lambda x, y: way(a, x, y))
    for i in range(4):
        x, y = batch(i)
        assert step(x, y).item() == pytest.approx(way(b, Tensor(x), Tensor(y)).item(), rel=1e-5)
        for got, want in zip(a.grads(), b.grads(), strict=True):
            assert (got is None) == (want is None)
            if got is not None and want is not None:
                np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
        assert_close(a.values(), b.values(), 1e-5)
    assert step.traces <= 2, "once without gradients from before, once with"


def test_gradients_of_a_compiled_backward_serve_an_eager_step_and_the_other_way_round() -> None:
    a, b = Net(), Net()
    backward = smelt.compile(lambda x, y: backward_only(a, x, y))
    for i in range(3):
        x, y = batch(i)
        backward(x, y)
        backward_only(b, Tensor(x), Tensor(y))
        a.optimizer.step()
        b.optimizer.step()
        assert all(p.grad is None for p in a.model.parameters())
    assert_close(a.values(), b.values(), 1e-5)
    assert backward.traces == 1
    update = smelt.compile(lambda: a.optimizer.step())
    x, y = batch(5)
    backward_only(a, Tensor(x), Tensor(y))
    backward_only(b, Tensor(x), Tensor(y))
    update()
    b.optimizer.step()
    assert_close(a.values(), b.values(), 1e-5)
    assert all(p.grad is None for p in a.model.parameters())


@pytest.mark.parametrize("make", [optim.SGD, optim.Adam, optim.RMSprop])
def test_a_step_that_is_not_taken_changes_nothing(make: Callable[..., optim.Optimizer]) -> None:
    net = Net()
    optimizer = make(net.model.parameters(), lr=0.1)

    @smelt.compile
    def step(x: Tensor, y: Tensor) -> Tensor:
        loss = net.loss(x, y)
        loss.backward()
        optimizer.step(when=ops.isfinite(loss))
        return loss

    x, y = batch(0)
    step(x, y)
    before = {**net.values(), **optimizer.state_dict()}
    assert np.isnan(step(np.full_like(x, np.nan), y).item())
    after = {**net.values(), **optimizer.state_dict()}
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)
    step(x, y)
    assert any((after[name] != value).any() for name, value in net.values().items())
    assert step.traces == 1


def test_a_changed_learning_rate_needs_no_new_trace() -> None:
    a, b = Net(), Net()
    step = smelt.compile(lambda x, y: two_backwards_then_step(a, x, y))
    for i, lr in enumerate((0.1, 0.01, 0.3)):
        a.optimizer.lr = b.optimizer.lr = lr
        x, y = batch(i)
        step(x, y)
        two_backwards_then_step(b, Tensor(x), Tensor(y))
    assert_close(a.values(), b.values(), 1e-5)
    assert step.traces == 1


# --- memory that holds anything ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lenet5", "odd_convolutions", "convolutions_1d", "normalized", "dropout"])
def test_what_lies_in_the_arena_does_not_matter(name: str) -> None:
    """Rows that a short batch lacks, and everything an earlier step left, are NaN: no result may see them."""
    a, b = pair(name, dtype="float64")
    step = assert_trains_alike(a, b, [ROWS])
    for i, rows in enumerate((3, 5, ROWS, 2)):
        for frame in step._variants[0].executable._made:
            poison(step.lowered(), frame.arena)
        drawn = smelt.random.get_state()
        data = a.case.data(rows, "float64", seed=i)
        got = step(*data).item()
        smelt.random.set_state(drawn)
        assert got == pytest.approx(eager(b.step, *data).item(), rel=1e-9)
    assert_close(a.values(), b.values(), 1e-9)


@pytest.mark.parametrize("name", ["lenet5", "convolutions_1d"])
def test_a_short_batch_does_not_read_beyond_the_callers_arrays(name: str) -> None:
    """The rows after the batch, in the caller's own memory, are NaN and labels of no class."""
    a, b = pair(name, dtype="float64")
    step = assert_trains_alike(a, b, [ROWS])
    x, y = a.case.data(ROWS, "float64", seed=1)
    x[2:], y[2:] = np.nan, 1 << 40
    got = step(x[:2], y[:2]).item()
    assert got == pytest.approx(eager(b.step, x[:2].copy(), y[:2].copy()).item(), rel=1e-9)
    assert_close(a.values(), b.values(), 1e-9)
