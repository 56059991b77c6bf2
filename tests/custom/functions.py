"""Custom operations that the tests share, all of NumPy functions: swish, a weighted norm of two results, and others."""

from __future__ import annotations

from typing import Any

import numpy as np

import smelt


def sigmoid(x: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-x))).astype(x.dtype)


@smelt.custom_op
def swish_grad(grad: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    s = sigmoid(x)
    return grad * (s + y * (1 - s))


@smelt.custom_op(gradient=swish_grad)
def swish(x: np.ndarray) -> np.ndarray:
    return x * sigmoid(x)


def tensor_rule(grad: Any, y: Any, x: Any) -> Any:
    s = x.sigmoid()
    return grad * (s + y * (1.0 - s))


swish_by_tensors = smelt.custom_op(lambda x: x * sigmoid(x), gradient=tensor_rule, name="swish2")


@smelt.custom_op(out=lambda gs, gm, s, m, x, w: [x, w])
def moments_grad(
    gs: np.ndarray, gm: np.ndarray, s: np.ndarray, m: np.ndarray, x: np.ndarray, w: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    dx = gs[:, None] * w + gm[:, None] * 2 * w * x
    dw = (gs[:, None] * x + gm[:, None] * x * x).sum(0)
    return dx.astype(x.dtype), dw.astype(w.dtype)


@smelt.custom_op(out=lambda x, w: [((x.shape[0],), x.dtype), ((x.shape[0],), x.dtype)], gradient=moments_grad)
def moments(x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weighted sum of each row, and of its squares: (n, k), (k,) -> (n,), (n,)."""
    return x @ w, (x * x) @ w
