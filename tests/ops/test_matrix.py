"""Every primitive × every check × every layout, generated from the registry, so none is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import numpy as np
import pytest

import smelt
from smelt.graph.interpret import interpret
from smelt.graph.trace import Tracer
from smelt.ops import REGISTRY, Primitive, Spec
from smelt.tensor import Tensor

from .matrix import (
    FLOATS,
    LAYOUTS,
    NAMES,
    SUMS,
    TRANSCENDENTAL,
    Case,
    assert_matches,
    assert_same,
    cases,
    cotangent,
    run,
    run_with_gradients,
    scale_of,
    special_cases,
)

GENERATORS = {"random_uniform", "iota"}  # their result's shape is an attribute, their input is fixed
FIXED = {"advance_random"}  # takes only the state of the random numbers
VECTOR = 16  # float32 elements of the widest register
DIFFERENTIABLE = [name for name in NAMES if REGISTRY[name].differentiable]

every_primitive = pytest.mark.parametrize("name", NAMES)
every_float = pytest.mark.parametrize("dtype", FLOATS)


def specs(case: Case) -> list[Spec]:
    return [Spec(a.shape, a.dtype) for a in case.arrays]


def kinds_of_size(primitive: Primitive) -> set[str]:
    """Return which of "one", "zero" and "odd" (a vector and a rest) occur among the primitive's samples."""
    found = set()
    for case in cases([primitive.name], layouts=["contiguous"]):
        out = primitive.infer(*specs(case), **case.attrs)
        inputs = [] if primitive.name in GENERATORS else [a.size for a in case.arrays]
        sizes = [*inputs, out.size]
        if max(inputs or sizes) == 1:
            found.add("one")
        if 0 in sizes:
            found.add("zero")
        if any(n > VECTOR and n % VECTOR for n in sizes):
            found.add("odd")
    return found


@every_primitive
def test_every_primitive_has_samples_of_size_one_zero_and_odd(name: str) -> None:
    assert any(True for _ in REGISTRY[name].samples()), f"{name} yields no samples: add some where it is defined"
    if name not in FIXED:
        assert kinds_of_size(REGISTRY[name]) == {"one", "zero", "odd"}


@every_primitive
def test_every_primitive_is_met_in_every_layout(name: str) -> None:
    layouts = {case.id.rsplit(" ", 1)[1] for case in cases([name]) if sum(a.size for a in case.arrays) > 1}
    takes_arrays = any(sample.shapes for sample in REGISTRY[name].samples())
    assert layouts == (set(LAYOUTS) if takes_arrays else set())


def test_layouts_are_what_their_names_say() -> None:
    x = np.arange(12.0).reshape(3, 4)
    laid = {name: layout(x, ()) for name, layout in LAYOUTS.items()}
    assert laid["contiguous"].strides == (32, 8)
    assert laid["transposed"].strides == (8, 24)
    assert laid["sliced"].strides == (176, 16)
    assert laid["reversed"].strides == (-32, -8)
    assert laid["repeated"].strides == (0, 8)
    assert all(np.array_equal(laid[n], x) for n in LAYOUTS if n != "repeated")


def test_drawn_values_are_distinct_and_never_zero() -> None:
    for case in cases(dtype="float32", layouts=["contiguous"]):
        floats = [a.ravel() for a in case.arrays if a.dtype.kind == "f"]
        values = np.concatenate(floats) if floats else np.empty(0)
        assert len(np.unique(values)) == values.size, case.id
        assert np.all(np.abs(values) > 1e-5), case.id


def test_tolerances_name_only_primitives() -> None:
    assert set(NAMES) >= SUMS | TRANSCENDENTAL | GENERATORS | FIXED


@every_primitive
def test_inference_predicts_shape_and_dtype(name: str) -> None:
    for dtype in FLOATS:
        for case in cases([name], dtype):
            spec = case.primitive.infer(*specs(case), **case.attrs)
            out = case.primitive.evaluate(*case.arrays, **case.attrs)
            assert isinstance(out, np.ndarray), case.id
            assert (out.shape, out.dtype) == (spec.shape, spec.dtype), case.id


@every_primitive
def test_layout_does_not_change_the_result(name: str) -> None:
    for case in cases([name]):
        dense = case._replace(arrays=tuple(np.ascontiguousarray(a).reshape(a.shape) for a in case.arrays))
        assert_matches(run(case).numpy(), run(dense).numpy(), case)


def moved(case: Case, directions: list[np.ndarray | None], h: float) -> np.ndarray:
    """Return the primitive's result with every floating input moved by ``h`` in its direction."""
    arrays = [a if d is None else a + h * d for a, d in zip(case.arrays, directions, strict=True)]
    return np.asarray(case.primitive.evaluate(*arrays, **case.attrs), np.float64)


def slope(case: Case, directions: list[np.ndarray | None], h: float) -> np.ndarray:
    """Return the central difference quotient of the result in the directions."""
    return (moved(case, directions, h) - moved(case, directions, -h)) / (2 * h)


