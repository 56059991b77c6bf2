"""Losses: answers known without another library, extremes, errors, and the same numbers when traced."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import smelt
from smelt import nn
from smelt.errors import ShapeError
from smelt.nn import functional as F

X = np.array([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]])


def test_cross_entropy_of_known_probabilities() -> None:
    logits = smelt.tensor(np.log([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]), dtype="float64")
    target = smelt.tensor([0, 1])
    each = F.cross_entropy(logits, target, reduction="none")
    np.testing.assert_allclose(each.numpy(), -np.log([0.7, 0.1]), rtol=1e-14)
    np.testing.assert_allclose(F.cross_entropy(logits, target).item(), -np.log(0.07) / 2, rtol=1e-14)
    weight = smelt.tensor([1.0, 3.0, 5.0], dtype="float64")
    expected = (-np.log(0.7) - 3 * np.log(0.1)) / 4
    np.testing.assert_allclose(F.cross_entropy(logits, target, weight).item(), expected, rtol=1e-14)


def test_label_smoothing_is_a_mixture_of_targets() -> None:
    logits, p = smelt.tensor(X, dtype="float64"), np.exp(X) / np.exp(X).sum(1, keepdims=True)
    target = np.array([0, 2])
    mixed = 0.9 * np.eye(3)[target] + 0.1 / 3
    loss = F.cross_entropy(logits, smelt.tensor(target), label_smoothing=0.1)
    np.testing.assert_allclose(loss.item(), -(mixed * np.log(p)).sum(1).mean(), rtol=1e-14)


EXTREMES: list[tuple[Callable[..., smelt.Tensor], list[float], list[float], list[float]]] = [
    (
        F.binary_cross_entropy_with_logits,
        [1e4, -1e4, 1e4, -1e4, 0],
        [1, 0, 0, 1, 0.5],
        [0, 0, 1e4, 1e4, np.log(2)],
    ),
    (F.binary_cross_entropy, [1, 0, 0, 1], [1, 0, 1, 0], [0, 0, 100, 100]),
    (F.kl_div, [-1e3, -2], [0, 1], [0, 2]),
    (F.huber_loss, [1e10, 0.5], [0, 0], [1e10, 0.125]),
    (F.smooth_l1_loss, [1e10, 0.5], [0, 0], [1e10, 0.125]),
]


@pytest.mark.parametrize(("loss", "x", "target", "expected"), EXTREMES, ids=lambda v: getattr(v, "__name__", ""))
def test_extremes_are_finite_forward_and_backward(loss: Any, x: Any, target: Any, expected: Any) -> None:
    t = smelt.tensor(x, dtype="float32", requires_grad=True)
    out = loss(t, smelt.tensor(target, dtype="float32"), reduction="none")
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-6)
    out.sum().backward()
    assert np.isfinite(t.grad.numpy()).all()


def test_softmax_of_extremes() -> None:
    x = smelt.tensor([[1e4, -1e4, 1e4], [1e38, 1e38, -1e38]], requires_grad=True)
    np.testing.assert_array_equal(F.softmax(x).numpy(), [[0.5, 0, 0.5], [0.5, 0.5, 0]])
    logs = F.log_softmax(x)
    assert not np.isnan(logs.numpy()).any()
    F.cross_entropy(x, smelt.tensor([1, 0])).backward()
    np.testing.assert_array_equal(x.grad.numpy(), [[0.25, -0.5, 0.25], [-0.25, 0.25, 0]])


def test_the_gradient_of_a_zero_logit_is_right() -> None:
    """max(x, 0) and |x| both have a kink there; the loss has none."""
    x = smelt.tensor([0.0], requires_grad=True)
    F.binary_cross_entropy_with_logits(x, smelt.tensor([1.0])).backward()
    assert x.grad.item() == -0.5
    x.grad = None
    F.binary_cross_entropy_with_logits(x, smelt.tensor([1.0]), smelt.tensor([3.0])).backward()
    assert x.grad.item() == -1.5


@pytest.mark.parametrize(
    "loss",
    [nn.MSELoss, nn.L1Loss, nn.HuberLoss, nn.SmoothL1Loss, nn.BCELoss, nn.BCEWithLogitsLoss, nn.KLDivLoss],
)
def test_shapes_must_agree(loss: type[nn.Module]) -> None:
    with pytest.raises(ShapeError, match=r"expected a target of shape \(4, 1\), received \(4,\)"):
        loss()(smelt.ones((4, 1)), smelt.ones((4,)))


def test_wrong_labels_and_weights_are_told_apart() -> None:
    with pytest.raises(ShapeError, match=r"expected logits .* and integer labels"):
        F.cross_entropy(smelt.ones((2, 3)), smelt.ones((2,)))
    with pytest.raises(ShapeError, match=r"expected weight \(3,\), received \(2,\)"):
        F.cross_entropy(smelt.ones((2, 3)), smelt.tensor([0, 1]), smelt.ones((2,)))
    with pytest.raises(ValueError, match="label_smoothing: expected a finite number"):
        F.cross_entropy(smelt.ones((2, 3)), smelt.tensor([0, 1]), label_smoothing=2)
    with pytest.raises(ValueError, match="reduction: expected"):
        F.mse_loss(smelt.ones(2), smelt.ones(2), reduction="batchmean")


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    "loss",
    [
        nn.MSELoss,
        nn.L1Loss,
        nn.HuberLoss,
        nn.SmoothL1Loss,
        nn.BCEWithLogitsLoss,
        nn.KLDivLoss,
        nn.CrossEntropyLoss,
    ],
)
def test_a_traced_loss_is_the_same(loss: Any, reduction: str, rng: Any, traced: Any) -> None:
    module = loss(reduction=reduction)
    x = rng.normal(size=(4, 3)).astype(np.float32)
    y = rng.integers(0, 3, 4) if loss is nn.CrossEntropyLoss else rng.uniform(size=(4, 3)).astype(np.float32)
    step = traced(module, x, y)
    assert step.graph.exact == []
    np.testing.assert_array_equal(step(x, y), module(smelt.tensor(x), smelt.tensor(y)).numpy())


def test_smoothed_weighted_and_batch_mean_losses_do_not_depend_on_the_batch_size(rng: Any, traced: Any) -> None:
    x, y = rng.normal(size=(4, 3)).astype(np.float32), rng.integers(0, 3, 4)
    module = nn.CrossEntropyLoss([1.0, 2.0, 3.0], label_smoothing=0.1)
    step = traced(module, x, y)
    assert step.graph.exact == []
    np.testing.assert_array_equal(step(x, y), module(smelt.tensor(x), smelt.tensor(y)).numpy())
    assert traced(nn.KLDivLoss(reduction="batchmean"), x, x).graph.exact == []
