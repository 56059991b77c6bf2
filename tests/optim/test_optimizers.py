"""Optimizers: answers known without another library, groups, gating, state, errors, and traced steps."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import smelt
from smelt import nn, optim
from smelt.graph.interpret import interpret
from smelt.graph.trace import Tracer
from smelt.ops import Rows, Spec

MAKERS: dict[str, Callable[..., optim.Optimizer]] = {
    "sgd": lambda p=None, **k: optim.SGD(p, lr=0.1, **k),
    "momentum": lambda p=None, **k: optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5, **k),
    "nesterov": lambda p=None, **k: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, **k),
    "rmsprop": lambda p=None, **k: optim.RMSprop(p, lr=0.1, momentum=0.5, centered=True, **k),
    "adam": lambda p=None, **k: optim.Adam(p, lr=0.1, **k),
    "adamw": lambda p=None, **k: optim.AdamW(p, lr=0.1, **{"weight_decay": 0.01, **k}),
}


def _parameters() -> list[smelt.Parameter]:
    return [smelt.Parameter([[1.0, -2.0], [3.0, -4.0]]), smelt.Parameter([0.5, -0.5])]


def _backward(params: list[smelt.Parameter]) -> smelt.Tensor:
    loss = sum(((p - 1.0) * (p - 1.0)).sum() for p in params)
    assert isinstance(loss, smelt.Tensor)
    loss.backward()
    return loss


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_it_finds_the_minimum(make: Callable[..., optim.Optimizer]) -> None:
    params = _parameters()
    optimizer = make(params)
    for i in range(500):
        optimizer.lr = 0.1 * 0.995**i
        _backward(params)
        optimizer.step()
    for p in params:
        np.testing.assert_allclose(p.numpy(), 1.0, atol=0.02)


def test_the_first_adam_step_is_the_learning_rate() -> None:
    params = _parameters()
    before = [p.numpy().copy() for p in params]
    optimizer = optim.Adam(params, lr=0.01)
    _backward(params)
    optimizer.step()
    for p, old in zip(params, before, strict=True):
        np.testing.assert_allclose(p.numpy() - old, -0.01 * np.sign(old - 1), rtol=1e-4)


def test_step_consumes_gradients_and_backward_accumulates_until_then() -> None:
    w = smelt.Parameter([1.0])
    optimizer = optim.SGD([w], lr=1.0)
    for _ in range(3):
        (w * 2).sum().backward()
    optimizer.step()
    assert (w.item(), w.grad) == (-5.0, None)
    optimizer.step()
    assert w.item() == -5.0
    (w * 2).sum().backward()
    optimizer.zero_grad()
    assert w.grad is None


def test_penalties_may_spare_biases() -> None:
    for kind, options, expected in (
        (optim.SGD, {"weight_decay": 0.5}, 0.95),
        (optim.SGD, {"l1": 2.0}, 0.8),
        (optim.AdamW, {"weight_decay": 0.5}, 0.95),
    ):
        weight, bias = smelt.Parameter([[1.0]]), smelt.Parameter([1.0])
        optimizer = kind([weight, bias], lr=0.1, decay_bias=False, **options)
        ((weight.sum() + bias.sum()) * 0.0).backward()
        optimizer.step()
        assert round(weight.item(), 6) == expected and bias.item() == 1.0


def test_groups_have_options_of_their_own_and_follow_the_rate_in_proportion() -> None:
    a, b = smelt.Parameter([1.0]), smelt.Parameter([1.0])
    optimizer = optim.SGD([{"params": [a]}, {"params": [b], "lr": 0.3, "weight_decay": 1.0}], lr=0.1)

    def step() -> tuple[float, float]:
        before = a.item(), b.item()
        (a + b).sum().backward()
        optimizer.step()
        return round(before[0] - a.item(), 5), round(before[1] - b.item(), 5)

    assert step() == (0.1, 0.6)
    optimizer.lr = 0.05
    b.assign(smelt.tensor([1.0]))
    assert step() == (0.05, 0.3)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_refused_step_changes_nothing(make: Callable[..., optim.Optimizer]) -> None:
    params = _parameters()
    optimizer = make(params)
    _backward(params)
    optimizer.step()
    state, values = optimizer.state_dict(), [p.numpy().copy() for p in params]
    for p in params:
        p.grad = smelt.Tensor(np.full(p.shape, np.nan, np.float32))
    optimizer.step(when=smelt.tensor(False))
    assert all(p.grad is None for p in params)
    for name, value in optimizer.state_dict().items():
        np.testing.assert_array_equal(value, state[name])
    for p, old in zip(params, values, strict=True):
        np.testing.assert_array_equal(p.numpy(), old)
    _backward(params)
    optimizer.step(when=smelt.tensor(True))
    assert float(optimizer.state_dict()["step"]) == 2


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_state_continues_to_the_bit(make: Callable[..., optim.Optimizer]) -> None:
    params = _parameters()
    optimizer = make(params)
    for _ in range(3):
        _backward(params)
        optimizer.step()
    optimizer.lr = 0.0123
    copies = [smelt.Parameter(p.numpy().copy()) for p in params]
    other = make(copies)
    other.load_state_dict(optimizer.state_dict())
    assert other.lr == 0.0123
    for _ in range(3):
        for one, ps in ((optimizer, params), (other, copies)):
            _backward(ps)
            one.step()
    for p, q in zip(params, copies, strict=True):
        np.testing.assert_array_equal(p.numpy(), q.numpy())


def test_a_wrong_state_is_refused_whole() -> None:
    optimizer = optim.Adam(_parameters())
    state = optimizer.state_dict()
    bad = {**state, "lr": np.float64(9), "0.exp_avg": np.zeros(3, np.float32), "more": np.zeros(1)}
    del bad["step"]
    message = r"missing step; unexpected more; 0.exp_avg: expected float32\[2, 2\], received"
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(bad)
    assert optimizer.lr == 1e-3


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_traced_step_is_the_eager_step(make: Callable[..., optim.Optimizer], dtype: str) -> None:
    """A model, its loss, backward, clipping and the gated update; the rate changes in between."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 8, 3)).astype(dtype), rng.normal(size=(5, 8, 2)).astype(dtype)
    start = [rng.normal(size=s).astype(dtype) for s in ((2, 3), (2,))]

    def new() -> tuple[list[smelt.Parameter], optim.Optimizer, Callable[..., smelt.Tensor]]:
        params = [smelt.Parameter(a.copy()) for a in start]
        optimizer = make(weight_decay=0.1, l1=0.01, decay_bias=False).bind(params)

        def step(a: smelt.Tensor, b: smelt.Tensor) -> smelt.Tensor:
            loss = nn.functional.mse_loss(nn.functional.linear(a, *params), b)
            loss.backward()
            optim.clip_grad_norm_(params, 1.0)
            optim.clip_grad_value_(params, 0.5)
            optimizer.step(when=smelt.ops.isfinite(loss))
            return loss

        return params, optimizer, step

    eager_params, eager, step = new()
    params, optimizer, traced_step = new()
    tracer = Tracer("step")
    with tracer:
        inputs = [smelt.Tensor(tracer.input(n, Spec(a.shape[1:], a.dtype, Rows(0)))) for n, a in (("x", x), ("y", y))]
        graph = tracer.finish([tracer.lift(traced_step(*inputs))])
    assert graph.exact == [] and all(g.holds() for g in tracer.guards)
    assert all(p.grad is None for p in params)
    bound = {id(t) for t, _ in tracer.state.values()}
    assert bound >= {id(t) for t in optimizer._tensors().values()} | {id(p) for p in params}
    tensors = {node: t for t, node in tracer.state.values()}
    for i in range(5):
        eager.lr = optimizer.lr = 0.1 / (i + 1)
        loss = step(smelt.Tensor(x[i]), smelt.Tensor(y[i]))
        (out,), updates = interpret(graph, [x[i], y[i]], [t.numpy() for t in tensors.values()])
        for node, value in zip(graph.updates, [np.array(u) for u in updates], strict=True):
            tensors[node].assign(value)
        np.testing.assert_array_equal(out, loss.numpy())
    for p, q in zip(params, eager_params, strict=True):
        np.testing.assert_array_equal(p.numpy(), q.numpy())
    for name, value in optimizer.state_dict().items():
        np.testing.assert_array_equal(value, eager.state_dict()[name])


