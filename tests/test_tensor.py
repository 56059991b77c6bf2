"""Tensors against NumPy: broadcasting, indexing, dtypes, gradients, and the texts of errors."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import smelt
from smelt import Parameter, ShapeError, Tensor, tensor
from smelt.autograd import grad_enabled
from smelt.tensor import matmul, promote

ALL_DTYPES = ("float32", "float64", "int32", "int64", "uint32", "int8", "uint8", "bool")
THIS_FILE = r"\[test_tensor\.py:\d+: "


def filled(*shape: int, dtype: str = "float64") -> np.ndarray:
    """Return distinct values without zeros or symmetry."""
    return (np.arange(1, np.prod(shape, dtype=int) + 1).reshape(shape) * 0.7 - 2.2).astype(dtype)


def same(got: Tensor, want: Any) -> None:
    assert got.shape == np.shape(want)
    np.testing.assert_array_equal(got.numpy(), want)


# --- broadcasting -------------------------------------------------------------------------------------------

BINARY = [operator.add, operator.sub, operator.mul, operator.truediv, operator.lt, operator.ge, operator.ne]


@given(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4), st.sampled_from(BINARY))
def test_operators_broadcast_as_numpy(shapes: Any, op: Callable[..., Any]) -> None:
    a, b = (filled(*s) for s in shapes.input_shapes)
    same(op(Tensor(a), Tensor(b)), op(a, b))


@given(hnp.mutually_broadcastable_shapes(num_shapes=2, min_side=1, max_dims=4, max_side=4))
def test_gradient_of_a_broadcast_operand_is_the_sum_over_its_copies(shapes: Any) -> None:
    a, b = (filled(*s) for s in shapes.input_shapes)
    x, y = Tensor(a, requires_grad=True), Tensor(b, requires_grad=True)
    (x * y).sum().backward()
    for t, other in ((x, b), (y, a)):
        every = np.broadcast_to(other, shapes.result_shape)
        extra = len(shapes.result_shape) - t.ndim
        axes = tuple(i for i in range(every.ndim) if i < extra or t.shape[i - extra] == 1)
        want = every.sum(axis=axes, keepdims=True).reshape(t.shape)
        assert t.grad is not None
        np.testing.assert_allclose(t.grad.numpy(), want, rtol=1e-12)


@given(st.lists(st.integers(0, 4), max_size=3), st.lists(st.integers(0, 4), max_size=3))
def test_shapes_that_numpy_refuses_are_refused_with_both_shown(left: list[int], right: list[int]) -> None:
    a, b = np.zeros(left), np.zeros(right)
    try:
        want = np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        with pytest.raises(ShapeError) as caught:
            Tensor(a) + Tensor(b)
        assert str(a.shape) in str(caught.value)
        assert str(b.shape) in str(caught.value)
        assert "[test_tensor.py:" in str(caught.value)
    else:
        assert (Tensor(a) + Tensor(b)).shape == want


# --- indexing -----------------------------------------------------------------------------------------------

INDEXED = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@given(st.data())
def test_indexing_is_numpys(data: st.DataObject) -> None:
    shape = data.draw(INDEXED)
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True))
    x = filled(*shape)
    same(Tensor(x)[index], x[index])


@given(st.data())
def test_gradient_of_indexing_lands_where_the_elements_came_from(data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(max_dims=3, max_side=5))
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True))
    x = Tensor(filled(*shape), requires_grad=True)
    part = x[index]
    weights = filled(*part.shape)
    (part * weights).sum().backward()
    want = np.zeros(shape)
    want[index] = weights
    assert x.grad is not None
    same(x.grad, want)


@pytest.mark.parametrize(
    "index",
    [
        np.s_[::-1],
        np.s_[::-2, 3:0:-1],
        np.s_[-1],
        np.s_[..., -2],
        np.s_[None, 1:, None, ..., None],
        np.s_[5:2],
        np.s_[100:],
        np.s_[-100:2:3],
        np.s_[np.int64(2)],
        (),
        ...,
    ],
    ids=str,
)
def test_known_indices_are_numpys(index: Any) -> None:
    x = filled(4, 5, 3)
    same(Tensor(x)[index], x[index])


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (4, r"index 4 is out of range for axis 0 of \(4, 5\)"),
        ((0, -6), r"index -6 is out of range for axis 1 of \(4, 5\)"),
        ((0, 0, 0), r"3 indices for 2 axes of \(4, 5\)"),
        ((..., ...), "more than one"),
        (np.s_[::0], "step cannot be 0"),
        ([0, 1], "received list"),
        (1.5, "received float"),
        (True, "received bool"),
        ("a", "received str"),
    ],
)
def test_a_bad_index_says_what_is_wrong_and_where(index: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=f"indexing: .*{message}.*{THIS_FILE}"):
        Tensor(filled(4, 5))[index]


# --- operators and dtypes -----------------------------------------------------------------------------------


def test_numbers_take_the_dtype_of_the_tensor() -> None:
    for dtype in ("float32", "float64"):
        x = Tensor(np.ones(2, dtype))
        results = [x + 1, 1 - x, x * 2.5, 2.5 / x, x**3, 2**x, x + np.float64(0.5), -x, abs(x), x + True]
        assert {str(r.dtype) for r in results} == {dtype}
    assert (tensor([1, 2]) + 1).dtype == np.int64
    assert (Tensor(np.ones(2, np.uint8)) * 2).dtype == np.uint8


def test_reflected_operators_keep_the_order_of_their_operands() -> None:
    x = tensor([1.0, 2.0, 4.0])
    assert (10 - x).tolist() == [9.0, 8.0, 6.0]
    assert (8 / x).tolist() == [8.0, 4.0, 2.0]
    assert (2**x).tolist() == [2.0, 4.0, 16.0]
    assert (3 > x).tolist() == [True, True, False]  # noqa: SIM300
    assert (np.ones(3, np.float32) - x).tolist() == [0.0, -1.0, -3.0]
    assert isinstance(np.ones(3, np.float32) * x, Tensor)
    assert isinstance(np.float32(2) * x, Tensor)


def test_an_integer_with_a_float_number_becomes_float32() -> None:
    assert (tensor([1, 2]) * 0.5).dtype == np.float32
    assert (tensor([1, 2]) / 2).dtype == np.float32
    assert (tensor([1, 2]) / tensor([4, 4])).tolist() == [0.25, 0.5]
    assert (Tensor(np.array([200], np.uint8)) / 400).item() == 0.5


@pytest.mark.parametrize("a", ALL_DTYPES)
@pytest.mark.parametrize("b", ALL_DTYPES)
def test_promotion_is_symmetric_and_an_integer_never_widens_a_float(a: str, b: str) -> None:
    left, right = promote(Tensor(np.ones(2, a)), Tensor(np.ones(2, b)))
    assert left.dtype == right.dtype == promote(Tensor(np.ones(2, b)), Tensor(np.ones(2, a)))[0].dtype
    floats = [d for d in (a, b) if d.startswith("float")]
    assert left.dtype == (max(floats) if floats else "int32" if {a, b} == {"int8", "uint8"} else np.result_type(a, b))


def test_a_large_integer_divided_by_float64_keeps_its_digits() -> None:
    n = 2**40 + 1
    assert (tensor([n]) / Tensor(np.array([1.0]))).item() == n


def test_comparisons_and_logic_give_bools() -> None:
    x, y = tensor([1.0, 2.0, 3.0]), tensor([3.0, 2.0, 1.0])
    pairs = [
        (x < y, [1, 0, 0]),
        (x <= y, [1, 1, 0]),
        (x > y, [0, 0, 1]),
        (x >= y, [0, 1, 1]),
        (x == y, [0, 1, 0]),
    ]
    for got, want in [*pairs, (x != y, [1, 0, 1]), (~(x < y), [0, 1, 1]), ((x < y) | (x > y), [1, 0, 1])]:
        assert got.dtype == np.bool_
        assert got.numpy().astype(int).tolist() == want
    assert ((x < 3) & (y < 3)).tolist() == [False, True, False]


def test_comparing_with_something_else_is_false_not_an_error() -> None:
    assert (tensor([1.0]) == None) is False  # noqa: E711
    assert (tensor([1.0]) == "text") is False
    with pytest.raises(TypeError):
        tensor([1.0]) + "text"


def test_bools_are_counted_not_or_ed() -> None:
    x = tensor([True, True, False, True])
    assert x.sum().item() == 3
    assert x.mean().item() == 0.75
    assert Tensor(np.full(3, 200, np.uint8)).sum().item() == 600


def test_mixed_dtypes_reach_a_primitive_only_by_a_cast() -> None:
    with pytest.raises(ShapeError, match=rf"add: dtypes differ: f32\[1\], f64\[1\]; cast one of them  {THIS_FILE}"):
        smelt.ops.add(tensor([1.0]), Tensor(np.ones(1)))
    with pytest.raises(ShapeError, match=rf"where: expected a bool condition, received i64\[2\].*{THIS_FILE}"):
        smelt.where(tensor([0, 1]), 1.0, 2.0)
    with pytest.raises(ShapeError, match=rf"add: expected a numeric tensor, received bool.*{THIS_FILE}"):
        tensor([True]) + tensor([True])


@pytest.mark.parametrize("dtype", ["float16", "complex64", "int16", "U3", ">f4"])
def test_unsupported_dtypes_are_named(dtype: str) -> None:
    with pytest.raises(ShapeError, match=f"expected a dtype of float32, float64.*received.*{THIS_FILE}"):
        Tensor(np.zeros(2, dtype))


def test_python_values_have_one_dtype_each() -> None:
    assert [tensor(v).dtype for v in (1.5, 1, True)] == [np.float32, np.int64, np.bool_]
    assert tensor([1, 2], dtype="float64").dtype == np.float64
    assert [smelt.zeros(2).dtype, smelt.ones((2, 3)).dtype, smelt.arange(3).dtype] == [
        "float32",
        "float32",
        "int64",
    ]
    assert smelt.full((2,), 7, "uint8").tolist() == [7, 7]


# --- values in and out --------------------------------------------------------------------------------------


def test_tensor_copies_and_the_class_does_not() -> None:
    array = np.zeros(2, np.float32)
    copied, shared = tensor(array), Tensor(array)
    again = tensor(shared)
    array[0] = 5
    assert copied.tolist() == [0.0, 0.0]
    assert shared.tolist() == [5.0, 0.0]
    assert again.tolist() == [0.0, 0.0]


def test_one_element_becomes_a_python_number() -> None:
    assert type(tensor([[2.5]]).item()) is float
    assert type(tensor(3).item()) is int
    assert float(tensor(2.5)) == 2.5
    assert int(tensor([7])) == 7
    assert f"{tensor(2.5):.3f}" == "2.500"
    assert bool(tensor(1.0)) is True
    assert bool(tensor([0])) is False


def test_item_of_several_elements_shows_the_shape() -> None:
    with pytest.raises(ShapeError, match=rf"item\(\): expected one element, received shape \(2, 1\)  {THIS_FILE}"):
        tensor([[1.0], [2.0]]).item()
    with pytest.raises(ValueError, match="ambiguous"):
        bool(tensor([1.0, 2.0]))


def test_length_and_iteration_follow_the_first_axis() -> None:
    x = tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert len(x) == 3
    assert [row.tolist() for row in x] == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    assert (x.size, x.ndim, x.shape) == (6, 2, (3, 2))
    with pytest.raises(TypeError, match="without axes"):
        len(tensor(1.0))


def test_conversion_to_numpy_honours_dtype_and_copy() -> None:
    x = tensor([1.0, 2.0])
    assert np.shares_memory(np.asarray(x), x.numpy())
    assert not np.shares_memory(np.array(x), x.numpy())
    assert np.asarray(x, np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(x, np.float64, copy=False)


def test_text_shows_values_and_dtype() -> None:
    assert repr(tensor([1.0, 2.0])) == str(tensor([1.0, 2.0])) == "tensor([1., 2.], f32)"
    assert repr(Parameter([1.0])) == "parameter([1.], f32)"


def test_a_parameter_is_floating() -> None:
    with pytest.raises(ShapeError, match=f"Parameter: expected floating-point values, received int64.*{THIS_FILE}"):
        Parameter([1, 2])


# --- matrix products ----------------------------------------------------------------------------------------

PRODUCTS = [
    ((3,), (3,)),
    ((3,), (3, 4)),
    ((2, 3), (3,)),
    ((2, 3), (3, 4)),
    ((5, 2, 3), (3, 4)),
    ((2, 3), (5, 3, 4)),
    ((5, 2, 3), (5, 3, 4)),
    ((6, 1, 2, 3), (5, 3, 4)),
    ((5, 2, 3), (3,)),
    ((3,), (5, 3, 4)),
    ((0, 3), (3, 4)),
    ((2, 0), (0, 4)),
    ((0,), (0,)),
]


@pytest.mark.parametrize(("left", "right"), PRODUCTS, ids=str)
def test_matmul_is_numpys(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    a, b = filled(*left), filled(*right)
    got = Tensor(a) @ Tensor(b)
    assert got.shape == (a @ b).shape
    np.testing.assert_allclose(got.numpy(), a @ b, rtol=1e-12)
    np.testing.assert_allclose((a @ Tensor(b)).numpy(), a @ b, rtol=1e-12)


@pytest.mark.parametrize(("left", "right"), PRODUCTS, ids=str)
def test_gradient_of_matmul_has_the_operands_shapes_and_values(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    x, y = Tensor(filled(*left), requires_grad=True), Tensor(filled(*right), requires_grad=True)
    out = x @ y
    weights = filled(*out.shape)
    out.backward(weights)
    for t, moved in ((x, lambda d: (x.numpy() + d) @ y.numpy()), (y, lambda d: x.numpy() @ (y.numpy() + d))):
        assert t.grad is not None
        assert t.grad.shape == t.shape
        for at in np.ndindex(t.shape):
            d = np.zeros(t.shape)
            d[at] = 1.0  # linear: a difference is exact at any step
            want = np.sum((moved(d) - out.numpy()) * weights)
            np.testing.assert_allclose(t.grad.numpy()[at], want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        ((2, 3), (4, 5), r"matmul: \(2, 3\) @ \(4, 5\): expected"),
        ((3,), (4,), r"matmul: \(1, 3\) @ \(4, 1\): expected"),
        ((), (3,), r"matmul: expected at least one axis each, received \(\) @ \(3,\)"),
        ((2, 3, 4), (3, 4, 5), r"matmul: shapes \(2,\) and \(3,\) do not broadcast"),
    ],
)
def test_a_matmul_that_does_not_fit_shows_both_shapes_and_the_line(
    left: tuple[int, ...], right: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ShapeError, match=f"{message}.*{THIS_FILE}matmul"):
        matmul(Tensor(np.zeros(left)), Tensor(np.zeros(right)))


# --- shapes and reductions ----------------------------------------------------------------------------------


@given(st.data())
def test_reductions_are_numpys(data: st.DataObject) -> None:
    x = filled(*data.draw(hnp.array_shapes(max_dims=4, max_side=4)))
    axis = data.draw(st.none() | hnp.valid_tuple_axes(x.ndim, min_size=1) | st.integers(-x.ndim, x.ndim - 1))
    keepdims = data.draw(st.booleans())
    for name in ("sum", "mean", "max", "min", "var"):
        got = getattr(Tensor(x), name)(axis, keepdims=keepdims)
        want = getattr(np, name)(x, axis=axis, keepdims=keepdims)
        assert got.shape == want.shape
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-12, atol=1e-12)
    if axis is None or isinstance(axis, int):
        same(Tensor(x).argmax(axis, keepdims=keepdims), np.argmax(x, axis=axis, keepdims=keepdims))


@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_extremes_of_every_dtype_are_found(dtype: str) -> None:
    if dtype == "bool":
        values = np.array([False, True, True])
    elif dtype.startswith("float"):
        values = np.array([-np.inf, 3.0, -2.5], dtype)
    else:
        values = np.array([np.iinfo(dtype).min, 5, np.iinfo(dtype).max], dtype)
    for part in (values, values[1:]):
        same(Tensor(part).min(), part.min())
        same(Tensor(part).max(), part.max())
        assert Tensor(part).min().dtype == np.dtype(dtype)


@given(st.data())
def test_moving_elements_is_numpys(data: st.DataObject) -> None:
    x = filled(*data.draw(hnp.array_shapes(max_dims=4, max_side=4)))
    t = Tensor(x)
    order = data.draw(st.permutations(range(x.ndim)))
    a, b = data.draw(st.integers(-x.ndim, x.ndim - 1)), data.draw(st.integers(-x.ndim, x.ndim - 1))
    same(t.permute(*order), x.transpose(order))
    same(t.permute(order), x.transpose(order))
    same(t.transpose(a, b), np.swapaxes(x, a, b))
    same(t.T, x.T)
    same(t.unsqueeze(a), np.expand_dims(x, a))
    same(t.unsqueeze(a).squeeze(a), x)
    same(t.flatten(a), x.reshape(*x.shape[: a % x.ndim], -1))
    same(t.reshape(-1, x.shape[-1]), x.reshape(-1, x.shape[-1]))
    same(smelt.concat([t, t * 2, t], axis=a), np.concatenate([x, x * 2, x], axis=a))
    same(smelt.stack([t, t * 2], axis=a), np.stack([x, x * 2], axis=a))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda t: t.reshape(7), r"reshape: \(2, 3\) has 6 elements, \(7,\) does not"),
        (lambda t: t.reshape(4, -1), r"reshape: \(2, 3\) does not fit into \(4, -1\)"),
        (lambda t: t.reshape(-1, -1), "at most one -1"),
        (lambda t: t.reshape(-2, -3), "sizes must be ≥ 0"),
        (
            lambda t: t.permute(0, 0),
            r"permute: axes \(0, 0\) are not a permutation of the 2 axes of \(2, 3\)",
        ),
        (lambda t: t.squeeze(0), r"squeeze: axis 0 of \(2, 3\) has not size 1"),
        (lambda t: t.broadcast_to((4, 3)), r"broadcast_to: .*\(2, 3\).*\(4, 3\)"),
        (lambda t: t.astype("int16"), "astype: expected one of float32.*received int16"),
        (lambda t: smelt.concat([t, t.T]), r"concat: f64\[2, 3\] and f64\[3, 2\] differ outside of axis 0"),
        (lambda t: smelt.concat([]), "concat: expected at least one tensor"),
        (lambda t: t[:0].max(), r"max: nothing to take the maximum of along axes \(0, 1\) of shape \(0, 3\)"),
        (lambda t: t.assign(np.zeros((3, 2))), r"assign: expected f64\[2, 3\], received f64\[3, 2\]"),
        (lambda t: t.backward(), r"backward: expected a scalar, received shape \(2, 3\)"),
        (lambda t: t.sum().backward(), "backward: nothing this tensor was computed from requires a gradient"),
    ],
)
def test_errors_say_what_was_received_and_name_this_file(function: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(ShapeError, match=f"{message}.*{THIS_FILE}"):
        function(Tensor(filled(2, 3)))


@pytest.mark.parametrize("axis", [2, -3, (0, 5)])
def test_an_axis_out_of_range_is_named(axis: Any) -> None:
    with pytest.raises(ShapeError, match=r"axis (2|-3|5) is out of range for 2 dimensions"):
        Tensor(filled(2, 3)).sum(axis)


def test_naming_an_axis_twice_is_an_error() -> None:
    with pytest.raises(ShapeError, match="name an axis twice"):
        Tensor(filled(2, 3)).sum((0, -2))


def test_clip_and_choices_are_numpys() -> None:
    x = filled(3, 4)
    same(Tensor(x).clip(-1, 2.5), np.clip(x, -1, 2.5))
    same(smelt.maximum(0.0, Tensor(x)), np.maximum(0.0, x))
    same(smelt.minimum(Tensor(x), 1), np.minimum(x, 1))
    same(smelt.where(Tensor(x) > 0, Tensor(x), -1.0), np.where(x > 0, x, -1.0))
    same(smelt.where(Tensor(x) > 0, 2, Tensor(x)), np.where(x > 0, 2, x))


# --- gradients ----------------------------------------------------------------------------------------------


def test_a_value_used_twice_collects_both_gradients() -> None:
    x = Parameter([3.0])
    y = x * x
    (y + y * x).backward()
    assert x.grad is not None
    assert x.grad.item() == 2 * 3 + 3 * 9


def test_gradients_accumulate_over_backward_passes_until_cleared() -> None:
    w = Parameter([1.0, 2.0])
    for _ in range(2):
        (w * tensor([3.0, 4.0])).sum().backward()
    assert w.grad is not None
    assert w.grad.tolist() == [6.0, 8.0]
    w.grad = None
    (w * 2).sum().backward()
    assert w.grad.tolist() == [2.0, 2.0]


def test_backward_twice_through_one_result_adds_up() -> None:
    w = Parameter([2.0])
    loss = (w * w * w).sum()
    loss.backward()
    loss.backward()
    assert w.grad is not None
    assert w.grad.item() == 24.0


def test_backward_takes_the_gradient_of_its_result() -> None:
    w = Parameter([1.0, 2.0])
    (w * 2).backward([10.0, 20.0])
    assert w.grad is not None
    assert w.grad.tolist() == [20.0, 40.0]
    assert w.grad.dtype == np.float32


@pytest.mark.parametrize("grad", [1.0, [1.0], [[1.0, 1.0]], np.ones(3)])
def test_a_gradient_of_another_shape_is_refused(grad: Any) -> None:
    w = Parameter([1.0, 2.0])
    with pytest.raises(ShapeError, match=rf"backward: expected a gradient f32\[2\], received f32.*{THIS_FILE}"):
        (w * 2).backward(grad)
    assert w.grad is None


def test_a_float64_gradient_leaves_float32_in_a_float32_parameter() -> None:
    w = Parameter([1.0, 2.0])
    (w * 2).backward(np.ones(2))
    assert w.grad is not None
    assert w.grad.dtype == np.float32


def test_gradients_cross_a_conversion_in_their_own_precision() -> None:
    w = Parameter([1.0, 2.0])
    (w.astype("float64") * np.array([0.1, 0.2])).sum().backward()
    assert w.grad is not None
    assert w.grad.dtype == np.float32
    np.testing.assert_allclose(w.grad.numpy(), [0.1, 0.2], rtol=1e-7)


def test_a_long_chain_needs_no_recursion() -> None:
    w = Parameter([1.0])
    y: Tensor = w
    for _ in range(5000):
        y = y + 1.0
    y.backward()
    assert w.grad is not None
    assert w.grad.item() == 1.0


def test_only_floating_leaves_that_ask_get_a_gradient() -> None:
    w, x, i = Parameter([1.0, 2.0]), tensor([3.0, 4.0]), tensor([1, 2])
    (w * x * i).sum().backward()
    assert x.grad is None
    assert i.grad is None
    assert w.grad is not None
    assert w.grad.tolist() == [3.0, 8.0]


def test_no_grad_records_nothing_and_ends_with_its_block() -> None:
    w = Parameter([1.0])
    with pytest.raises(KeyError), smelt.no_grad():
        assert not grad_enabled()
        with smelt.no_grad():
            pass
        assert not grad_enabled(), "the inner block must not end the outer one"
        assert not (w * 2).requires_grad
        raise KeyError
    assert grad_enabled()
    assert (w * 2).requires_grad


def test_gradients_have_no_history_of_their_own() -> None:
    w = Parameter([3.0])
    (w * w).backward()
    assert w.grad is not None
    assert not w.grad.requires_grad


def test_detach_stops_the_gradient() -> None:
    w = Parameter([3.0])
    (w * w.detach()).backward()
    assert w.grad is not None
    assert w.grad.item() == 3.0
    assert not w.detach().requires_grad


def test_a_result_without_derivative_needs_no_gradient() -> None:
    w = Parameter([1.5, -2.5])
    for flat in (w > 0, w.argmax(), smelt.ops.floor(w), smelt.ops.sign(w), w.count()):
        assert not flat.requires_grad


def test_gradient_of_a_branch_not_taken_is_zero_not_nan() -> None:
    w = Parameter([0.0, 4.0])
    safe = smelt.where(w > 0, w, 1.0)
    smelt.where(w > 0, safe.log(), 0.0).sum().backward()
    assert w.grad is not None
    assert w.grad.tolist() == [0.0, 0.25]


@pytest.mark.parametrize("choose", [smelt.maximum, smelt.minimum])
def test_a_tie_of_two_operands_sends_its_whole_gradient_to_the_first(choose: Callable[..., Tensor]) -> None:
    a, b = Parameter([1.0, 2.0]), Parameter([1.0, 2.0])
    choose(a, b).sum().backward()
    assert a.grad is not None
    assert b.grad is not None
    assert a.grad.tolist() == [1.0, 1.0]
    assert b.grad.tolist() == [0.0, 0.0]


def test_equal_maxima_share_the_gradient() -> None:
    w = Parameter([[1.0, 3.0, 3.0]])
    w.max(1).sum().backward()
    assert w.grad is not None
    assert w.grad.tolist() == [[0.0, 0.5, 0.5]]


# --- assign -------------------------------------------------------------------------------------------------


def test_assign_overwrites_the_users_own_array() -> None:
    array = np.zeros(2, np.float32)
    w = Parameter(array)
    w.assign([1.0, 2.0])
    assert array.tolist() == [1.0, 2.0]
    w.assign(w * 2)
    assert w.tolist() == [2.0, 4.0]


def test_assign_refuses_another_dtype() -> None:
    with pytest.raises(ShapeError, match=rf"assign: expected f32\[2\], received f64\[2\]  {THIS_FILE}"):
        Parameter([1.0, 2.0]).assign(np.zeros(2))


def test_assign_of_an_overlapping_view_reads_before_it_writes() -> None:
    w = Parameter([1.0, 2.0, 3.0])
    w.assign(w[::-1])
    assert w.tolist() == [3.0, 2.0, 1.0]
