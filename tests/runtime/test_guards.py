"""When a compiled function is traced again, what it says then, and what it refuses."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Callable

import numpy as np
import pytest

import smelt
from smelt import nn, optim
from smelt.graph.trace import current_tracer
from smelt.runtime import step as runtime_step
from smelt.tensor import Tensor

Capture = pytest.CaptureFixture[str]


def zeros(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.zeros(shape, dtype)


def said(capsys: Capture) -> list[str]:
    """Return the lines on stderr since the last look; stdout stays empty."""
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


CHANGES: dict[str, tuple[list[tuple], str]] = {
    "shape": ([(zeros(4, 3),), (zeros(4, 5),)], r"argument 0 has shape \(4, 5\), it had \(4, 3\)"),
    "rank": ([(zeros(4, 3),), (zeros(4, 3, 1),)], r"argument 0 has shape \(4, 3, 1\), it had \(4, 3\)"),
    "dtype": ([(zeros(4, 3),), (zeros(4, 3, dtype="float64"),)], "argument 0 is f64, it was f32"),
    "larger batch": ([(zeros(4, 3),), (zeros(5, 3),)], "a batch of 5 is larger than the 4 compiled for"),
    "constant": ([(zeros(4, 3), 2), (zeros(4, 3), 3)], r"the arguments are .*3.*, they were .*2"),
    "type of a constant": ([(zeros(4, 3), 2), (zeros(4, 3), 2.0)], r"the arguments are .*2\.0.*, they were .*2"),
    "number of arguments": ([(zeros(4, 3),), (zeros(4, 3), zeros(4, 3))], "the arguments are .*array, array"),
    "batches that differ": (
        [(zeros(4, 3), zeros(4, 3)), (zeros(3, 3), zeros(2, 3))],
        r"argument 0 has shape \(3, 3\), it had \(4, 3\)",
    ),
}


@pytest.mark.parametrize(("calls", "reason"), CHANGES.values(), ids=list(CHANGES))
def test_a_changed_argument_is_named_once(calls: list[tuple], reason: str, capsys: Capture) -> None:
    @smelt.compile
    def double(*args: object) -> object:
        return args[0] + args[0]  # type: ignore[operator]

    double(*calls[0])
    assert said(capsys) == []
    double(*calls[1])
    (line,) = said(capsys)
    assert line.startswith("smelt: compiling double again: ")
    assert re.search(reason, line), line
    for args in calls * 2:
        double(*args)
    assert said(capsys) == []
    assert double.traces == 2


def test_a_changed_mode_of_training_is_named(capsys: Capture) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5))
    forward = smelt.compile(lambda x: model(x))
    for _ in range(2):
        model.train()
        forward(zeros(2, 3))
        model.eval()
        forward(zeros(2, 3))
    (line,) = said(capsys)
    assert line.endswith("no longer true: training of Dropout is True")
    assert forward.traces == 2


def test_a_changed_attribute_of_a_module_is_named(capsys: Capture) -> None:
    model = nn.Linear(3, 4)
    forward = smelt.compile(model)
    forward(zeros(2, 3))
    model.bias = None
    forward(zeros(2, 3))
    (line,) = said(capsys)
    assert "Linear has the attributes it was traced with" in line


def test_switched_gradients_are_named(capsys: Capture) -> None:
    forward = smelt.compile(lambda x: x * 2)
    forward(zeros(2))
    with smelt.no_grad():
        forward(zeros(2))
    (line,) = said(capsys)
    assert line.endswith("gradients were switched off")


def test_a_gradient_that_appeared_is_named(capsys: Capture) -> None:
    w = smelt.Parameter(np.ones(3, np.float32), name="w")
    backward = smelt.compile(lambda x: (w * x).sum().backward())
    for _ in range(4):
        backward(zeros(2, 3))
    (line,) = said(capsys)
    assert line.endswith("no longer true: the gradient of w is absent")
    w.grad = None
    backward(zeros(2, 3))
    assert said(capsys) == []


def test_an_exact_batch_says_which_line_tied_it(capsys: Capture) -> None:
    @smelt.compile
    def mean(x: Tensor) -> Tensor:
        return x.sum(0) / x.shape[0]

    mean(zeros(4, 3))
    mean(zeros(3, 3))
    (line,) = said(capsys)
    assert "a batch of 3 cannot run code for 4: the batch size 4 is used as a number" in line
    assert "test_guards.py:" in line and "x.sum(0) / x.shape[0]" in line


def test_steady_training_is_traced_once(capsys: Capture) -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))
    optimizer = optim.Adam(model.parameters())

    @smelt.compile
    def step(x: Tensor, y: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    for i in range(30):
        optimizer.lr = 1e-3 / (i + 1)
        n = 3 if i % 5 == 4 else 8
        step(zeros(n, 3), zeros(n, dtype="int64"))
    assert step.traces == 1
    assert said(capsys) == []


def test_the_first_call_may_be_the_smallest(capsys: Capture) -> None:
    forward = smelt.compile(lambda x: x * 2)
    for n in (1, 2, 3, 3, 2, 1):
        assert forward(np.full((n, 2), n, np.float32)).tolist() == [[2.0 * n] * 2] * n
    assert forward.traces == 3
    assert len(said(capsys)) == 2


# --- how many are kept ------------------------------------------------------------------------------------


def test_the_least_recently_used_trace_goes_first() -> None:
    most = runtime_step.MOST_VARIANTS
    scale = smelt.compile(lambda x, by: x * by)
    for by in range(most):
        scale(zeros(2), by)
    scale(zeros(2), 0)
    scale(zeros(2), most)
    assert scale.traces == most + 1
    for by in (0, *range(2, most + 1)):
        scale(zeros(2), by)
    assert scale.traces == most + 1, "all but one are still there"
    scale(zeros(2), 1)
    assert scale.traces == most + 2


def test_a_dropped_function_frees_its_program_and_state() -> None:
    def make() -> tuple[weakref.ref, weakref.ref]:
        w = smelt.Parameter(np.ones((64, 64), np.float32))
        step = smelt.compile(lambda x: (x @ w).sum().backward())
        step(zeros(2, 64))
        return weakref.ref(w), weakref.ref(step._variants[0].executable.library)

    refs = make()
    gc.collect()
    assert [r() for r in refs] == [None, None]


# --- errors while tracing ---------------------------------------------------------------------------------


def with_if(x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


def with_print(x: Tensor) -> Tensor:
    print(x)
    return x


REFUSED: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "item": (lambda x: x.sum().item(), r"item\(\) needs the number"),
    "float": (lambda x: float(x.sum()), r"item\(\) needs the number"),
    "int": (lambda x: int(x.sum()), r"item\(\) needs the number"),
    "if": (with_if, "a Python `if` or `while` needs the number"),
    "print": (with_print, "print needs the number"),
    "numpy": (lambda x: x.numpy(), r"numpy\(\) needs the number"),
    "asarray": (lambda x: np.asarray(x), "conversion to a NumPy array needs the number"),
    "ufunc": (lambda x: np.exp(x), "conversion to a NumPy array needs the number"),
    "tolist": (lambda x: x.tolist(), r"tolist\(\) needs the number"),
    "assign to an argument": (lambda x: x.assign(x * 2), "an argument .* cannot be overwritten"),
    "seed": (lambda x: smelt.seed(1), "inside a compiled function would happen once"),
}


@pytest.mark.parametrize(("function", "what"), REFUSED.values(), ids=list(REFUSED))
def test_what_needs_a_number_names_it_and_the_line(
    function: Callable[[Tensor], object], what: str, capsys: Capture
) -> None:
    with pytest.raises(smelt.TraceError, match=what) as caught:
        smelt.compile(function)(zeros(2, 3))
    assert "[test_guards.py:" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert said(capsys) == []


def test_an_error_inside_leaves_gradients_state_and_function_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    before = model.state_dict()
    first, *others = model.parameters()
    kept = first.grad = smelt.ones((4, 3))
    fail = True

    @smelt.compile
    def step(x: Tensor) -> Tensor:
        loss = (model(x) * model(x)).sum()
        loss.backward()
        optimizer.step()
        if fail:
            raise KeyError("mine")
        return loss

    with pytest.raises(KeyError, match="mine"):
        step(np.ones((5, 3), np.float32))
    assert first.grad is kept
    assert all(p.grad is None for p in others)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    assert optimizer.state_dict()["step"] == 0.0
    assert (step.traces, current_tracer()) == (0, None)
    fail = False
    assert np.isfinite(step(np.ones((5, 3), np.float32)).item())
    assert optimizer.state_dict()["step"] == 1.0


def test_a_graph_before_the_first_call_is_refused() -> None:
    with pytest.raises(smelt.TraceError, match=r"has not been called yet.*test_guards\.py"):
        smelt.explain(smelt.compile(with_if))


# --- traced values that escape ----------------------------------------------------------------------------


@pytest.fixture
def leaked() -> Tensor:
    kept: list[Tensor] = []
    smelt.compile(lambda x: kept.append(x * 2) or x)(zeros(2))
    return kept[0]


USES: dict[str, Callable[[Tensor], object]] = {
    "eager": lambda t: t + 1,
    "numpy": lambda t: t.numpy(),
    "item": lambda t: t.item(),
    "print": lambda t: f"{t}",
    "another trace": lambda t: smelt.compile(lambda x: x + t)(zeros(2)),
    "an argument": lambda t: smelt.compile(lambda x: x + 1)(t),
}


@pytest.mark.parametrize("use", USES.values(), ids=list(USES))
def test_a_leaked_symbol_is_refused(use: Callable[[Tensor], object], leaked: Tensor) -> None:
    with pytest.raises(smelt.TraceError, match=r"test_guards\.py:"):
        use(leaked)
    assert repr(leaked) == "<traced f32[2]>"


# --- the short way ------------------------------------------------------------------------------------------


def test_the_short_way_sees_what_the_long_way_sees() -> None:
    """After a call, the same call takes a shortcut; every change of what the trace relied on must leave it."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5))
    model.eval()
    w = smelt.Parameter(np.ones(3, np.float32))
    forward = smelt.compile(lambda x, by: model(x) * by)
    x = np.ones((2, 3), np.float32)
    first = forward(x, 2).tolist()
    assert forward(x, 2).tolist() == first
    assert forward(x.astype(np.float64).astype(np.float32)[::1], 2).tolist() == first
    assert np.allclose(forward(x, 3).numpy(), np.array(first) * 1.5)
    assert forward(np.ones((6, 2), np.float32).T[:2, :3], 2).tolist() == first, "not contiguous"
    assert forward(Tensor(x), 2).tolist() == first
    assert forward(x[:1], 2).tolist() == first[:1]
    assert forward(x, 2).dtype == np.float32
    forward(x, 2)
    model.train()
    assert (forward(x, 2).numpy() == 0).any() or forward(x, 2).tolist() != first
    model.eval()
    assert forward(x, 2).tolist() == first
    forward(x, 2)
    model[0].bias = None
    assert forward(x, 2).tolist() != first
    forward(x, 2)
    del model[0].bias
    with pytest.raises(AttributeError):
        forward(x, 2)
    backward = smelt.compile(lambda x: (w * x).sum().backward())
    for _ in range(3):
        w.grad = None
        backward(x)
        assert w.grad.tolist() == [2.0] * 3
    backward(x)
    assert w.grad.tolist() == [4.0] * 3


def test_a_call_inside_a_trace_is_traced_into() -> None:
    double = smelt.compile(lambda x: x * 2)
    x = np.ones((2, 3), np.float32)
    double(x), double(x)
    outer = smelt.compile(lambda x: double(x) + 1)
    assert outer(x).tolist() == [[3.0] * 3] * 2
    assert "mul" in str(outer.graph)


def test_the_short_way_knows_the_precision() -> None:
    product = smelt.compile(lambda x: x @ x.T)
    x = np.array([[1.0, 1.00390625]], np.float32)
    for _ in range(2):
        assert product(x).item() > 2.0
        with smelt.autocast("bf16"):
            assert product(x).item() == 2.0
            assert product(x).item() == 2.0