def test_options_are_fixed_but_the_rate_is_not() -> None:
    optimizer = optim.Adam(lr=1e-3, weight_decay=1e-4)
    assert repr(optimizer) == (
        "Adam(lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0001, l1=0.0, decay_bias=True)"
    )
    for name in ("betas", "eps", "weight_decay", "l1", "decay_bias"):
        with pytest.raises(AttributeError, match=f"Adam.{name} is fixed"):
            setattr(optimizer, name, 0)
    optimizer.lr = 0.5
    assert optimizer.lr == 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.SGD(lr=-1), "SGD: lr: expected a finite number ≥ 0, received -1"),
        (lambda: optim.SGD(lr=float("nan")), "SGD: lr: expected a finite number ≥ 0, received nan"),
        (lambda: optim.SGD(nesterov=True), "SGD: nesterov: expected momentum > 0 and dampening = 0, rec"),
        (lambda: optim.Adam(betas=(0.9, 1.0)), "Adam: betas: expected numbers less than 1"),
        (lambda: optim.Adam(betas=0.9), "Adam: betas: expected two numbers, received 0.9"),
        (lambda: optim.RMSprop(alpha=2), "RMSprop: alpha: expected a finite number ≥ 0 and ≤ 1"),
        (lambda: optim.Adam([]), "Adam.bind: expected at least one parameter, received none"),
        (lambda: optim.Adam([smelt.ones(2)]), "Adam: group 0: expected Parameters, received Tensor"),
        (lambda: optim.Adam([{"params": [], "betas": 1}]), r"Adam: group 0: expected a dict of params, lr, "),
        (lambda: optim.Adam(_parameters()).bind(_parameters()), r"Adam\.bind: it has parameters already"),
        (lambda: optim.Adam([smelt.Parameter([1.0])] * 2), r"Adam\.bind: a parameter appears twice"),
        (lambda: optim.Adam().step(), r"Adam\.step: expected bind\(parameters\) first"),
    ],
)
def test_errors_are_one_line(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as e:
        make()
    assert "\n" not in str(e.value)


def test_state_is_named_after_its_parameter() -> None:
    optimizer = optim.Adam(nn.Sequential(nn.Linear(2, 1)).parameters())
    names = [t.name for t in optimizer._tensors().values()]
    assert names[:4] == ["lr", "step", "0.weight.exp_avg", "0.weight.exp_avg_sq"]


def test_clipping_reports_the_norm_and_leaves_small_gradients_alone() -> None:
    params = [smelt.Parameter([3.0]), smelt.Parameter([4.0]), smelt.Parameter([1.0])]
    ((params[0] * params[0] + params[1] * params[1]) * 0.5).sum().backward()
    assert optim.clip_grad_norm_(params, 100.0).item() == 5.0
    assert params[0].grad is not None and params[0].grad.item() == 3.0 and params[2].grad is None
    assert optim.clip_grad_norm_(params, 2.5).item() == 5.0
    assert round(params[0].grad.item(), 5) == 1.5
    assert optim.clip_grad_norm_([params[2]], 1.0).item() == 0.0


@pytest.mark.parametrize("betas", [(0.0, 0.0), (0.0, 0.999), (0.2, 0.3)])
def test_a_mean_that_keeps_little_takes_a_small_gradient_after_a_large_one(betas: tuple[float, float]) -> None:
    w = smelt.Parameter([0.0])
    optimizer = optim.Adam([w], lr=0.1, betas=betas)
    m = v = want = 0.0
    for t, g in enumerate((1e4, 1e-4, 1e-4), start=1):
        (w * g).sum().backward()
        optimizer.step()
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g * g
        want -= 0.1 * m / (1 - betas[0] ** t) / (np.sqrt(v / (1 - betas[1] ** t)) + 1e-8)
        np.testing.assert_allclose(w.item(), want, rtol=1e-5)
        w.grad = None
