"""Softmax cross-entropy at its limits: huge and infinite logits, labels outside of the classes."""

from __future__ import annotations

import numpy as np
import pytest

from smelt import ops
from smelt.errors import ShapeError
from smelt.tensor import Tensor


def loss_and_gradient(logits: list[list[float]], labels: list[int]) -> tuple[np.ndarray, np.ndarray]:
    x = Tensor(np.array(logits, np.float32), requires_grad=True)
    out = ops.softmax_cross_entropy(x, Tensor(np.array(labels)))
    out.sum().backward()
    assert x.grad is not None
    return out.numpy(), x.grad.numpy()


def test_huge_logits_neither_overflow_nor_warn() -> None:
    loss, grad = loss_and_gradient([[1e4, -1e4], [3e38, -3e38], [-3e38, -3e38]], [1, 0, 0])
    np.testing.assert_allclose(loss, [2e4, 0.0, np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(grad, [[1, -1], [0, 0], [-0.5, 0.5]], rtol=1e-6)


def test_infinite_and_nan_logits_show_in_the_loss() -> None:
    loss, _ = loss_and_gradient([[np.inf, 0.0], [np.nan, 0.0], [0.0, 0.0]], [0, 0, 0])
    assert np.isnan(loss[:2]).all()
    assert np.isfinite(loss[2])


def test_a_label_outside_of_the_classes_picks_no_logit() -> None:
    logits = [[1.0, 2.0, 4.0]] * 2
    loss, grad = loss_and_gradient(logits, [3, -1])
    np.testing.assert_allclose(loss, np.log(np.exp(logits).sum(1)), rtol=1e-6)
    np.testing.assert_allclose(grad, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (
            (3, 4),
            (4,),
            r"logits \(rows, classes\) and integer labels \(rows,\), received f64\[3, 4\] and i64\[4\]",
        ),
        ((3,), (3,), r"received f64\[3\] and i64\[3\]"),
        ((3, 0), (3,), r"at least one class, received f64\[3, 0\]"),
    ],
)
def test_shapes_that_do_not_fit_are_shown(logits: tuple[int, ...], labels: tuple[int, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=rf"softmax_cross_entropy: expected .*{message}.*\[test_loss\.py:"):
        ops.softmax_cross_entropy(Tensor(np.zeros(logits)), Tensor(np.zeros(labels, np.int64)))


def test_labels_are_integers() -> None:
    with pytest.raises(ShapeError, match="integer labels"):
        ops.softmax_cross_entropy(Tensor(np.zeros((3, 4))), Tensor(np.zeros(3)))
