"""Optimizers against PyTorch: 100 steps with every option, in float64 and float32, and clipping."""

from typing import Any

import numpy as np
import pytest

import smelt
from smelt import optim

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peers

CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.05}),
    ("SGD", {"lr": 0.05, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.02, "momentum": 0.9}),
    ("SGD", {"lr": 0.02, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("RMSprop", {"lr": 0.01}),
    ("RMSprop", {"lr": 0.01, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1}),
    ("RMSprop", {"lr": 0.01, "centered": True}),
    ("RMSprop", {"lr": 0.01, "centered": True, "momentum": 0.9, "weight_decay": 0.1}),
    ("Adam", {}),
    ("Adam", {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.02, "weight_decay": 0.2}),
]


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-11), ("float32", 2e-4)])
@pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{n}-{','.join(o)}" for n, o in CASES])
def test_100_steps(name: str, options: dict[str, Any], dtype: str, rtol: float) -> None:
    rng = np.random.default_rng(0)
    start = [rng.normal(size=s).astype(dtype) for s in ((5, 4), (4,), (2, 3, 3))]
    ours = [smelt.Parameter(a.copy()) for a in start]
    theirs = [torch.tensor(a, requires_grad=True) for a in start]
    a, b = getattr(optim, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)
    if "lr" not in options:
        assert a.lr == b.param_groups[0]["lr"] == b.defaults["lr"]
    for step in range(100):
        for p, q in zip(ours, theirs, strict=True):
            noise = rng.normal(size=p.shape).astype(dtype)
            p.grad = smelt.Tensor(np.sin(3 * p.numpy()) + noise)
            q.grad = torch.sin(3 * q.detach()) + torch.tensor(noise)
        if step == 50:
            a.lr = a.lr / 2
            b.param_groups[0]["lr"] /= 2
        a.step()
        b.step()
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.numpy(), q.detach().numpy(), rtol=rtol, atol=rtol)
    for i, q in enumerate(theirs):
        for slot in a._slots:
            expected = b.state[q][slot].numpy()
            np.testing.assert_allclose(a.state_dict()[f"{i}.{slot}"], expected, rtol=rtol, atol=rtol)


def test_groups() -> None:
    start = [np.array([1.0, -2.0]), np.array([3.0])]
    ours = [smelt.Parameter(a.copy()) for a in start]
    theirs = [torch.tensor(a, requires_grad=True) for a in start]

    def groups(ps: list[Any]) -> list[dict[str, Any]]:
        return [{"params": ps[:1], "lr": 0.1, "weight_decay": 0.0}, {"params": ps[1:]}]

    a = optim.AdamW(groups(ours), lr=0.01, weight_decay=0.1)
    b = torch.optim.AdamW(groups(theirs), lr=0.01, weight_decay=0.1)
    for _ in range(10):
        for p, q in zip(ours, theirs, strict=True):
            p.grad, q.grad = smelt.Tensor(p.numpy() * 2), q.detach() * 2
        a.step()
        b.step()
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.numpy(), q.detach().numpy(), rtol=1e-13)


@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_clipping(limit: float) -> None:
    rng = np.random.default_rng(0)
    grads = [rng.normal(size=s) for s in ((5, 4), (4,))]
    for name in ("clip_grad_norm_", "clip_grad_value_"):
        ours = [smelt.Parameter(np.zeros(g.shape)) for g in grads]
        theirs = [torch.zeros(g.shape, dtype=torch.float64, requires_grad=True) for g in grads]
        for p, q, g in zip(ours, theirs, grads, strict=True):
            p.grad, q.grad = smelt.Tensor(g.copy()), torch.tensor(g)
        norm = getattr(optim, name)(ours, limit)
        expected = getattr(torch.nn.utils, name)(theirs, limit)
        if norm is not None:
            np.testing.assert_allclose(norm.item(), expected.item(), rtol=1e-13)
        for p, q in zip(ours, theirs, strict=True):
            assert p.grad is not None
            np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-13)
