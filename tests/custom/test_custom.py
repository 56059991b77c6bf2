"""Custom operations of NumPy functions: values, gradients, eager and compiled alike, ragged batches, bad functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ops.matrix import LAYOUTS

import smelt
from smelt import ShapeError, nn, ops, optim
from smelt.graph.interpret import interpret
from smelt.graph.trace import Tracer
from smelt.ops import Rows, Spec
from smelt.tensor import Tensor

from .functions import moments, swish, swish_by_tensors

RNG = np.random.default_rng(5)
X = RNG.normal(size=(6, 5)).astype(np.float32)
W = RNG.normal(size=5).astype(np.float32)
UNARY = [swish, swish_by_tensors]


def reference(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def gradients(function: Callable[..., Any], *arrays: np.ndarray) -> list[np.ndarray]:
    """Return the gradient of the sum of squares of all results with respect to every array."""
    tensors = [Tensor(a, requires_grad=True) for a in arrays]
    results = function(*tensors)
    total = None
    for y in results if isinstance(results, tuple) else (results,):
        part = (y * y).sum()
        total = part if total is None else total + part
    assert total is not None
    total.backward()
    return [t.grad.numpy() if t.grad is not None else np.zeros(t.shape, t.dtype) for t in tensors]


def loss(function: Callable[..., Any], *arrays: np.ndarray) -> float:
    results = function(*map(Tensor, arrays))
    return sum(float((y.numpy() ** 2).sum()) for y in (results if isinstance(results, tuple) else (results,)))


@pytest.mark.parametrize(
    ("function", "count"), [*((f, 1) for f in UNARY), (moments, 2)], ids=lambda v: getattr(v, "name", "")
)
def test_gradient_matches_central_differences(function: Any, count: int) -> None:
    arrays = [X.astype(np.float64), W.astype(np.float64)][:count]
    grads = gradients(function, *arrays)
    h = 1e-5
    for i, (array, grad) in enumerate(zip(arrays, grads, strict=True)):
        assert (grad.shape, grad.dtype) == (array.shape, array.dtype)
        for at in np.ndindex(array.shape):
            sides = []
            for sign in (1, -1):
                moved = [a.copy() for a in arrays]
                moved[i][at] += sign * h
                sides.append(loss(function, *moved))
            assert (sides[0] - sides[1]) / (2 * h) == pytest.approx(grad[at], rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("function", UNARY, ids=lambda f: f.name)
def test_every_layout_gives_the_same_eager_and_compiled(function: Any, layout: str) -> None:
    compiled = smelt.compile(function)
    for shape in ((37,), (0, 4), (3, 5), (2, 3, 4, 5), (1,)):
        x = LAYOUTS[layout](RNG.normal(size=shape).astype(np.float32), ())
        if x is None:
            continue
        want = function(Tensor(x)).numpy()
        np.testing.assert_allclose(want, reference(x), rtol=1e-6)
        assert compiled(x).numpy().tobytes() == want.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_two_results_of_one_call(dtype: str) -> None:
    x, w = X.astype(dtype), W.astype(dtype)
    s, m = moments(Tensor(x), Tensor(w))
    np.testing.assert_array_equal(s.numpy(), x @ w)
    np.testing.assert_array_equal(m.numpy(), (x * x) @ w)

    def step(x: Tensor, w: Tensor) -> Any:
        x.requires_grad = w.requires_grad = True
        s, m = moments(x, w)
        ((s * s).sum() + (m * m).sum()).backward()
        return s, m, x.grad, w.grad

    compiled = smelt.compile(step)(x, w)
    for got, want in zip(compiled, [s.numpy(), m.numpy(), *gradients(moments, x, w)], strict=True):
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-5 if dtype == "float32" else 1e-13)


def test_a_result_that_nothing_depends_on_has_a_gradient_of_zero() -> None:
    x, w = Tensor(X, requires_grad=True), Tensor(W, requires_grad=True)
    moments(x, w)[1].sum().backward()
    assert x.grad is not None and w.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), 2 * X * W, rtol=1e-6)
    np.testing.assert_allclose(w.grad.numpy(), (X * X).sum(0), rtol=1e-5)
    only = smelt.compile(lambda x, w: moments(x, w)[1])
    np.testing.assert_array_equal(only(X, W).numpy(), (X * X) @ W)


def test_results_of_any_type_and_no_axes() -> None:
    @smelt.custom_op(out=lambda x: [((), "float64"), (x.shape, "int64"), (x.shape, bool), ((2, 0), "float32")])
    def facts(x: np.ndarray) -> Any:
        return np.float64(x.sum()), np.argsort(x, axis=0), x > 0, np.zeros((2, 0), np.float32)

    want = facts(Tensor(X))
    assert [y.dtype.name for y in want] == ["float64", "int64", "bool", "float32"]
    assert not want[1].requires_grad
    for got, w in zip(smelt.compile(facts)(X), want, strict=True):
        assert (got.dtype, got.shape) == (w.dtype, w.shape)
        assert got.numpy().tobytes() == w.numpy().tobytes()


def test_numbers_constants_state_and_views_are_operands() -> None:
    @smelt.custom_op
    def plus(x: np.ndarray, *rest: np.ndarray) -> np.ndarray:
        assert x.flags.c_contiguous and all(r.flags.c_contiguous for r in rest)
        return x + sum(rest)

    w = smelt.Parameter(np.arange(20, dtype=np.float32).reshape(4, 5))
    table = np.arange(5, dtype=np.float32)

    def f(x: Tensor) -> Tensor:
        return plus(x.T, w.T, 2.0, Tensor(table)[:, None], (x * 2.0).T[:, ::-1], x.sum())

    x = X[:4]
    want = x.T + w.numpy().T + 2 + table[:, None] + 2 * x.T[:, ::-1] + x.sum()
    np.testing.assert_allclose(f(Tensor(x)).numpy(), want, rtol=1e-6)
    np.testing.assert_allclose(smelt.compile(f)(x).numpy(), want, rtol=1e-6)


def test_results_go_where_they_are_wanted() -> None:
    """Outputs, twice; a part of a concatenation; padding; a reshape; new state."""
    state = Tensor(np.zeros((6, 5), np.float32), name="state")

    def f(x: Tensor) -> Any:
        y = swish(x)
        state.assign(y)
        return y, y, smelt.concat([y, x, swish(y)], axis=1), y.reshape(3, 10), y.T @ y

    want = [t.numpy().copy() for t in f(Tensor(X))]
    after = state.numpy().copy()
    state.assign(Tensor(np.zeros((6, 5), np.float32)))
    got = smelt.compile(f)(X)
    assert [g.numpy().tobytes() for g in got[:4]] == [w.tobytes() for w in want[:4]]
    np.testing.assert_allclose(got[4].numpy(), want[4], rtol=1e-5)
    assert state.numpy().tobytes() == after.tobytes()


def test_images_reach_the_function_in_logical_order() -> None:
    conv = nn.Conv2d(2, 17, 3, padding=1)
    flip = smelt.custom_op(lambda x: x[:, ::-1], name="flip")
    x = RNG.normal(size=(3, 2, 7, 6)).astype(np.float32)

    def f(x: Tensor) -> Tensor:
        return nn.functional.max_pool2d(flip(conv(x).relu()), 2)

    with smelt.no_grad():
        want = f(Tensor(x)).numpy()
        np.testing.assert_allclose(smelt.compile(f)(x).numpy(), want, rtol=1e-4, atol=1e-6)


def test_a_ragged_batch_runs_the_same_code(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[int, ...]] = []

    def forward(x: np.ndarray) -> np.ndarray:
        seen.append(x.shape)
        return x - x.mean(0)

    centred = smelt.custom_op(forward)
    f = smelt.compile(lambda x: centred(x + 1.0) + 1.0)
    for rows in (6, 2, 1, 6):
        np.testing.assert_array_equal(f(X[:rows]).numpy(), centred(Tensor(X[:rows]) + 1.0).numpy() + 1)
        assert seen[-1] == seen[-2] == (rows, 5)
    one_more = smelt.custom_op(
        lambda x: np.concatenate([x, x[:1]]), out=lambda x: ((x.shape[0] + 1, 5), x.dtype), name="one_more"
    )
    g = smelt.compile(lambda x: one_more(x))
    for rows in (6, 3):
        np.testing.assert_array_equal(g(X[:rows]).numpy()[:rows], X[:rows])
    assert (f.traces, g.traces) == (1, 2)
    assert "one_more: the shapes of its results are not those of another batch" in capsys.readouterr().err


def test_training_on_ragged_batches_with_a_gradient_that_sums_over_the_batch() -> None:
    results = []
    for compiled in (False, True):
        w = smelt.Parameter(W.copy())

        def step(x: Tensor, w: smelt.Parameter) -> Tensor:
            s, m = moments(x, w)
            loss = (s * s + m).mean()
            w.grad = None
            loss.backward()
            return loss

        run = smelt.compile(step) if compiled else step
        losses = []
        for rows in (6, 4, 6, 1):
            losses.append(run(Tensor(X[:rows]), w).item())
            assert w.grad is not None
            losses += w.grad.tolist()
        results.append(losses)
        assert not compiled or run.traces == 1
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5)


def test_how_results_follow_the_batch_is_inferred() -> None:
    def rows(out: Any, *specs: Spec) -> Any:
        found = smelt.custom_op(lambda *_: None, out=out)._op.function.infer(specs)
        return [s.exact or s.rows for s in found]

    f4 = np.dtype("f4")
    batch, double, one = Spec((6, 5), f4, Rows(0)), Spec((12, 5), f4, Rows(0, 2)), Spec((1, 5), f4, Rows(0))
    weight, across = Spec((6,), f4), Spec((5, 6), f4, Rows(1))
    assert rows(None, batch, weight) == [Rows(0)]
    assert rows(None, weight, batch) == [None]
    assert rows(lambda x, w: [w, x, ((), "float32"), (x.shape[0], "int64")], batch, weight) == [
        None,
        Rows(0),
        None,
        Rows(0),
    ]
    assert rows(lambda x: ((x.shape[0] * 3, 2), x.dtype), double) == [Rows(0, 6)]
    assert rows(lambda x: ((x.shape[0] // 2,), x.dtype), double) == [Rows(0)]
    assert rows(None, one) == [Rows(0)]
    assert rows(None, weight) == [None]

    def only_six(x: Spec) -> Spec:
        if x.shape[0] != 6:
            raise ValueError("six")
        return x

    unknown = ["custom: the shapes of its results are not those of another batch"]
    for out in (lambda x: ((5, x.shape[0]), x.dtype), lambda x: ((x.shape[0] + 1,), x.dtype), only_six):
        assert rows(out, batch) == unknown
    assert rows(lambda x: [x] * (x.shape[0] // 6 + 1), batch) == unknown * 2
    assert rows(None, across) == ["custom: the batch is not the first axis of its operands"]


def test_an_operand_whose_batch_is_another_axis_arrives_whole() -> None:
    seen: list[tuple[int, ...]] = []
    op = smelt.custom_op(lambda x: seen.append(x.shape) or x * 2)
    f = smelt.compile(lambda x: op(x.T))
    for rows in (6, 4):
        np.testing.assert_array_equal(f(X[:rows]).numpy(), X[:rows].T * 2)
    assert seen == [(5, 6), (5, 4)]


def test_equal_calls_stay_apart_and_unread_ones_do_not_run() -> None:
    calls = []
    noise = smelt.custom_op(lambda x: calls.append(1) or x + len(calls), name="noise")

    def f(x: Tensor) -> Tensor:
        noise(x * 3.0)
        return noise(x) - noise(x)

    assert smelt.compile(f)(X).numpy() == pytest.approx(-np.ones((6, 5)), abs=1e-5)
    assert len(calls) == 2


def test_functions_of_one_name_are_told_apart_by_the_cache() -> None:
    double = smelt.custom_op(lambda x: x * 2, name="f")
    triple = smelt.custom_op(lambda x: x * 3, name="f")
    pair = smelt.custom_op(lambda x: (x, -x), out=lambda x: [x, x], name="f")
    for f in (lambda x: double(triple(x)), lambda x: double(double(x)), lambda x: triple(double(triple(x)))):
        np.testing.assert_allclose(smelt.compile(f)(X).numpy(), f(Tensor(X)).numpy())
    for g in (lambda x: (*pair(x),), lambda x: (pair(x)[0], pair(x)[1])):
        assert [t.numpy().tobytes() for t in smelt.compile(g)(X)] == [X.tobytes(), (-X).tobytes()]


def test_results_nobody_reads_are_told_apart_by_the_cache_too() -> None:
    def make(out: Any, other: Any) -> Any:
        op = smelt.custom_op(lambda x: (x, other(x)), out=out, name="pair")
        return smelt.compile(lambda x: op(x)[0])

    follows = make(lambda x: [x, x], lambda x: x)
    fixed = make(lambda x: [x, ((6, 5), x.dtype)], lambda x: np.zeros((6, 5), x.dtype))
    for f in (follows, fixed):
        for rows in (6, 3):
            np.testing.assert_array_equal(f(X[:rows]).numpy(), X[:rows])
        assert f.traces == 1


def test_a_function_owns_what_it_receives_and_what_it_returns() -> None:
    kept: list[np.ndarray] = []
    buffer = np.empty((6, 5), np.float32)

    def forward(x: np.ndarray) -> np.ndarray:
        kept.append(x)
        np.multiply(x, len(kept), out=buffer)
        x[...] = -1
        return buffer

    op = smelt.custom_op(forward)
    for f in (op, smelt.compile(lambda x: op(x) + 0.0)):
        kept.clear()
        x = Tensor(X.copy())
        first, second = f(x), f(x)
        np.testing.assert_array_equal(first.numpy(), X)
        np.testing.assert_array_equal(second.numpy(), X * 2)
        np.testing.assert_array_equal(x.numpy(), X)
        assert [bool((k == -1).all()) for k in kept] == [True, True]


def test_the_interpreted_graph_equals_eager() -> None:
    tracer = Tracer("f")
    node = tracer.input("x", Spec(X.shape, X.dtype))
    with tracer:
        s, m = moments(Tensor(node), Tensor(W))
        graph = tracer.finish([tracer.lift(ops.add(s, m))])
    assert interpret(graph, [X], [])[0][0].tobytes() == (X @ W + (X * X) @ W).tobytes()
    assert "custom.moments" in str(graph)


class Net(nn.Module):
    """A small network with a custom activation between two layers."""

    def __init__(self, activation: Any) -> None:
        super().__init__()
        self.activation = activation
        self.first, self.last = nn.Linear(8, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.activation(self.first(x)))


@pytest.mark.parametrize("function", UNARY, ids=lambda f: f.name)
def test_training_compiled_is_training_eagerly(function: Any) -> None:
    x = RNG.normal(size=(20, 8)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 0)
    results = []
    for compiled in (False, True):
        smelt.seed(3)
        model = Net(function)
        optimizer = optim.Adam(model.parameters(), lr=0.05)

        def step(x: Tensor, y: Tensor, model: Net, optimizer: Any) -> Tensor:
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        run = smelt.compile(step) if compiled else step
        losses = []
        for _ in range(15):
            for part in (slice(0, 16), slice(16, 20)):
                losses.append(run(Tensor(x[part]), Tensor(y[part]), model, optimizer).item())
        results.append((losses, model.state_dict()))
    (eager, weights), (native, same) = results
    np.testing.assert_allclose(native, eager, rtol=2e-4, atol=1e-5)
    assert np.mean(eager[-4:]) < 0.5 * np.mean(eager[:4])
    for name, value in weights.items():
        np.testing.assert_allclose(same[name], value, rtol=2e-3, atol=1e-4, err_msg=name)


BAD: dict[str, tuple[dict[str, Any], Callable[..., Any], str]] = {
    "dtype": ({}, lambda x: x.astype(np.float64), r"bad returned float64\[6, 5\], expected float32\[6, 5\]"),
    "shape": ({}, lambda x: x[1:], r"bad returned float32\[5, 5\], expected float32\[6, 5\]"),
    "none": ({}, lambda x: None, r"bad returned object\[\], expected float32\[6, 5\]"),
    "too many": ({}, lambda x: (x, x), "bad returned 2 arrays, expected 1 array"),
    "too few": ({"out": lambda x: [x, x]}, lambda x: x, "bad returned 1 array, expected 2 arrays"),
    "one of two": (
        {"out": lambda x: [x, ((2,), "int64")]},
        lambda x: (x, np.zeros(3, np.int64)),
        r"bad returned int64\[3\] as result 1, expected int64\[2\]",
    ),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("declared", "function", "message"), BAD.values(), ids=list(BAD))
def test_results_other_than_declared_are_errors(
    declared: dict[str, Any], function: Callable[..., Any], message: str, compiled: bool
) -> None:
    op = smelt.custom_op(function, name="bad", **declared)

    def f(x: Any) -> Any:
        out = op(x)  # the line
        return out

    with pytest.raises(ShapeError, match=message + r".*\[test_custom.py:\d+: .*the line"):
        (smelt.compile(f) if compiled else f)(Tensor(X))


BAD_OUT: dict[str, tuple[Any, str]] = {
    "no pair": (lambda x: 3, r"out gave 3, expected \(shape, dtype\)"),
    "shape": (lambda x: ("wide", x.dtype), r"out gave the shape 'wide'"),
    "negative": (lambda x: ((-1,), x.dtype), r"out gave the shape \(-1,\)"),
    "dtype": (lambda x: (x.shape, "float99"), "out gave the dtype 'float99'"),
    "other dtype": (lambda x: (x.shape, "complex64"), "out gave the dtype complex64, expected one of float32"),
    "empty": (lambda x: [], "out gave an empty list"),
}


@pytest.mark.parametrize(("out", "message"), BAD_OUT.values(), ids=list(BAD_OUT))
def test_a_bad_declaration_of_the_result_is_an_error(out: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message + r".*\[test_custom.py:\d+: .*\]"):
        smelt.custom_op(lambda x: x, out=out, name="bad")(Tensor(X))


def test_operands_other_than_declared_are_errors() -> None:
    op = smelt.custom_op(lambda x, w: x, inputs=[("float32", 2), "int64"], name="pick")
    op(Tensor(X), Tensor([1, 2]))
    for operands, message in (
        ((X,), "expected 2 operands, received 1"),
        ((X, W), r"expected operand 1 to be int64, received f32\[5\]"),
        ((W, [1]), r"expected operand 0 to be float32 of 2 axes, received f32\[5\]"),
    ):
        with pytest.raises(ShapeError, match=r"pick: " + message + r".*\[test_custom.py"):
            op(*map(Tensor, operands))
    with pytest.raises(ShapeError, match="custom: expected at least 1 operands, received 0"):
        smelt.custom_op(lambda: X)()


@pytest.mark.parametrize("compiled", [False, True])
def test_a_bad_gradient_is_an_error_at_the_line_of_the_call(compiled: bool) -> None:
    w = smelt.Parameter(W)
    rules: list[tuple[Any, str]] = [
        (None, "bad has no gradient, and backward needs it: expected gradient=..."),
        (lambda g, y, x: (g, g), "the gradient of bad gave 2 values, expected 1"),
        (lambda g, y, x: g.sum(), r"the gradient of bad gave f32\[\] for operand 0, expected a tensor f32\[5\]"),
        (lambda g, y, x: 3.0, r"the gradient of bad gave float for operand 0, expected a tensor f32\[5\]"),
    ]
    for rule, message in rules:
        op = smelt.custom_op(lambda x: x * 2, gradient=rule, name="bad")

        def f(op: Any = op) -> Tensor:
            y = op(w)  # the call
            y.sum().backward()
            return y

        with pytest.raises(ShapeError, match=message + r"  \[test_custom.py:\d+: y = op\(w\)  # the call\]"):
            (smelt.compile(f) if compiled else f)()
    with smelt.no_grad():
        smelt.custom_op(lambda x: x * 2)(w)


def test_none_is_a_gradient_of_zero() -> None:
    op = smelt.custom_op(lambda x, w: x * w, gradient=lambda g, y, x, w: (g * w, None))
    x, w = smelt.Parameter([1.0, 2.0]), smelt.Parameter([3.0, 4.0])
    op(x, w).sum().backward()
    assert x.grad is not None and (x.grad.tolist(), w.grad) == ([3.0, 4.0], None)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"function": 3}, TypeError, "expected a function or a native function, received int"),
        ({"out": 3}, TypeError, "expected out to be a function, received int"),
        ({"gradient": 3}, TypeError, "expected gradient to be a function, received int"),
        ({"per_sample": True}, ValueError, "per_sample is for native functions, received a Python function"),
        ({"inputs": ["float99"]}, ValueError, "expected inputs of float32.*; received 'float99'"),
        ({"inputs": [("float32", -1)]}, ValueError, "received"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=r"custom_op: .*" + message + r".*\[test_custom.py"):
        smelt.custom_op(**{"function": lambda x: x, **arguments})


def test_a_model_with_a_custom_layer_is_not_saved_half(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=r"expected a layer of smelt\.nn, received Net, which is defined elsewhere"):
        smelt.save(Net(swish), tmp_path / "net.smelt")
    assert list(tmp_path.iterdir()) == []
