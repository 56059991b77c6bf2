"""``model.compile()``: the eager model's results, for every batch, any number of threads, and bad input."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import numpy as np
import pytest

import smelt
from smelt import models, nn
from smelt.compiler import program
from smelt.errors import ShapeError
from smelt.runtime.inference import Inference
from smelt.tensor import Tensor

ZOO = {
    "mnist_cnn": (models.mnist_cnn, (1, 28, 28)),
    "lenet5": (models.lenet5, (1, 28, 28)),
    "ds_cnn": (models.ds_cnn, (1, 49, 10)),
    "resnet8": (models.resnet8, (3, 32, 32)),
    "autoencoder": (models.autoencoder, (640,)),
    "mobilenet_v1": (lambda: models.mobilenet_v1(0.25), (3, 32, 32)),
    "mobilenet_v2": (lambda: models.mobilenet_v2(0.25, classes=10), (3, 32, 32)),
}


def settle(model: nn.Module) -> nn.Module:
    """Give batch normalization statistics that matter."""
    rng = np.random.default_rng(3)
    for name, t in model.named_buffers():
        if t.dtype.kind == "f":
            t.assign(Tensor(rng.uniform(0.5, 1.5, t.shape).astype(t.dtype) * (1.0 if "var" in name else 0.2)))
    return model


def batch(shape: tuple[int, ...], rows: int) -> np.ndarray:
    return np.random.default_rng(rows).normal(size=(rows, *shape)).astype(np.float32)


@pytest.mark.parametrize("name", ZOO)
def test_a_compiled_model_gives_what_the_eager_one_gives(name: str) -> None:
    make, shape = ZOO[name]
    model = settle(make())
    fast = model.compile()
    got = {rows: fast(batch(shape, rows)).numpy() for rows in (1, 2, 7)}
    model.eval()
    for rows, out in got.items():
        want = model(batch(shape, rows)).numpy()
        np.testing.assert_allclose(out, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("name", ["ds_cnn", "mnist_cnn"])
def test_bits_do_not_depend_on_threads_nor_on_what_else_is_in_the_batch(name: str) -> None:
    make, shape = ZOO[name]
    fast = settle(make()).compile()
    x = batch(shape, 70)
    seen = set()
    try:
        for threads in (1, 2, 4, 8):
            smelt.set_threads(threads)
            seen.add((fast(x).numpy().tobytes(), fast(x[:1]).numpy().tobytes()))
            assert fast(x[:33]).numpy().tobytes() == fast(x).numpy()[:33].tobytes()
    finally:
        smelt.set_threads(None)
    assert len(seen) == 1


def test_calls_like_the_last_one_take_the_short_way_to_the_same_result() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
    fast = model.compile()
    wide = batch((6,), 8)
    want = {rows: model(wide[:rows]).numpy() for rows in (1, 3, 8)}
    for rows in (1, 1, 3, 3, 8, 8, 1, 3):
        outs = [fast(wide[:rows]).numpy() for _ in range(3)]
        for out in outs:
            np.testing.assert_allclose(out, want[rows], rtol=1e-6)
        assert not any(np.shares_memory(a, b) for a, b in itertools.pairwise(outs)), "each call has its own"
    spread = np.zeros((3, 12), np.float32)[:, ::2]
    spread[:] = wide[:3]
    np.testing.assert_array_equal(fast(spread).numpy(), fast(wide[:3]).numpy())
    np.testing.assert_array_equal(fast(Tensor(wide[:3])).numpy(), fast(wide[:3]).numpy())
    with pytest.raises(ShapeError):
        fast(wide[:3, :5].copy())
    with pytest.raises(ShapeError):
        fast(wide[:3].astype(np.float64))
    model[0].weight.assign(model[0].weight * 2.0)
    before = fast(wide[:3]).numpy()
    fast.refresh()
    assert not np.array_equal(fast(wide[:3]).numpy(), before)


def test_the_mode_of_the_model_stays_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    model[2].eval()
    fast = model.compile()
    x = batch((3,), 5)
    assert fast(x).tolist() == fast(x).tolist()
    assert [m.training for m in model] == [True, True, False] and model.training


def test_weights_are_those_of_the_moment_until_refreshed() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    fast = model.compile()
    x = batch((3,), 4)
    before = fast(x).numpy().copy()
    model[0].weight.assign(model[0].weight * 2.0)
    np.testing.assert_array_equal(fast(x).numpy(), before)
    np.testing.assert_array_equal(fast(x[:1]).numpy(), before[:1])
    fast.refresh()
    np.testing.assert_allclose(fast(x).numpy(), model(x).numpy(), rtol=1e-6)
    np.testing.assert_allclose(fast(x[:1]).numpy(), model(x[:1]).numpy(), rtol=1e-6)


def test_one_program_serves_every_batch_and_another_a_single_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    real = program.build
    monkeypatch.setattr(program, "build", lambda *a, **k: built.append(k) or real(*a, **k))
    fast = nn.Sequential(nn.Linear(3, 2)).compile()
    for rows in (1, 2, 100, 3, 0, 1):
        assert fast(batch((3,), rows)).shape == (rows, 2)
    assert [k["apart"] for k in built] == [False, True]


def test_several_inputs_and_outputs() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            return {"sum": x + y, "product": x * y}

    fast = Pair().compile()
    x, y = batch((3,), 4), batch((3,), 4) + 1
    out = fast(x, Tensor(y))
    np.testing.assert_array_equal(out["sum"].numpy(), x + y)
    np.testing.assert_array_equal(out["product"].numpy(), x * y)


def test_a_model_that_looks_at_its_batch_size_is_compiled_for_each() -> None:
    class Flattened(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(int(x.shape[0]) * 3)

    fast = Flattened().compile()
    for rows in (1, 2, 5, 2):
        x = batch((3,), rows)
        np.testing.assert_array_equal(fast(x).numpy(), x.reshape(-1))


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x - x.mean(0),
        lambda x: nn.functional.log_softmax(x, 0),
        lambda x: nn.functional.softmax(x.reshape(-1, 4), 0).reshape(x.shape),
        lambda x: nn.functional.softmax(x, -1),
        lambda x: x.max((1, 2), keepdims=True),
        lambda x: x.argmax(1, keepdims=True),
        lambda x: (x @ x.permute(0, 2, 1)).sum(2),
    ],
)
def test_samples_that_meet_one_another_and_networks_without_weights(function: Callable[[Tensor], Tensor]) -> None:
    model = Function(function)
    fast = model.compile()
    for rows in (3, 1, 2, 70):
        x = batch((3, 4), rows)
        np.testing.assert_allclose(fast(x).numpy(), model(Tensor(x)).numpy(), rtol=1e-5, atol=1e-5)


def test_a_model_that_is_written_for_one_batch_size_is_compiled_for_that() -> None:
    for function in (lambda x: x.reshape(6, 12) * 2.0, lambda x: x[:6, 1:] + 1.0):
        model = Function(function)
        fast, x = model.compile(), batch((3, 4), 6)
        np.testing.assert_array_equal(fast(x).numpy(), model(Tensor(x)).numpy())
    with pytest.raises(smelt.ShapeError, match="reshape"):
        Function(lambda x: x.reshape(6, 12)).compile()(batch((3, 4), 5))


def test_arrays_that_do_not_lie_densely() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    x = batch((6,), 8)[::2, ::2]
    np.testing.assert_allclose(model.compile()(x).numpy(), model(x).numpy(), rtol=1e-6)


def test_calls_from_many_threads_give_the_serial_results() -> None:
    make, shape = ZOO["ds_cnn"]
    fast = make().compile()
    inputs = [batch(shape, rows) for rows in (1, 3, 8, 1, 2, 5)]
    want = [fast(x).numpy() for x in inputs]
    wrong: list[str] = []

    def work(i: int) -> None:
        for j in range(25):
            k = (i + j) % len(inputs)
            if fast(inputs[k]).numpy().tobytes() != want[k].tobytes():
                wrong.append(f"thread {i}, input {k}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("inputs", "error", "words"),
    [
        (([[1.0, 2.0, 3.0]],), TypeError, "expected arrays or tensors, received list"),
        ((), TypeError, "expected an array or tensor, received nothing"),
        ((np.zeros((2, 4), np.float32),), smelt.ShapeError, "4"),
        ((np.zeros((2, 3), np.int64),), smelt.ShapeError, "i64"),
    ],
)
def test_bad_input(inputs: tuple, error: type[Exception], words: str) -> None:
    fast = nn.Sequential(nn.Linear(3, 2)).compile()
    with pytest.raises(error, match=words):
        fast(*inputs)
    assert fast(np.zeros((2, 3), np.float32)).shape == (2, 2)


def test_the_graph_that_is_run_can_be_looked_at() -> None:
    fast = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).compile()
    with pytest.raises(smelt.TraceError, match="has not been called yet"):
        _ = fast.graph
    fast(np.zeros((1, 3), np.float32))
    assert [n.opname for n in fast.graph.nodes() if n.op is not None] == ["matmul", "add"]
    assert isinstance(fast, Inference) and len(fast.lowered().kernels) == 1


@pytest.mark.parametrize(
    ("layers", "shape", "kernels"),
    [
        ((nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)), (1, 28, 28), 1),
        ((nn.Conv2d(3, 20, 3), nn.MaxPool2d((1, 2)), nn.ReLU()), (3, 9, 10), 1),
        ((nn.Conv2d(16, 7, 3), nn.AvgPool2d(2), nn.Tanh()), (16, 8, 6), 1),
        ((nn.Conv2d(4, 16, 3), nn.MaxPool2d(3)), (4, 11, 11), 2),  # more pixels than a tile takes
        ((nn.Conv2d(4, 16, 3), nn.MaxPool2d(2)), (4, 9, 9), 2),  # a row and a column that no window takes
        ((nn.Conv2d(4, 16, 3), nn.MaxPool2d(2, 1)), (4, 8, 8), 2),  # windows that overlap
    ],
)
def test_pooling_happens_on_the_tile_of_its_convolution(
    layers: tuple[nn.Module, ...], shape: tuple[int, ...], kernels: int
) -> None:
    model = nn.Sequential(*layers)
    fast = model.compile()
    for rows in (1, 5):
        x = batch(shape, rows)
        np.testing.assert_allclose(fast(x).numpy(), model(x).numpy(), rtol=1e-5, atol=1e-5)
        assert len([k for k in fast.lowered().kernels if "copy" not in k.note]) == kernels
