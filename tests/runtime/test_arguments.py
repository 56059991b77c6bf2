"""What goes into a compiled function and comes out: structures, constants, layouts, aliases, nested calls."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import smelt
from smelt import nn
from smelt.tensor import Tensor

Pair = namedtuple("Pair", "left right")
X = np.arange(6, dtype=np.float32).reshape(2, 3)
Y = X * 10 + 1


def same(got: Any, want: Any) -> None:
    """Compare structures of tensors and other values."""
    if isinstance(want, (Tensor, np.ndarray)):
        assert isinstance(got, Tensor)
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        np.testing.assert_array_equal(got.numpy(), np.asarray(want))
    elif isinstance(want, (list, tuple)):
        assert type(got) is type(want) and len(got) == len(want)
        for g, w in zip(got, want, strict=True):
            same(g, w)
    elif isinstance(want, dict):
        assert list(got) == list(want)
        for k in want:
            same(got[k], want[k])
    else:
        assert got == want


CALLS: dict[str, tuple[Callable[..., Any], tuple, dict[str, Any]]] = {
    "keywords": (lambda a, *, b: a - b, (X,), {"b": Y}),
    "tuple": (lambda p: (p[1], p[0] - p[1]), ((X, Y),), {}),
    "list": (lambda p: [p[1], [p[0] - p[1]]], ([X, Y],), {}),
    "dict": (lambda d: {"z": d["b"] - d["a"], "a": d["a"] * 2}, ({"b": X, "a": Y},), {}),
    "named tuple": (lambda p: Pair(p.right - p.left, p.left * 2), (Pair(X, Y),), {}),
    "nested": (lambda d: {"k": [(d["x"][0] * 2, None), "text"]}, ({"x": (X,)},), {}),
    "None": (lambda x, y: (None, x * 2, y), (X, None), {}),
    "nothing": (lambda x: None, (X,), {}),
    "no argument": (lambda: smelt.ones((3,)) * 2, (), {}),
    "number": (lambda x, n, f, b: (x * n + f, n, f, b), (X, 3, 0.25, True), {}),
    "NumPy number": (lambda x, n: x * n, (X, np.float32(3)), {}),
    "text": (lambda x, how: x * 2 if how == "double" else x, (X, "double"), {}),
    "input": (lambda x: x, (X,), {}),
    "twice": (lambda x: (lambda y: (y, y))(x * 2), (X,), {}),
    "one array as two arguments": (lambda a, b: (a - b, a + b), (X, X), {}),
    "view": (lambda x: (x.T, x[0], x[:, ::-1]), (X,), {}),
    "constant array": (lambda x: (np.arange(3), x), (X,), {}),
    "iterating": (lambda x: [row * 2 for row in x], (X,), {}),
}


@pytest.mark.parametrize(("function", "args", "kwargs"), CALLS.values(), ids=list(CALLS))
def test_structures_are_as_eager(function: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> None:
    def tensors(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return Tensor(value)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(tensors, value))
        if isinstance(value, (list, tuple)):
            return type(value)(map(tensors, value))
        return {k: tensors(v) for k, v in value.items()} if isinstance(value, dict) else value

    compiled = smelt.compile(function)
    for _ in range(2):
        same(compiled(*args, **kwargs), function(*tensors(args), **tensors(kwargs)))
    assert compiled.traces == 1


def test_the_order_of_a_dict_does_not_exchange_its_values() -> None:
    difference = smelt.compile(lambda d: d["a"] - d["b"])
    assert difference({"a": X, "b": Y}).tolist() == (X - Y).tolist()
    assert difference({"b": Y, "a": X}).tolist() == (X - Y).tolist()


def test_the_order_of_keywords_does_not_exchange_them() -> None:
    difference = smelt.compile(lambda a, b: a - b)
    assert difference(a=X, b=Y).tolist() == (X - Y).tolist()
    assert difference(b=Y, a=X).tolist() == (X - Y).tolist()


def test_constants_that_compare_equal_are_told_apart() -> None:
    times = smelt.compile(lambda x, by: x * by)
    n = np.arange(3)
    assert [times(n, by).dtype.name for by in (1, 1.0, True, 1.0)] == ["int64", "float32", "int64", "float32"]
    assert [np.signbit(times(X, by).numpy()).any() for by in (0.0, -0.0, 0.0)] == [False, True, False]


def test_constants_of_equal_value_are_not_traced_again() -> None:
    times = smelt.compile(lambda x, by: x * by)
    for by in (float("nan"), float("nan"), np.float32("nan"), np.float32("nan"), 10**20 / 7, 10**20 / 7):
        times(X, by)
    assert times.traces == 3


LAYOUTS: dict[str, np.ndarray] = {
    "0-d": np.array(3.0, np.float32),
    "size 0": np.zeros((0, 3), np.float32),
    "size 0 inside": np.zeros((2, 0, 3), np.float32),
    "transposed": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    "reversed": np.arange(6, dtype=np.float32)[::-1],
    "sliced": np.arange(24, dtype=np.float32).reshape(4, 6)[1::2, ::3],
    "broadcast": np.broadcast_to(np.arange(3, dtype=np.float32), (4, 3)),
    "Fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "unaligned": np.frombuffer(b"\0" * 4 + np.arange(5, dtype=np.float32).tobytes(), np.float32, offset=4),
    "int8": np.arange(-128, -122, dtype=np.int8),
    "uint8": np.arange(250, 256, dtype=np.uint8),
    "bool": np.array([True, False, True]),
    "int32": np.arange(-3, 3, dtype=np.int32),
}


@pytest.mark.parametrize("array", LAYOUTS.values(), ids=list(LAYOUTS))
def test_any_layout_is_read_right_and_left_alone(array: np.ndarray) -> None:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        return x.reshape(-1), x.sum(), x.astype("float64") * 0.5

    before = array.copy()
    same(smelt.compile(function)(array), function(Tensor(np.ascontiguousarray(array).reshape(array.shape))))
    np.testing.assert_array_equal(array, before)


def test_elements_at_odd_addresses_are_read_right() -> None:
    array = np.ndarray((20,), np.float32, buffer=bytearray(81), offset=1)
    array[:] = np.arange(20)
    np.testing.assert_array_equal(smelt.compile(lambda x: x * 2)(array).numpy(), np.arange(20) * 2)


def test_read_only_input_is_read() -> None:
    array = X.copy()
    array.flags.writeable = False
    same(smelt.compile(lambda x: x * 2)(array), X * 2)


@pytest.mark.parametrize("dtype", [">f4", "float16", "int16", "complex64", "U3", "O"])
def test_other_dtypes_are_refused_by_name_and_line(dtype: str) -> None:
    with pytest.raises(smelt.ShapeError, match=r"expected a dtype of float32, .* received .*test_arguments\.py"):
        smelt.compile(lambda x: x * 2)(np.zeros(3, dtype))


def test_a_step_on_an_empty_batch_after_a_full_one_is_as_eager() -> None:
    summed = smelt.compile(lambda x: (x * 2, x.sum(), x.sum(0)))
    summed(X)
    got = summed(X[:0])
    assert got[0].shape == (0, 3)
    assert (got[1].item(), got[2].tolist()) == (0.0, [0.0] * 3)
    assert summed.traces == 1


# --- aliases ----------------------------------------------------------------------------------------------


def test_results_of_two_calls_are_not_the_same_memory() -> None:
    twice = smelt.compile(lambda x: x * 2)
    first = twice(X)
    twice(Y)
    np.testing.assert_array_equal(first.numpy(), X * 2)


def test_a_returned_input_is_not_the_callers_memory() -> None:
    array = X.copy()
    got = smelt.compile(lambda x: x)(array)
    array[:] = 0
    np.testing.assert_array_equal(got.numpy(), X)


def test_a_returned_parameter_is_the_parameter() -> None:
    w = smelt.Parameter(np.ones(3, np.float32))

    @smelt.compile
    def grow(x: Tensor) -> Tensor:
        with smelt.no_grad():
            w.assign(w + x)
        return w

    assert grow(np.ones(3, np.float32)) is w
    assert w.tolist() == [2.0] * 3


@pytest.mark.parametrize("size", [4, 300])
def test_state_given_as_an_argument_is_read_before_it_is_overwritten(size: int) -> None:
    state = Tensor(np.random.default_rng(0).normal(size=(size, size)).astype(np.float32))

    @smelt.compile
    def step(x: Tensor) -> Tensor:
        state.assign(x.T + 1.0)
        return x * 2.0

    for given in (lambda: state, lambda: state.numpy(), lambda: state.numpy()[::-1], lambda: state.numpy()[:]):
        argument = given()
        value = np.array(argument.numpy() if isinstance(argument, Tensor) else argument)
        out = step(argument)
        np.testing.assert_array_equal(out.numpy(), value * 2)
        np.testing.assert_array_equal(state.numpy(), value.T + 1)


def test_assigning_to_what_the_step_made_is_as_eager() -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        total = smelt.zeros((3,))
        for i in range(3):
            total.assign(total + x[0] * i)
            scratch = smelt.ones((3,))
            scratch.assign(scratch * i)
            total.assign(total + scratch)
            del scratch
        y = x * 2
        y.assign(y + 1)
        return total, y

    same(smelt.compile(function)(X), function(Tensor(X)))


def test_temporaries_that_take_anothers_place_in_memory_are_not_mistaken_for_it() -> None:
    def function(x: Tensor) -> list[Tensor]:
        out = []
        for i in range(50):
            a = Tensor(np.zeros(3, np.float32))
            a.assign(x[0] * i)
            del a
            out.append(Tensor(np.ones(3, np.float32)) + 0.0)
        return out

    for got in smelt.compile(function)(X):
        assert got.tolist() == [1.0] * 3


# --- functions in functions -------------------------------------------------------------------------------


def test_a_compiled_function_in_another_becomes_part_of_it() -> None:
    inner = smelt.compile(lambda x: x * 2)
    outer = smelt.compile(lambda x: inner(x) + inner(x[0]))
    np.testing.assert_array_equal(outer(X).numpy(), X * 2 + X[0] * 2)
    assert (inner.traces, outer.traces) == (0, 1)
    np.testing.assert_array_equal(inner(X).numpy(), X * 2)
    assert inner.traces == 1


def test_a_module_can_be_compiled() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    np.testing.assert_allclose(smelt.compile(model)(X).numpy(), model(Tensor(X)).numpy(), rtol=1e-6)


def test_a_function_keeps_its_name_and_docstring() -> None:
    @smelt.compile
    def documented(x: Tensor) -> Tensor:
        """Say something."""
        return x

    assert (documented.__name__, documented.__doc__) == ("documented", "Say something.")


def test_two_functions_may_share_state() -> None:
    count = Tensor(np.zeros((), np.float32))
    up = smelt.compile(lambda: count.assign(count + 1.0))
    double = smelt.compile(lambda: count.assign(count * 2.0))
    for f in (up, double, up, double, double):
        f()
    count.assign(count + 0.5)
    up()
    assert count.item() == 13.5


def test_reductions_of_several_dtypes_over_the_same_axes() -> None:
    def function(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        return a.sum(), b.sum(), c.sum(), c.max(), a.max(), b.max()

    n = np.arange(10)
    args = n.astype(np.float32), n.astype(np.float64) + 1e-9, n
    same(smelt.compile(function)(*args), function(*map(Tensor, args)))


@pytest.mark.parametrize("capacity", [3, 4, 5])
def test_an_axis_as_long_as_the_batch_is_not_the_batch(capacity: int) -> None:
    w = Tensor(np.arange(4, dtype=np.float32))

    def function(x: Tensor) -> tuple[Tensor, ...]:
        y = x.sum(1)
        return y.sum(), (w * w).sum(), (x * w).sum(0).sum(), (w * y[:, None]).sum(1).max(), w.max()

    compiled = smelt.compile(function)
    x = np.random.default_rng(0).integers(-9, 9, (capacity, 4)).astype(np.float32)
    compiled(x)
    same(compiled(x[:2]), function(Tensor(x[:2])))
    assert compiled.traces == 1
