"""``model.compile(precision=...)``: the values of the frozen graph, from weights of 16 bits."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
from compiler.zoo import CASES, Training

import smelt
from smelt import nn
from smelt.compiler import program
from smelt.compiler.isa import host
from smelt.graph.interpret import interpret
from smelt.ops.primitive import HALVES
from smelt.runtime import inference
from smelt.tensor import Tensor

each_precision = pytest.mark.parametrize("precision", ["bf16", "f16"])


@functools.cache
def trained(name: str) -> Training:
    """Return a network whose running statistics are no longer 0 and 1."""
    training = Training(CASES[name])
    step = smelt.compile(training.step)
    for seed in range(3):
        step(*training.case.data(8, seed=seed))
    training.model.eval()
    return training


@each_precision
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("name", ["mnist_cnn", "ds_cnn", "autoencoder", "odd_convolutions", "normalized"])
def test_it_is_what_the_interpreter_makes_of_the_frozen_graph(name: str, rows: int, precision: str) -> None:
    training = trained(name)
    x, _ = training.case.data(rows)
    fast = training.model.compile(precision=precision)
    got = fast(x).numpy()
    form = fast._latest
    if form.executable.capacity == rows or rows == 1:
        weights = form.frozen.evaluate([fast._values(t) for t in form.tensors])
        (want,), _ = interpret(fast.graph, [x], weights)
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-3 * np.abs(want).max())
    plain = training.model(Tensor(x)).numpy()
    assert 0 < np.abs(got - plain).max() <= 0.04 * np.abs(plain).max()


@each_precision
def test_weights_take_16_bits(precision: str) -> None:
    fast = trained("mnist_cnn").model.compile(precision=precision)
    fast(np.zeros((1, 1, 28, 28), np.float32))
    kinds = {a.dtype for a in fast._latest.executable.states if a.size > 200}
    assert kinds == {HALVES[precision]}


def test_weights_are_read_where_they_lie() -> None:
    """Pairs are made when the model is compiled: a call rounds its input, and multiplies."""
    fast = nn.Linear(64, 32).compile(precision="bf16")
    fast(np.zeros((2, 64), np.float32))
    lowered = fast.lowered()
    assert [k.note.split(" ")[0] for k in lowered.kernels] == ["cast", "matmul"]
    pairs = [s.pair for n, s in lowered.plan.storage.items() if n.kind == "state" and n.shape == (64, 32)]
    assert pairs == [0 if host().bf16 else None]


@each_precision
def test_without_products_of_pairs_it_gives_the_same(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained("resnet8").model
    x = np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32)
    want = model.compile(precision=precision)(x).numpy()
    plain = replace(host(), bf16=False)
    for module in (program, inference):
        monkeypatch.setattr(module, "host", lambda: plain)
    got = model.compile(precision=precision)(x).numpy()
    np.testing.assert_allclose(got, want, rtol=0, atol=5e-3 * np.abs(want).max())


@each_precision
def test_refreshed_weights_are_rounded_again(precision: str) -> None:
    layer = nn.Linear(8, 8, bias=False)
    fast = layer.compile(precision=precision)
    x = np.eye(8, dtype=np.float32)
    fast(x)
    layer.weight.assign(np.full((8, 8), 1.0 + 2.0**-12, np.float32))
    fast.refresh()
    assert (fast(x).numpy() == 1.0).all()


def test_a_surrounding_autocast_does_not_count() -> None:
    layer = nn.Linear(3, 2)
    x = np.ones((2, 3), np.float32)
    with smelt.autocast("bf16"):
        got = layer.compile()(x).numpy()
    np.testing.assert_array_equal(got, layer.compile()(x).numpy())


def test_a_wrong_name_is_refused() -> None:
    with pytest.raises(ValueError, match="Inference: precision: expected one of 'f32', 'bf16', 'f16', received 'int8'"):
        nn.Linear(2, 2).compile(precision="int8")
