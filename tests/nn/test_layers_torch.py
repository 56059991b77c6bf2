"""Layers and activations against PyTorch: names of tensors, results, every gradient, running statistics."""

from typing import Any

import numpy as np
import pytest

import smelt
from smelt import nn
from smelt.nn import functional as F

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peers
tn = torch.nn

IMAGE = (3, 4, 9, 8)
LAYERS: list[tuple[nn.Module, Any, tuple[int, ...]]] = [
    (nn.Linear(7, 5), tn.Linear(7, 5), (6, 7)),
    (nn.Linear(7, 5, bias=False), tn.Linear(7, 5, bias=False), (2, 3, 7)),
    (nn.Conv2d(4, 6, 3), tn.Conv2d(4, 6, 3), IMAGE),
    (nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0)), tn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0)), IMAGE),
    (nn.Conv2d(4, 6, 4, 1, "same", bias=False), tn.Conv2d(4, 6, 4, 1, "same", bias=False), IMAGE),
    (nn.Conv2d(4, 6, 3, 1, "valid", 2), tn.Conv2d(4, 6, 3, 1, "valid", 2), IMAGE),
    (nn.Conv2d(4, 6, 3, 2, 2, 2, 2), tn.Conv2d(4, 6, 3, 2, 2, 2, 2), IMAGE),
    (nn.Conv2d(4, 8, 3, padding=1, groups=4), tn.Conv2d(4, 8, 3, padding=1, groups=4), IMAGE),
    (nn.Conv2d(4, 6, 1, 2), tn.Conv2d(4, 6, 1, 2), IMAGE),
    (nn.Conv1d(4, 6, 3, 2, 1), tn.Conv1d(4, 6, 3, 2, 1), (3, 4, 11)),
    (nn.Conv1d(4, 8, 4, 1, "same", 2, 4), tn.Conv1d(4, 8, 4, 1, "same", 2, 4), (3, 4, 11)),
    (nn.MaxPool2d(2), tn.MaxPool2d(2), IMAGE),
    (nn.MaxPool2d((3, 2), (2, 1), (1, 1)), tn.MaxPool2d((3, 2), (2, 1), (1, 1)), IMAGE),
    (nn.MaxPool1d(3, 2, 1), tn.MaxPool1d(3, 2, 1), (3, 4, 11)),
    (nn.AvgPool2d((3, 2), (2, 1), (1, 1)), tn.AvgPool2d((3, 2), (2, 1), (1, 1)), IMAGE),
    (
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        tn.AvgPool2d(3, 2, 1, count_include_pad=False),
        IMAGE,
    ),
    (nn.AvgPool1d(3, 2, 1), tn.AvgPool1d(3, 2, 1), (3, 4, 11)),
    (
        nn.AvgPool1d(3, 2, 1, count_include_pad=False),
        tn.AvgPool1d(3, 2, 1, count_include_pad=False),
        (3, 4, 11),
    ),
    (nn.GlobalAvgPool2d(keepdims=True), tn.AdaptiveAvgPool2d(1), IMAGE),
    (nn.GlobalMaxPool2d(keepdims=True), tn.AdaptiveMaxPool2d(1), IMAGE),
    (nn.BatchNorm2d(4), tn.BatchNorm2d(4), IMAGE),
    (nn.BatchNorm2d(4, 1e-3, 0.3, False), tn.BatchNorm2d(4, 1e-3, 0.3, False), IMAGE),
    (nn.BatchNorm1d(7), tn.BatchNorm1d(7), (6, 7)),
    (nn.BatchNorm1d(4), tn.BatchNorm1d(4), (6, 4, 5)),
    (nn.LayerNorm(8), tn.LayerNorm(8), IMAGE),
    (nn.LayerNorm((9, 8), 1e-3, bias=False), tn.LayerNorm((9, 8), 1e-3, bias=False), IMAGE),
    (nn.LayerNorm([8], elementwise_affine=False), tn.LayerNorm([8], elementwise_affine=False), IMAGE),
    (nn.GroupNorm(2, 4), tn.GroupNorm(2, 4), IMAGE),
    (nn.GroupNorm(4, 4, 1e-3, False), tn.GroupNorm(4, 4, 1e-3, False), (5, 4)),
    (nn.Flatten(), tn.Flatten(), IMAGE),
    (nn.Flatten(2), tn.Flatten(2), IMAGE),
    (nn.Identity(), tn.Identity(), IMAGE),
    (nn.ReLU(), tn.ReLU(), IMAGE),
    (nn.ReLU6(), tn.ReLU6(), IMAGE),
    (nn.LeakyReLU(0.2), tn.LeakyReLU(0.2), IMAGE),
    (nn.Sigmoid(), tn.Sigmoid(), IMAGE),
    (nn.Tanh(), tn.Tanh(), IMAGE),
    (nn.GELU(), tn.GELU(), IMAGE),
    (nn.GELU("tanh"), tn.GELU("tanh"), IMAGE),
    (nn.SiLU(), tn.SiLU(), IMAGE),
    (nn.Hardswish(), tn.Hardswish(), IMAGE),
    (nn.Hardsigmoid(), tn.Hardsigmoid(), IMAGE),
    (nn.Softmax(-1), tn.Softmax(-1), IMAGE),
    (nn.Softmax(1), tn.Softmax(1), IMAGE),
    (nn.LogSoftmax(1), tn.LogSoftmax(1), IMAGE),
    (nn.Dropout(0.5).eval(), tn.Dropout(0.5).eval(), IMAGE),
]


