"""Activations: a floating-point tensor in; one of the same shape out."""

from __future__ import annotations

import math

import numpy as np

from smelt import ops
from smelt.functions import maximum, where
from smelt.nn import functional as F
from smelt.onnx.reader.arguments import Arguments, Unsupported, axis_of
from smelt.onnx.reader.operators.entry import Entry
from smelt.tensor import Tensor


def _hard_sigmoid(c: Arguments) -> Tensor:
    return (c.tensor() * c.attribute("alpha", 0.2) + c.attribute("beta", 0.5)).clip(0.0, 1.0)


def _elu(c: Arguments) -> Tensor:
    return _exponential(c.tensor(), c.attribute("alpha", 1.0), 1.0)


def _exponential(x: Tensor, alpha: float, width: float) -> Tensor:
    """Return x, or where it is negative ``alpha * (exp(x / width) - 1)``."""
    return where(x > 0.0, x, ((where(x > 0.0, 0.0, x) / width).exp() - 1.0) * alpha)


def _selu(c: Arguments) -> Tensor:
    alpha = c.attribute("alpha", 1.67326319217681884765625)
    return _exponential(c.tensor(), alpha, 1.0) * c.attribute("gamma", 1.05070102214813232421875)


def _celu(c: Arguments) -> Tensor:
    alpha = c.attribute("alpha", 1.0)
    return _exponential(c.tensor(), alpha, alpha)


def _thresholded_relu(c: Arguments) -> Tensor:
    x = c.tensor()
    return where(x > c.attribute("alpha", 1.0), x, 0.0)


def _shrink(c: Arguments) -> Tensor:
    x, bias, edge = c.tensor(), c.attribute("bias", 0.0), c.attribute("lambd", 0.5)
    return where(x > edge, x - bias, where(x < -edge, x + bias, 0.0))


def _prelu(c: Arguments) -> Tensor:
    x, slope = c.tensor(0), c.tensor(1)
    return where(x > 0.0, x, x * slope)


def _gelu(c: Arguments) -> Tensor:
    kind = c.attribute("approximate", "none")
    if kind not in ("none", "tanh"):
        raise Unsupported(f"approximate={kind!r}, expected 'none' or 'tanh'")
    return F.gelu(c.tensor(), kind)


def _swish(c: Arguments) -> Tensor:
    x = c.tensor()
    return x * ops.sigmoid(x * c.attribute("alpha", 1.0))


def _softmax(logarithm: bool) -> object:
    function = F.log_softmax if logarithm else F.softmax

    def run(c: Arguments) -> Tensor:
        x = c.tensor()
        if c.version >= 13:
            return function(x, axis_of(c.attribute("axis", -1), x.ndim))
        axis = axis_of(c.attribute("axis", 1), x.ndim)  # before, all axes from this one on were one
        lead = math.prod(int(d) for d in x.shape[:axis]) if axis != 1 else x.shape[0]
        return function(x.reshape(lead, -1), 1).reshape(x.shape)

    return run


def _dropout(c: Arguments) -> tuple[Tensor, ...]:
    x = c.tensor()
    ratio = float(c.known(1).reshape(())) if c.has(1) else float(c.attribute("ratio", 0.5))
    active = c.training or (c.has(2) and bool(c.known(2).reshape(())))
    if not c.wants(1):
        return (F.dropout(x, ratio, active),)
    ones = Tensor(np.ones((), x.dtype)).broadcast_to(x.shape)
    if not active:
        return x, ones != 0.0
    scale = F.dropout(ones, ratio)
    mask = scale != 0.0
    return where(mask, x * scale, 0.0), mask


OPERATORS: dict[str, Entry] = {
    "Relu": Entry(lambda c: ops.relu(c.tensor()) if c.tensor().dtype.kind == "f" else maximum(c.tensor(), 0)),
    "LeakyRelu": Entry(lambda c: F.leaky_relu(c.tensor(), c.attribute("alpha", 0.01))),
    "PRelu": Entry(_prelu),
    "Elu": Entry(_elu),
    "Selu": Entry(_selu),
    "Celu": Entry(_celu),
    "Mish": Entry(lambda c: c.tensor() * ops.tanh(F.softplus(c.tensor()))),
    "Softsign": Entry(lambda c: c.tensor() / (ops.abs(c.tensor()) + 1.0)),
    "ThresholdedRelu": Entry(_thresholded_relu),
    "Shrink": Entry(_shrink),
    "HardSigmoid": Entry(_hard_sigmoid),
    "HardSwish": Entry(lambda c: F.hardswish(c.tensor())),
    "Gelu": Entry(_gelu),
    "Swish": Entry(_swish),
    "Softmax": Entry(_softmax(False)),  # type: ignore[arg-type]
    "LogSoftmax": Entry(_softmax(True)),  # type: ignore[arg-type]
    "Dropout": Entry(_dropout, fixed=frozenset({1, 2})),
}
