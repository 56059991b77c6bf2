"""Every primitive with a PyTorch twin against it: forward, gradients, and the special values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from smelt.ops import REGISTRY

from .matrix import (
    FLOATS,
    NAMES,
    SUMS,
    Case,
    assert_same,
    cases,
    cotangent,
    run,
    run_with_gradients,
    scale_of,
    special_cases,
)

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peers

F = torch.nn.functional
grad_of = torch.nn.grad
Twin = Callable[..., Any]


def padded(x: Any, attrs: dict[str, Any], fill: float = 0.0) -> Any:
    (top, bottom), (left, right) = attrs["padding"]
    return F.pad(x, (left, right, top, bottom), value=fill)


def conv2d(x: Any, w: Any, **attrs: Any) -> Any:
    sliding = {k: attrs[k] for k in ("stride", "dilation", "groups")}
    return F.conv2d(padded(x, attrs), w, **sliding)


def max_pool2d(x: Any, **attrs: Any) -> Any:
    return F.max_pool2d(padded(x, attrs, -float("inf")), attrs["kernel"], attrs["stride"])


def sum_pool2d(x: Any, **attrs: Any) -> Any:
    return F.avg_pool2d(padded(x, attrs), attrs["kernel"], attrs["stride"], divisor_override=1)


def max_pool2d_index(x: Any, **attrs: Any) -> Any:
    (n, c), image = x.shape[:2], padded(x, attrs, -1e30)
    if n == 0:
        return max_pool2d(x, **attrs).to(torch.uint8)
    columns = F.unfold(image.reshape(n * c, 1, *image.shape[2:]), attrs["kernel"], stride=attrs["stride"])
    return columns.argmax(1).reshape(max_pool2d(x, **attrs).shape).to(torch.uint8)


def backward_of(function: Twin, shape: tuple[int, ...], grad: Any) -> Any:
    """Return the gradient of a linear ``function`` of an array of ``shape``."""
    x = torch.zeros(shape, dtype=grad.dtype, requires_grad=True)
    return torch.autograd.grad(function(x), x, grad)[0]


def conv2d_input_grad(g: Any, w: Any, size: tuple[int, int], **attrs: Any) -> Any:
    shape = (g.shape[0], w.shape[1] * attrs["groups"], *size)
    return backward_of(lambda x: conv2d(x, w, **attrs), shape, g)


def conv2d_weight_grad(x: Any, g: Any, kernel: tuple[int, int], **attrs: Any) -> Any:
    shape = (g.shape[1], x.shape[1] // attrs["groups"], *kernel)
    return backward_of(lambda w: conv2d(x, w, **attrs), shape, g)


def sum_pool2d_grad(g: Any, size: tuple[int, int], **attrs: Any) -> Any:
    return backward_of(lambda x: sum_pool2d(x, **attrs), (*g.shape[:2], *size), g)


def max_pool2d_grad(g: Any, index: Any, size: tuple[int, int], **attrs: Any) -> Any:
    """Return the backward of pooling an image that is largest where ``index`` says, window by window."""
    (kh, kw), (sh, sw) = attrs["kernel"], attrs["stride"]
    (top, bottom), (left, right) = attrs["padding"]
    out = torch.zeros((*g.shape[:2], size[0] + top + bottom, size[1] + left + right), dtype=g.dtype)
    for i in range(g.shape[2]):
        for j in range(g.shape[3]):
            window = F.one_hot(index[:, :, i, j].long(), kh * kw).to(g.dtype).reshape(*g.shape[:2], kh, kw)
            out[:, :, i * sh : i * sh + kh, j * sw : j * sw + kw] += window * g[:, :, i, j, None, None]
    return out[:, :, top : top + size[0], left : left + size[1]]


def cross_entropy(x: Any, y: Any) -> Any:
    inside = y < x.shape[1]
    picked = F.cross_entropy(x, torch.where(inside, y, 0), reduction="none")
    return torch.where(inside, picked, x.logsumexp(1))


def cross_entropy_grad(x: Any, y: Any, g: Any) -> Any:
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(cross_entropy(x, y), x, g)[0]


def slice_(x: Any, start: Any, step: Any, size: Any) -> Any:
    for axis, (a, s, n) in enumerate(zip(start, step, size, strict=True)):
        x = x.index_select(axis, torch.tensor([a + s * i for i in range(n)], dtype=torch.int64))
    return x


def place(x: Any, shape: Any, start: Any, step: Any, fill: float) -> Any:
    at = [
        torch.tensor([a + s * i for i in range(n)], dtype=torch.int64)
        for a, s, n in zip(start, step, x.shape, strict=True)
    ]
    out = torch.full(shape, fill, dtype=x.dtype)
    return out.index_put(tuple(torch.meshgrid(*at, indexing="ij")), x)


def argmax(x: Any, axes: tuple[int, ...]) -> Any:
    kept = [d for i, d in enumerate(x.shape) if i not in axes]
    order = [i for i in range(x.ndim) if i not in axes] + list(axes)
    x = x.to(torch.uint8) if x.dtype == torch.bool else x  # PyTorch has none of bools
    return x.permute(order).reshape(*kept, int(np.prod([x.shape[a] for a in axes]))).argmax(-1)


def iota(shape: tuple[int, ...], axis: int, dtype: str) -> Any:
    line = torch.arange(shape[axis], dtype=getattr(torch, dtype))
    return line.reshape([-1 if i == axis else 1 for i in range(len(shape))]).expand(shape)


TWINS: dict[str, Twin] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "pow": torch.pow,
    "neg": torch.neg,
    "abs": torch.abs,
    "sign": torch.sign,
    "floor": torch.floor,
    "round": torch.round,
    "exp": torch.exp,
    "log": torch.log,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "erf": torch.erf,
    "relu": torch.relu,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "where": torch.where,
    "eq": torch.eq,
    "ne": torch.ne,
    "lt": torch.lt,
    "le": torch.le,
    "isfinite": torch.isfinite,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_not": torch.logical_not,
    "cast": lambda x, dtype: x.to(getattr(torch, dtype)),
    "reshape": lambda x, shape: x.reshape(shape),
    "permute": lambda x, axes: x.permute(axes),
    "broadcast_to": lambda x, shape: x.expand(shape),
    "slice": slice_,
    "place": place,
    "concat": lambda *xs, axis: torch.cat(xs, axis),
    "iota": iota,
    "sum": lambda x, axes: x.sum(axes, dtype=x.dtype) if axes else x.clone(),  # PyTorch widens integers
    "max": lambda x, axes: x.amax(axes),
    "argmax": argmax,
    "matmul": torch.matmul,
    "conv2d": conv2d,
    "conv2d_input_grad": conv2d_input_grad,
    "conv2d_weight_grad": conv2d_weight_grad,
    "max_pool2d": max_pool2d,
    "max_pool2d_index": max_pool2d_index,
    "max_pool2d_grad": max_pool2d_grad,
    "sum_pool2d": sum_pool2d,
    "sum_pool2d_grad": sum_pool2d_grad,
    "softmax_cross_entropy": cross_entropy,
    "softmax_cross_entropy_grad": cross_entropy_grad,
}
NO_TWIN = {"count", "random_uniform", "advance_random"}

each_twin = pytest.mark.parametrize("name", [n for n in NAMES if n in TWINS])
each_float = pytest.mark.parametrize("dtype", FLOATS)


def test_every_primitive_has_a_twin_or_is_known_to_have_none() -> None:
    assert set(TWINS) | NO_TWIN == set(NAMES)
    assert not any(REGISTRY[name].differentiable for name in NO_TWIN)


def twin(case: Case, gradients: bool = False) -> tuple[Any, list[Any]]:
    """Return PyTorch's (result, tensors it was computed from)."""
    tensors = [torch.tensor(np.array(a)) for a in case.arrays]
    for t in tensors:
        if gradients and t.dtype.is_floating_point:
            t.requires_grad_()
    return TWINS[case.primitive.name](*tensors, **case.attrs), tensors


