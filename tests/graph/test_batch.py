"""The batch axis through a trace: when a ragged batch may run the same graph, and why it may not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import smelt
from smelt import ops
from smelt.graph.trace import BatchSize
from smelt.ops import Rows
from smelt.tensor import Tensor

from .running import Function, as_tuple, batch, fixed, run_ragged, trace

FULL, RAGGED = 6, 4
POOL = {"kernel": (2, 2), "stride": (1, 1), "padding": ((0, 0), (0, 0))}
CONV = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
WEIGHT = np.linspace(-1, 1, 15).reshape(5, 3)
KERNEL = np.linspace(-1, 1, 8).reshape(2, 1, 2, 2)


def images(x: Tensor) -> Tensor:
    """Return (b, 5) as images (b, 1, 5, 2)."""
    return smelt.stack([x, x * 2], axis=2).unsqueeze(1)


def trained(x: Tensor) -> tuple[Tensor, ...]:
    """Return the loss and the gradients of a small convolutional network."""
    weight, kernel = smelt.Parameter(np.linspace(-1, 1, 24).reshape(8, 3)), smelt.Parameter(KERNEL)
    h = ops.conv2d(images(x), kernel, **CONV).relu().flatten(1)
    labels = ops.argmax(x[:, :3], axes=(1,))
    loss = ops.softmax_cross_entropy(h @ weight, labels).mean()
    loss.backward()
    return loss, weight.grad, kernel.grad


def normalized(x: Tensor) -> tuple[Tensor, ...]:
    """Return batch normalization and its gradient."""
    leaf = x.detach()
    leaf.requires_grad = True
    y = (leaf - leaf.mean(0)) / (leaf.var(0) + 1e-5).sqrt()
    (y * y * y).sum().backward()
    return y.detach(), leaf.grad


FOLLOWING: dict[str, Function] = {
    "elementwise": lambda x: x.tanh() * 2 + x,
    "fixed operand": lambda x: x * np.arange(5.0),
    "mean": lambda x: x.mean(),
    "mean over the batch": lambda x: x.mean(0),
    "variance over the batch": lambda x: x.var(0),
    "sum of other axes": lambda x: x.sum(1),
    "maximum over the batch": lambda x: x.max(0),
    "argmax": lambda x: x.argmax(1),
    "count": lambda x: x.sum(0) / x.count(0),
    "flattened": lambda x: x.reshape(-1),
    "reshaped by its own size": lambda x: x.reshape(x.shape[0], 5, 1),
    "flatten(1)": lambda x: x.unsqueeze(2).flatten(1),
    "transposed": lambda x: x.T,
    "another axis sliced": lambda x: x[:, 1:4],
    "an index of another axis": lambda x: x[:, 2],
    "all samples, spelt out": lambda x: x[:FULL],
    "all samples": lambda x: x[:],
    "a new axis": lambda x: x[None, :, :, None],
    "concatenated along another axis": lambda x: smelt.concat([x, x * x], axis=1),
    "stacked": lambda x: smelt.stack([x, x], axis=0),
    "padded along another axis": lambda x: ops.place(x, shape=(x.shape[0], 7), start=(0, 1), step=(1, 1), fill=0.0),
    "broadcast to its own shape": lambda x: x.sum(1, keepdims=True).broadcast_to(x.shape),
    "zeros of its shape": lambda x: x + smelt.zeros(x.shape, "float64"),
    "ones of its rows": lambda x: smelt.ones((x.shape[0], 2)),
    "random numbers of its shape": lambda x: ops.random_uniform(
        Tensor(np.arange(4, dtype=np.uint32)), shape=x.shape, dtype="float32"
    ),
    "an index of its rows' features": lambda x: ops.iota(shape=x.shape, axis=1, dtype="int64"),
    "matmul by a weight": lambda x: x @ WEIGHT,
    "matmul of a weight by it, transposed": lambda x: WEIGHT.T @ x.T,
    "matmul over the batch": lambda x: x.T @ x,
    "matmul sample by sample": lambda x: x.unsqueeze(2) @ x.unsqueeze(1),
    "convolution": lambda x: ops.conv2d(images(x), Tensor(KERNEL), **CONV),
    "pooling": lambda x: ops.max_pool2d(images(x), **POOL),
    "where": lambda x: smelt.where(x > 0.0, x, 0.0),
    "a training step": trained,
    "batch normalization": normalized,
}

TIED: dict[str, tuple[Function, str]] = {
    "divided by the size": (lambda x: x.sum() / x.shape[0], "used as a number"),
    "divided by len": (lambda x: x.sum() / len(x), "used as a number"),
    "divided by size": (lambda x: x.sum() / x.size, "used as a number"),
    "the size compared": (lambda x: x if x.shape[0] > 3 else -x, "used as a number"),
    "the size in arithmetic": (lambda x: x.reshape(x.shape[0] // 2, 10), "used as a number"),
    "the size converted": (lambda x: x * float(x.shape[0]), "used as a number"),
    "the size counted": (lambda x: smelt.arange(x.shape[0]), "used as a number"),
    "a loop over samples": (lambda x: smelt.stack(list(x)), "used as a number"),
    "a loop over indices": (
        lambda x: smelt.stack([x[i] for i in range(x.shape[0])]),
        "cuts the batch axis",
    ),
    "some samples": (lambda x: x[1:], "cuts the batch axis"),
    "samples reversed": (lambda x: x[::-1], "cuts the batch axis"),
    "one sample": (lambda x: x[0], "cuts the batch axis"),
    "concatenated along the batch": (lambda x: smelt.concat([x, x]), "cuts the batch axis"),
    "an operand of fixed shape": (
        lambda x: x + np.ones((FULL, 5)),
        "fixed shape (6, 5) meets the batch axis",
    ),
    "a fixed column, broadcast": (
        lambda x: smelt.tensor(np.ones((FULL, 1))).broadcast_to(x.shape),
        "fixed shape (6, 1) meets the batch axis",
    ),
    "rows against columns": (lambda x: x[:, :1] + x[:, 0], "falls on different axes"),
    "all pairs of samples": (lambda x: x @ x.T, "both operands carry the batch"),
    "a fixed weight over the batch": (lambda x: np.ones((2, FULL)) @ x, "contracts the batch axis"),
    "mixed with another axis": (lambda x: x.T.reshape(-1), "mixes the batch axis"),
    "labels of fixed shape": (
        lambda x: ops.softmax_cross_entropy(x, Tensor(np.zeros(FULL, np.int64))),
        "only one of logits and labels is a batch",
    ),
}


def each(table: dict[str, object]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", table.values(), ids=list(table))


@each(FOLLOWING)
def test_the_same_graph_is_right_for_fewer_rows(case: Function) -> None:
    x = np.random.default_rng(1).normal(size=(FULL, 5))
    tracer = trace(case, batch(FULL, 5, dtype="float64"))
    assert tracer.graph.exact == []
    ragged = x[:RAGGED]
    want = [t.numpy() for t in as_tuple(case(Tensor(ragged)))]
    for got, w in zip(run_ragged(tracer, [ragged], FULL, RAGGED), want, strict=True):
        np.testing.assert_allclose(got, w, rtol=1e-12, atol=1e-12)


@each(TIED)
def test_a_graph_is_exact_and_says_why(case: tuple[Function, str]) -> None:
    function, reason = case
    graph = trace(function, batch(FULL, 5, dtype="float64")).graph
    assert graph.exact
    assert reason in graph.exact[0]
    assert "test_batch.py:" in graph.exact[0], "the reason names the user's line"
    assert f"exact batch: {graph.exact[0]}" in str(graph)


@each(TIED)
def test_without_a_batch_nothing_ties(case: tuple[Function, str]) -> None:
    assert trace(case[0], fixed(FULL, 5, dtype="float64")).graph.exact == []


def test_the_batch_size_knows_its_value_and_multiple() -> None:
    seen = []

    def function(x: Tensor) -> Tensor:
        flat = x.reshape(-1)
        seen.extend([x.shape[0], flat.shape[0], x.shape[1]])
        return flat

    assert not trace(function, batch(FULL, 5)).graph.exact
    assert [type(d) for d in seen] == [BatchSize, BatchSize, int]
    assert seen[1].per == 5
    assert [int.__int__(d) for d in seen] == [6, 30, 5]


@pytest.mark.parametrize(
    ("function", "rows"),
    [
        (lambda x: x.T, Rows(1)),
        (lambda x: x[None], Rows(1)),
        (lambda x: x.reshape(-1), Rows(0, 5)),
        (lambda x: x.reshape(-1).reshape(-1, 5), Rows(0)),
        (lambda x: x.sum(0), None),
        (lambda x: x.sum(1), Rows(0)),
        (lambda x: x.T.sum(0), Rows(0)),
        (lambda x: x @ WEIGHT, Rows(0)),
        (lambda x: WEIGHT.T @ x.T, Rows(1)),
        (lambda x: x.T @ x, None),
        (lambda x: x.unsqueeze(1) @ x.unsqueeze(2), Rows(0)),
        (lambda x: x.argmax(1), Rows(0)),
    ],
)
def test_rows_land_on_the_axis_that_follows_the_batch(function: Function, rows: Rows | None) -> None:
    graph = trace(function, batch(FULL, 5, dtype="float64")).graph
    assert graph.outputs[0].spec.rows == rows
    assert graph.exact == []


def test_a_batch_on_another_axis_follows_too() -> None:
    tracer = trace(lambda x: (x * 2).sum(0), batch(5, FULL, axis=1))
    assert tracer.graph.outputs[0].spec.rows == Rows(0)
    assert tracer.graph.exact == []


def test_state_that_receives_the_batchs_shape_ties() -> None:
    state = smelt.tensor(np.zeros((FULL, 5), np.float32))

    def function(x: Tensor) -> Tensor:
        state.assign(x * 2)
        return x

    (reason,) = trace(function, batch(FULL, 5)).graph.exact
    assert "state of a fixed shape receives" in reason


def test_state_of_a_reduced_shape_does_not_tie() -> None:
    state = smelt.tensor(np.zeros(5, np.float32))

    def function(x: Tensor) -> Tensor:
        state.assign(0.9 * state + 0.1 * x.mean(0))
        return x

    graph = trace(function, batch(FULL, 5)).graph
    assert graph.exact == []
    assert [s.name for s in graph.updates] == ["state0"]


UNSEEN: dict[str, Callable[[Tensor], Tensor]] = {
    "divmod": lambda x: x * divmod(x.shape[0], 4)[1],
    "shift": lambda x: x * (x.shape[0] << 1),
    "and": lambda x: x * (x.shape[0] & 5),
    "text": lambda x: x * float(str(x.shape[0])),
}


@each(UNSEEN)
def test_no_use_of_the_size_escapes(case: Function) -> None:
    assert trace(case, batch(FULL, 5)).graph.exact
