"""Softmax cross-entropy and its gradient, fused so that neither overflows.

In: logits (rows, classes) and integer labels (rows,). Out: one loss per row, or the gradient of the logits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from smelt.errors import ShapeError
from smelt.ops.primitive import Primitive, Sample, Spec


def _check(name: str, x: Spec, y: Spec) -> str:
    if len(x.shape) != 2 or y.shape != x.shape[:1] or y.dtype.kind not in "iu":
        raise ShapeError(f"{name}: expected logits (rows, classes) and integer labels (rows,), received {x} and {y}")
    if x.dtype.kind != "f" or x.shape[1] == 0:
        raise ShapeError(f"{name}: expected floating-point logits of at least one class, received {x}")
    return "" if x.rows == y.rows else f"{name}: only one of logits and labels is a batch"


def _top(x: np.ndarray) -> np.ndarray:
    return x.max(axis=1, keepdims=True) if x.size else x[:, :1]


class SoftmaxCrossEntropy(Primitive):
    """``log(sum(exp(logits))) - logits[label]`` for every row; a label outside of the classes picks no logit."""

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        x, y = specs
        exact = _check(self.name, x, y)
        return Spec(y.shape, x.dtype, None if exact else x.rows, exact)

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        x, y = arrays
        top = _top(x)
        hit = y[:, None] == np.arange(x.shape[1])
        with np.errstate(all="ignore"):
            z = x - top
            picked = np.where(hit.any(axis=1), np.where(hit, z, 0).sum(axis=1, dtype=x.dtype), -top[:, 0])
            return np.log(np.exp(z).sum(axis=1, dtype=x.dtype)) - picked

    def flops(self, specs: tuple[Spec, ...], out: Spec, attrs: dict[str, Any]) -> int:
        return 4 * specs[0].size  # maximum, difference, exp and sum; then one logarithm and one difference per row

    def gradient(self, index: int, grad: Any, out: Any, inputs: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        return softmax_cross_entropy_grad(inputs[0], inputs[1], grad) if index == 0 else None


class SoftmaxCrossEntropyGrad(Primitive):
    """``(softmax(logits) - one_hot(labels)) * grad`` with ``grad`` of shape (rows,)."""

    differentiable = False

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        x, y, _ = specs
        exact = _check(self.name, x, y)
        return Spec(x.shape, x.dtype, None if exact else x.rows, exact)

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        x, y, g = arrays
        hit = y[:, None] == np.arange(x.shape[1])
        with np.errstate(all="ignore"):
            e = np.exp(x - _top(x))
            return (e / e.sum(axis=1, keepdims=True, dtype=x.dtype) - hit.astype(x.dtype)) * g[:, None]

    def flops(self, specs: tuple[Spec, ...], out: Spec, attrs: dict[str, Any]) -> int:
        n, _ = out.shape
        return 7 * out.size - 2 * n  # maximum, difference, exp, sum, division, minus one-hot, times the gradient


def _samples(with_grad: bool) -> tuple[Sample, ...]:
    shapes = ((5, 10), (3, 33), (1, 1), (0, 4), (4, 16))
    rows = [(n, c, c) for n, c in shapes] + [(9, 4, 7)]  # the last one has labels outside of the classes
    return tuple(
        Sample(((n, c), (n,)) + (((n,),) if with_grad else ()), dtypes={1: "int64"}, below=b) for n, c, b in rows
    )


softmax_cross_entropy = SoftmaxCrossEntropy("softmax_cross_entropy", _samples(False))
softmax_cross_entropy_grad = SoftmaxCrossEntropyGrad("softmax_cross_entropy_grad", _samples(True))
