"""The shared test matrix: every primitive × its samples × memory layouts, as arrays ready to run.

In: ``ops.REGISTRY`` and ``Primitive.samples()``. Out: :func:`cases`, whose values keep away from kinks
(no ties, no zeros) so that difference quotients hold, and :func:`special_cases`, which look for trouble (NaN,
infinities, ties).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from smelt.ops import REGISTRY, Primitive, Sample
from smelt.ops.elementwise import Elementwise
from smelt.ops.reduction import Reduction
from smelt.tensor import Tensor

FLOATS = ("float32", "float64")
NAMES = tuple(REGISTRY)

SUMS = {
    *("sum", "matmul", "conv2d", "conv2d_input_grad", "conv2d_weight_grad", "sum_pool2d", "sum_pool2d_grad"),
    *("max_pool2d_grad", "softmax_cross_entropy", "softmax_cross_entropy_grad"),
}
"""Primitives that add in an order of their own: errors are measured against the largest term or result."""

TRANSCENDENTAL = {"pow", "exp", "log", "log1p", "tanh", "sigmoid", "erf"}
"""Functions that may differ from NumPy's in the last bits. Every primitive in neither set is exact."""


class Case(NamedTuple):
    """One call of a primitive; ``sample`` is the sample's number, to group its layouts by."""

    id: str
    primitive: Primitive
    arrays: tuple[np.ndarray, ...]
    attrs: dict[str, Any]
    sample: int


def draw(sample: Sample, dtype: str, seed: int) -> list[np.ndarray]:
    """Return the sample's inputs: floats distinct over all inputs, never zero, exact in float32."""
    rng = np.random.default_rng(seed)
    sizes = [int(np.prod(s, dtype=np.int64)) if i not in sample.dtypes else 0 for i, s in enumerate(sample.shapes)]
    step = (sample.high - sample.low) / max(sum(sizes), 1)
    grid = (sample.low + (rng.permutation(sum(sizes)) + 0.37) * step).astype(np.float32).astype(dtype)
    floats = iter(np.split(grid, np.cumsum(sizes)[:-1])) if sizes else iter(())
    out = []
    for i, (shape, values) in enumerate(zip(sample.shapes, floats, strict=True)):
        kind = sample.dtypes.get(i)
        if kind is None:
            out.append(values.reshape(shape))
        elif kind == "bool":
            out.append(rng.integers(0, 2, shape).astype(bool))
        else:
            out.append(rng.integers(0, sample.below, shape).astype(kind))
    return out


def _transposed(x: np.ndarray, distinct: Sequence[int]) -> np.ndarray:
    return np.ascontiguousarray(x.T).T


def _sliced(x: np.ndarray, distinct: Sequence[int]) -> np.ndarray:
    big = np.zeros([2 * d + 3 for d in x.shape], x.dtype)
    view = big[(..., *(slice(2, 2 + 2 * d, 2) for d in x.shape))]
    view[...] = x
    return view


def _reversed(x: np.ndarray, distinct: Sequence[int]) -> np.ndarray:
    flip = (..., *(slice(None, None, -1),) * x.ndim)
    return x[flip].copy()[flip]


def _repeated(x: np.ndarray, distinct: Sequence[int]) -> np.ndarray | None:
    """Return ``x`` with the first entry of one axis repeated by a stride of 0; None when no axis may be."""
    axis = next((i for i, d in enumerate(x.shape) if d > 1 and i not in distinct), None)
    if axis is None:
        return None if x.size > 1 else x
    return np.broadcast_to(x.take([0], axis), x.shape)


def _distinct_axes(primitive: Primitive, attrs: dict[str, Any]) -> Sequence[int]:
    """Return the axes along which elements compete for a maximum: equal ones would be ties."""
    if "kernel" in attrs:
        return (2, 3)
    return attrs["axes"] if isinstance(primitive, Reduction) else ()


LAYOUTS: dict[str, Callable[[np.ndarray, Sequence[int]], np.ndarray | None]] = {
    "contiguous": lambda x, distinct: x,
    "transposed": _transposed,
    "sliced": _sliced,
    "reversed": _reversed,
    "repeated": _repeated,
}