def assert_near(got: np.ndarray, want: np.ndarray, case: Case, what: str) -> None:
    """Assert equality up to the rounding of a few operations at the result's precision."""
    assert (got.dtype, got.shape) == (want.dtype, want.shape), f"{case.id}: {what}"
    if got.dtype.kind != "f":
        assert_same(got, want, f"{case.id}: {what}")
        return
    unit = 4e-6 if got.dtype == np.float32 else 1e-13
    rtol, atol = (0.0, unit * scale_of(case, want)) if case.primitive.name in SUMS else (unit, 1e-37)
    np.testing.assert_allclose(got, want, rtol=rtol, atol=atol, err_msg=f"{case.id}: {what}")


@each_float
@each_twin
def test_forward_equals_pytorch(name: str, dtype: str) -> None:
    for case in cases([name], dtype, layouts=["contiguous"]):
        assert_near(run(case).numpy(), twin(case)[0].detach().numpy(), case, "result")


@each_float
@pytest.mark.parametrize("name", [n for n in NAMES if REGISTRY[n].differentiable])
def test_gradients_equal_pytorch(name: str, dtype: str) -> None:
    checked = 0
    for case in cases([name], dtype, layouts=["contiguous"]):
        out, tensors = twin(case, gradients=True)
        if not out.requires_grad:
            continue
        seed = cotangent(tuple(out.shape), out.detach().numpy().dtype)
        out.backward(torch.tensor(seed))
        for i, (got, t) in enumerate(zip(run_with_gradients(case)[1], tensors, strict=True)):
            if t.requires_grad:
                want = np.zeros(t.shape, got.dtype) if t.grad is None else t.grad.numpy()
                assert_near(got, want, case, f"gradient {i}")
                checked += 1
    assert checked, f"no sample of {name} has a gradient"


SPECIAL_NAMES = [c.primitive.name for c in special_cases() if c.primitive.name in TWINS]


@each_float
@pytest.mark.parametrize("name", SPECIAL_NAMES)
def test_special_values_equal_pytorch(name: str, dtype: str) -> None:
    for case in special_cases([name], dtype):
        got, want = run(case).numpy(), twin(case)[0].numpy()
        if name == "sign":  # of NaN: PyTorch says 0, NumPy and Smelt NaN
            got, want = got[:-1], want[:-1]
        assert_near(got, want, case, "result")


@pytest.mark.parametrize("name", ["abs", "relu", "sqrt", "exp", "log", "tanh", "sigmoid", "erf", "log1p"])
def test_gradients_at_zero_and_far_out_equal_pytorch(name: str) -> None:
    x = np.array([0.0, 1.0, -1.0, 30.0, -30.0, 200.0, -200.0])
    case = Case(name, REGISTRY[name], (x[x >= 0] if name in ("sqrt", "log", "log1p") else x,), {}, -1)
    out, (t,) = twin(case, gradients=True)
    out.backward(torch.ones_like(out))
    with np.errstate(all="ignore"):
        (got,) = run_with_gradients(case, np.ones(out.shape))[1]
    assert_near(got, t.grad.numpy(), case, "gradient")