def is_smooth(case: Case) -> bool:
    out = case.primitive.infer(*specs(case), **case.attrs)
    return out.dtype.kind == "f" and any(a.dtype.kind == "f" for a in case.arrays)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradient_matches_central_differences(name: str) -> None:
    rng = np.random.default_rng(11)
    checked = 0
    for case in cases([name]):
        if not is_smooth(case):
            continue
        out, grads = run_with_gradients(case)
        seed = cotangent(out.shape, np.float64)
        single = out.dtype == np.float32  # a conversion: linear, but rounded
        h, tolerance = (2.0**-6, 1e-4) if single else (1e-5, 1e-8)
        for _ in range(2):
            directions = [None if g is None else rng.uniform(-1, 1, g.shape) for g in grads]
            jvp = slope(case, directions, h)
            along = sum(
                float(np.sum(g.astype(np.float64) * d)) for g, d in zip(grads, directions, strict=True) if d is not None
            )
            scale = 1.0 + float(np.linalg.norm(seed) * np.linalg.norm(jvp))
            assert abs(along - float(np.sum(seed * jvp))) <= tolerance * scale, case.id
        for i, grad in enumerate(grads):
            if grad is None or grad.size > 40:
                continue
            assert grad.shape == case.arrays[i].shape, case.id
            for at in np.ndindex(grad.shape):
                direction = np.zeros(grad.shape)
                direction[at] = 1.0
                directions = [direction if j == i else None for j in range(len(grads))]
                want = float(np.sum(seed * slope(case, directions, h)))
                message = f"{case.id}: input {i}{list(at)}"
                assert abs(float(grad[at]) - want) <= 20 * tolerance * (1 + abs(want)), message
        checked += 1
    assert checked, f"{name} is differentiable, but no sample has a floating input and result"


@pytest.mark.parametrize("name", [n for n in NAMES if n not in DIFFERENTIABLE and not n.endswith("_grad")])
def test_a_primitive_without_a_gradient_is_flat(name: str) -> None:
    rng = np.random.default_rng(12)
    for case in cases([name], layouts=["contiguous"]):
        directions = [rng.uniform(-1, 1, a.shape) if a.dtype.kind == "f" else None for a in case.arrays]
        if is_smooth(case):
            assert not np.any(slope(case, directions, 1e-6)), case.id


@every_primitive
def test_float32_follows_float64(name: str) -> None:
    for narrow, wide in zip(cases([name], "float32"), cases([name], "float64"), strict=True):
        got, got_grads = run_with_gradients(narrow)
        want, want_grads = run_with_gradients(wide)
        if want.dtype.kind != "f" or all(a.dtype.kind != "f" for a in narrow.arrays):
            assert_same(got, want, narrow.id)
        elif name in SUMS:
            np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * scale_of(wide, want), err_msg=narrow.id)
        else:
            np.testing.assert_allclose(got, want, rtol=5e-7, err_msg=narrow.id)
        for i, (g, w) in enumerate(zip(got_grads, want_grads, strict=True)):
            if g is None or w is None:
                continue
            assert g.dtype == np.float32, f"{narrow.id}: gradient {i} is {g.dtype}"
            np.testing.assert_allclose(
                g, w, rtol=0, atol=4e-6 * scale_of(wide, w), err_msg=f"{narrow.id}: gradient {i}"
            )


def traced(case: Case, gradients: bool) -> list[np.ndarray]:
    """Return the result, and the gradients asked for, of the case traced into a graph and interpreted."""
    tracer = Tracer(case.primitive.name)
    nodes = [tracer.input(f"x{i}", Spec(a.shape, a.dtype)) for i, a in enumerate(case.arrays)]
    with tracer:
        inputs = [Tensor(n, requires_grad=gradients and n.dtype.kind == "f") for n in nodes]
        out = case.primitive(*inputs, **case.attrs)
        results = [tracer.lift(out)]
        if out.requires_grad:
            out.backward(Tensor(cotangent(out.shape, out.dtype)))
            results += [tracer.lift(t.grad) for t in inputs if t.grad is not None]
    graph = tracer.finish(results)
    return interpret(graph, case.arrays, [])[0]


@every_float
@every_primitive
def test_interpreted_graph_equals_eager(name: str, dtype: str) -> None:
    for case in cases([name], dtype):
        smooth = case.primitive.differentiable and is_smooth(case)
        tensors = [Tensor(a, requires_grad=smooth and a.dtype.kind == "f") for a in case.arrays]
        out = case.primitive(*tensors, **case.attrs)
        want = [out.numpy()]
        if out.requires_grad:
            out.backward(cotangent(out.shape, out.dtype))
            want += [t.grad.numpy() for t in tensors if t.grad is not None]
        for g, w in zip(traced(case, gradients=smooth), want, strict=True):
            assert_same(g, w, case.id)


@every_float
@pytest.mark.parametrize("name", [case.primitive.name for case in special_cases()])
def test_special_values_give_no_warning_and_the_dtype(name: str, dtype: str) -> None:
    for case in special_cases([name], dtype):
        out = run(case).numpy()
        assert out.dtype == (np.bool_ if case.primitive.gives else np.dtype(dtype))
        assert out.shape == case.arrays[0].shape


def compiled(primitive: Primitive, attrs: dict[str, Any]) -> Callable[..., Tensor]:
    return smelt.compile(lambda *xs: primitive(*xs, **attrs))


@every_float
@every_primitive
def test_compiled(name: str, dtype: str) -> None:
    """A compiled primitive equals the eager one, in every layout of its inputs and on special values."""
    every = [*cases([name], dtype), *special_cases([name], dtype)]
    for _, group in groupby(every, key=lambda case: case.sample):
        layouts = list(group)
        function = compiled(layouts[0].primitive, layouts[0].attrs)
        for case in layouts:
            got = function(*(Tensor(a) for a in case.arrays)).numpy()
            assert_matches(got, run(case).numpy(), case)
