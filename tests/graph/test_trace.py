"""Tracing: state, guards on gradients, and errors for what only a number can answer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import smelt
from smelt.graph.interpret import interpret
from smelt.graph.trace import Tracer, current_tracer
from smelt.tensor import Tensor

from .running import batch, fixed, run_traced, trace


def parameter(*values: float, name: str = "w") -> smelt.Parameter:
    return smelt.Parameter(np.array(values, np.float32), name=name)


# --- state ------------------------------------------------------------------------------------------------


def test_a_tensor_from_outside_becomes_state_once() -> None:
    w = parameter(1.0, 2.0)
    tracer = trace(lambda x: x * w + w, fixed(2))
    assert [s.name for s in tracer.graph.states] == ["w"]
    assert [t for t, _ in tracer.state.values()] == [w]
    assert run_traced(tracer, [np.float32([3, 4])])[0].tolist() == [4.0, 10.0]


def test_a_tensor_made_inside_is_a_constant() -> None:
    graph = trace(lambda x: x + smelt.tensor([1.0, 2.0]), fixed(2)).graph
    assert graph.states == []
    assert [n.kind for n in graph.nodes()] == ["input", "constant", "op"]


def test_assigned_state_is_read_anew_and_stored_at_the_end() -> None:
    w = parameter(1.0, 2.0)

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        before = w * 1
        w.assign(w + x)
        w.assign(w * 2)
        return before, w + 0

    graph = trace(function, fixed(2)).graph
    outputs, updates = interpret(graph, [np.float32([10, 20])], [np.float32([1, 2])])
    assert [o.tolist() for o in outputs] == [[1.0, 2.0], [22.0, 44.0]]
    assert [u.tolist() for u in updates] == [[22.0, 44.0]]
    assert w.tolist() == [1.0, 2.0], "tracing runs nothing"


def test_assigning_another_shape_names_both_and_the_line() -> None:
    w = parameter(1.0, 2.0)
    with pytest.raises(smelt.ShapeError, match=r"assign: expected f32\[2\], received f32\[3\].*test_trace\.py"):
        trace(lambda x: w.assign(x) or x, fixed(3))


def test_a_value_of_a_finished_trace_is_refused() -> None:
    kept: list[Tensor] = []
    trace(lambda x: kept.append(x * 2) or x, fixed(2))
    with pytest.raises(smelt.TraceError, match=r"another trace.*test_trace\.py"):
        trace(lambda x: x + kept[0], fixed(2))


def test_tracing_ends_with_its_block_even_by_an_error() -> None:
    with pytest.raises(KeyError), Tracer("f") as tracer:
        assert current_tracer() is tracer
        raise KeyError
    assert current_tracer() is None


# --- guards on gradients ----------------------------------------------------------------------------------


def test_reading_a_missing_gradient_guards_that_it_is_missing() -> None:
    w = parameter(1.0, 2.0)

    def step(x: Tensor) -> Tensor:
        (w * x).sum().backward()
        return w.grad

    tracer = trace(step, fixed(2))
    (guard,) = tracer.guards
    assert guard.text == "the gradient of w is absent"
    w.grad = None
    assert guard.holds()
    w.grad = smelt.tensor([0.0, 0.0])
    assert not guard.holds()


def test_reading_a_gradient_from_before_guards_that_very_one() -> None:
    w = parameter(1.0, 2.0)
    before = w.grad = smelt.tensor([5.0, 6.0])

    def step(x: Tensor) -> Tensor:
        (w * x).sum().backward()
        return w.grad

    tracer = trace(step, fixed(2))
    assert tracer.guards[0].text == "the gradient of w is present"
    assert run_traced(tracer, [np.float32([1, 2])])[0].tolist() == [6.0, 8.0], "gradients add up"
    w.grad = before
    assert tracer.guards[0].holds()
    w.grad = None
    assert not tracer.guards[0].holds()


def test_a_gradient_cleared_first_needs_no_guard() -> None:
    w = parameter(1.0, 2.0)

    def step(x: Tensor) -> Tensor:
        w.grad = None
        (w * x).sum().backward()
        return w.grad

    tracer = trace(step, fixed(2))
    assert tracer.guards == []
    assert [t for t, _ in tracer.grads.values()] == [w]


def test_gradients_of_traced_values_need_no_guard() -> None:
    def step(x: Tensor) -> Tensor:
        leaf = x.detach()
        leaf.requires_grad = True
        (leaf * leaf).sum().backward()
        return leaf.grad

    tracer = trace(step, fixed(2))
    assert tracer.guards == []
    assert run_traced(tracer, [np.float32([3, 4])])[0].tolist() == [6.0, 8.0]


# --- what only a number can answer ------------------------------------------------------------------------


def if_positive(x: Tensor) -> Tensor:
    return -x if x.sum() > 0 else x


def while_positive(x: Tensor) -> Tensor:
    while (x > 0).sum():
        x = x - 1
    return x


def printed(x: Tensor) -> Tensor:
    print(x)
    return x


REFUSED: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "item": (lambda x: x.sum().item(), r"item\(\)"),
    "float": (lambda x: float(x.sum()), r"item\(\)"),
    "int": (lambda x: int(x.sum()), r"item\(\)"),
    "format": (lambda x: f"{x.sum():.3f}", r"item\(\)"),
    "print": (printed, "print"),
    "text": (lambda x: f"{x}", "print"),
    "if": (if_positive, "`if`"),
    "while": (while_positive, "`while`"),
    "numpy": (lambda x: x.numpy(), r"numpy\(\)"),
    "asarray": (lambda x: np.asarray(x), "NumPy array"),
    "tolist": (lambda x: x.tolist(), r"tolist\(\)"),
}


@pytest.mark.parametrize(("function", "what"), REFUSED.values(), ids=list(REFUSED))
def test_a_symbol_is_no_number_and_the_error_names_the_line(
    function: Callable[[Tensor], object], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(smelt.TraceError, match=what) as caught:
        trace(function, batch(4, 3))  # type: ignore[arg-type]
    message = str(caught.value)
    assert "[test_trace.py:" in message
    assert "smelt.compile" in message
    assert "\n" not in message
    assert capsys.readouterr().out == ""


def test_the_line_in_the_error_is_the_one_that_asked() -> None:
    with pytest.raises(smelt.TraceError, match=r"test_trace\.py:\d+: return -x if x\.sum\(\) > 0 else x\]"):
        trace(if_positive, batch(4, 3))


def test_bound_state_that_was_assigned_is_a_symbol_too() -> None:
    w = parameter(1.0)

    def function(x: Tensor) -> Tensor:
        w.assign(w * 2)
        return x * w.item()

    with pytest.raises(smelt.TraceError, match="item"):
        trace(function, fixed(1))


def test_repr_of_a_symbol_shows_its_shape() -> None:
    shown = []
    trace(lambda x: shown.append(repr(x * 2)) or x, batch(4, 3))
    assert shown == ["<traced f32[4, 3]>"]


def test_shape_errors_while_tracing_name_the_users_line() -> None:
    with pytest.raises(smelt.ShapeError, match=r"add: shapes \(4, 3\) and \(2, 3\) do not broadcast.*test_trace\.py"):
        trace(lambda x: x + np.zeros((2, 3), np.float32), batch(4, 3))