def _close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b.detach().numpy(), rtol=2e-5, atol=2e-5)


def _compare(ours: nn.Module, theirs: Any, x: np.ndarray) -> None:
    a = smelt.tensor(x, requires_grad=True)
    b = torch.tensor(x, requires_grad=True)
    ya, yb = ours(a), theirs(b)
    _close(ya.numpy(), yb)
    seed = np.random.default_rng(1).normal(size=ya.shape).astype(np.float32)
    ya.backward(seed)
    yb.backward(torch.tensor(seed))
    assert a.grad is not None
    _close(a.grad.numpy(), b.grad)
    grads = {n: p.grad for n, p in theirs.named_parameters()}
    assert [n for n, _ in ours.named_parameters()] == list(grads)
    for name, p in ours.named_parameters():
        assert p.grad is not None
        _close(p.grad.numpy(), grads[name])
        p.grad = None
    theirs.zero_grad()


@pytest.mark.parametrize(("ours", "theirs", "shape"), LAYERS, ids=lambda v: repr(v) if "torch" in str(type(v)) else "")
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_layer(ours: nn.Module, theirs: Any, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    state = {n: v for n, v in theirs.state_dict().items() if n != "num_batches_tracked"}
    assert {n: tuple(v.shape) for n, v in state.items()} == {n: v.shape for n, v in ours.state_dict().items()}
    ours.load_state_dict({n: v.numpy() for n, v in state.items()})
    for _ in range(2):
        _compare(ours, theirs, (rng.normal(size=shape) * 2 + 0.5).astype(np.float32))
    for name, value in ours.state_dict().items():
        _close(value, theirs.state_dict()[name])
    ours.eval()
    theirs.eval()
    _compare(ours, theirs, rng.normal(size=shape).astype(np.float32))


@pytest.mark.parametrize("name", ["relu", "relu6", "leaky_relu", "hardsigmoid", "hardswish", "softplus", "silu"])
def test_derivatives_where_the_function_has_a_kink(name: str) -> None:
    x = np.array([0.0, 6.0, -6.0, 1.0], np.float32)
    a, b = smelt.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    getattr(F, name)(a).sum().backward()
    getattr(torch.nn.functional, name)(b).sum().backward()
    assert a.grad is not None
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-6)


def test_a_whole_network_with_residual_branches() -> None:
    class Theirs(tn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = tn.Sequential(tn.Conv2d(3, 3, 3, padding=1), tn.BatchNorm2d(3), tn.SiLU())
            self.head = tn.Linear(3, 2)

        def forward(self, x: Any) -> Any:
            y = self.body(x) + x
            return self.head(torch.cat([y, y * 0], 1)[:, :3].mean((2, 3)))

    class Ours(nn.Module):
        def __init__(self) -> None:
            self.body = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.SiLU())
            self.head = nn.Linear(3, 2)

        def forward(self, x: smelt.Tensor) -> smelt.Tensor:
            y = nn.Add(self.body, nn.Identity())(x)
            return self.head(smelt.concat([y, y * 0], 1)[:, :3].mean((2, 3)))

    ours, theirs = Ours(), Theirs()
    ours.load_state_dict({n: v.numpy() for n, v in theirs.state_dict().items() if "num_" not in n})
    _compare(ours, theirs, np.random.default_rng(0).normal(size=(4, 3, 6, 6)).astype(np.float32))


@pytest.mark.parametrize("name", ["Linear", "Conv2d"])
def test_initial_values_are_spread_alike(name: str) -> None:
    args = (400, 300) if name == "Linear" else (40, 50, 5)
    ours, theirs = getattr(nn, name)(*args), getattr(tn, name)(*args)
    for mine, other in ((ours.weight, theirs.weight), (ours.bias, theirs.bias)):
        a, b = mine.numpy().ravel(), other.detach().numpy().ravel()
        np.testing.assert_allclose(np.quantile(a, [0, 1]), np.quantile(b, [0, 1]), rtol=0.1)
    np.testing.assert_allclose(ours.weight.numpy().std(), theirs.weight.std().item(), rtol=0.02)