def cases(
    names: Sequence[str] = NAMES, dtype: str = "float64", layouts: Sequence[str] = tuple(LAYOUTS)
) -> Iterator[Case]:
    """Yield every sample of every named primitive in every layout; the arrays are read-only."""
    for name in names:
        primitive = REGISTRY[name]
        for number, sample in enumerate(primitive.samples()):
            seed = zlib.crc32(f"{name} {number}".encode())
            arrays = draw(sample, dtype, seed)
            distinct = _distinct_axes(primitive, sample.attrs)
            for layout in layouts if arrays else layouts[:1]:
                laid = [LAYOUTS[layout](a, distinct) for a in arrays]
                if any(a is None for a in laid):
                    continue
                for a in laid:
                    a.flags.writeable = False
                shapes = " ".join(str(list(s)) for s in sample.shapes)
                attrs = ", ".join(f"{k}={v}" for k, v in sample.attrs.items())
                kinds = ",".join(sample.dtypes.values())
                case_id = f"{name}({shapes}{'; ' + attrs if attrs else ''}){kinds} {dtype} {layout}"
                yield Case(case_id, primitive, tuple(laid), sample.attrs, number)


SPECIALS = (0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 3.0, 80.0, -80.0, 200.0, -200.0, 1e-30, -1e30)
NON_FINITE = (np.inf, -np.inf, np.nan)


def special_cases(names: Sequence[str] = NAMES, dtype: str = "float64") -> Iterator[Case]:
    """Yield elementwise primitives on all combinations of signed zeros, huge values, infinities and NaN."""
    for name in names:
        primitive = REGISTRY[name]
        if not isinstance(primitive, Elementwise) or primitive.takes == "a bool":
            continue
        values = np.array(SPECIALS + NON_FINITE, dtype)
        lists = [np.array([True, False]) if name == "where" and i == 0 else values for i in range(primitive.arity)]
        arrays = [a.ravel() for a in np.meshgrid(*lists, indexing="ij")]
        yield Case(f"{name} {dtype} specials", primitive, tuple(arrays), {}, -1)


def run(case: Case) -> Tensor:
    """Return the primitive applied eagerly to the case's arrays, without copying them."""
    return case.primitive(*(Tensor(a) for a in case.arrays), **case.attrs)


def run_with_gradients(case: Case, seed: np.ndarray | None = None) -> tuple[np.ndarray, list[np.ndarray | None]]:
    """Return (result, gradient of ``sum(result * seed)`` for every floating input: zeros if there is none).

    Inputs of other dtypes have None. The default seed is drawn from a fixed stream.
    """
    tensors = [Tensor(a, requires_grad=a.dtype.kind == "f") for a in case.arrays]
    out = case.primitive(*tensors, **case.attrs)
    if out.requires_grad:
        out.backward(cotangent(out.shape, out.dtype) if seed is None else seed)
    grads: list[np.ndarray | None] = []
    for t in tensors:
        if not t.requires_grad:
            grads.append(None)
        else:
            grads.append(np.zeros(t.shape, t.dtype) if t.grad is None else t.grad.numpy())
    return out.numpy(), grads


def cotangent(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return a fixed gradient of the result, of values exact in float32."""
    rng = np.random.default_rng(7)
    return np.asarray(rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape)).astype(np.float32).astype(dtype)


def assert_same(got: np.ndarray, want: np.ndarray, message: str) -> None:
    """Assert the same dtype, shape and bits of meaning: NaN equals NaN, 0 equals -0."""
    assert got.dtype == want.dtype, f"{message}: {got.dtype} instead of {want.dtype}"
    assert got.shape == want.shape, f"{message}: {got.shape} instead of {want.shape}"
    np.testing.assert_array_equal(got, want, err_msg=message)


def scale_of(case: Case, result: np.ndarray) -> float:
    """Return the size against which the rounding of a sum is measured: the largest term or result."""
    floats = [a for a in (*case.arrays, result) if a.dtype.kind == "f"]
    return max((float(np.max(np.abs(a), initial=0.0)) for a in floats), default=0.0)


def assert_matches(got: np.ndarray, want: np.ndarray, case: Case) -> None:
    """Assert that ``got`` equals ``want``, the eager result, as exactly as the case's primitive promises."""
    name = case.primitive.name
    if want.dtype.kind != "f" or not (name in SUMS or name in TRANSCENDENTAL):
        assert_same(got, want, case.id)
        return
    assert (got.dtype, got.shape) == (want.dtype, want.shape), f"{case.id}: {got.dtype}{got.shape}"
    single = want.dtype == np.float32
    if name in TRANSCENDENTAL:
        np.testing.assert_allclose(got, want, rtol=5e-7 if single else 4e-15, atol=1e-37, err_msg=case.id)
    else:
        atol = (2e-5 if single else 1e-13) * scale_of(case, want)
        np.testing.assert_allclose(got, want, rtol=0, atol=atol, err_msg=case.id)
