"""Elementwise operators: arithmetic, comparison, logic, and functions of one number.

In: tensors that broadcast; types are checked by the primitives. Out: tensors; where all operands are shapes or
constants of integers, arrays.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from smelt import ops
from smelt.functions import maximum, minimum, where
from smelt.nn import functional as F
from smelt.onnx.reader.arguments import Arguments, Unsupported, Value, room
from smelt.onnx.reader.operators.entry import Entry
from smelt.onnx.reader.tensors import numpy_dtype
from smelt.tensor import Tensor


def _two(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Arguments], Tensor]:
    def run(c: Arguments) -> Tensor:
        a, b = c.tensor(0), c.tensor(1)
        if a.dtype != b.dtype:
            raise Unsupported(f"operands of types {a.dtype} and {b.dtype}, expected one type")
        return function(a, b)

    return run


def _one(function: Callable[[Tensor], Tensor]) -> Callable[[Arguments], Tensor]:
    return lambda c: function(c.tensor(0))


def _fold(function: Callable[[Any, Any], Tensor]) -> Callable[[Arguments], Tensor]:
    return lambda c: functools.reduce(function, c.tensors())


def on_arrays(function: Callable[..., Any]) -> Callable[[Arguments], np.ndarray]:
    """Return a function of known arrays whose result has the broadcast shape and keeps a batch's size an object."""

    def known(c: Arguments) -> np.ndarray:
        arrays = [c.known(i) for i in range(len(c))]
        room(np.broadcast_shapes(*(a.shape for a in arrays)))
        with np.errstate(all="ignore"):
            return np.asarray(function(*arrays))

    return known


def trunc(x: Tensor) -> Tensor:
    """Return each element without its digits after the point."""
    return ops.sign(x) * ops.floor(ops.abs(x))


def divide(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b; of integers the quotient rounded towards zero, as C has it."""
    if a.dtype.kind == "f":
        return a / b
    wide = b.astype("float64")
    quotient = trunc(a.astype("float64") / wide)
    if a.dtype.itemsize < 8:
        return quotient.astype(a.dtype)
    # float64 has not all the digits of int64: what the first quotient misses is divided again
    first = quotient.astype(a.dtype)
    rest = a - first * b
    second = trunc(rest.astype("float64") / wide).astype(a.dtype)
    return first + second


def _divide_known(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind == "f":
        return np.divide(a, b)
    if not np.all(b):
        raise Unsupported("a division by zero")
    quotient = np.abs(a) // np.abs(b)
    return np.where((a < 0) != (b < 0), -quotient, quotient).astype(a.dtype)


def _remainder(c: Arguments) -> Tensor:
    a, b = c.tensor(0), c.tensor(1)
    if a.dtype.kind == "f":
        left = where(ops.isfinite(b) | (b != b), a - trunc(a / b) * b, a + (a - a))
    else:
        left = a - divide(a, b) * b
    if c.attribute("fmod", 0):
        return left
    return where((left != 0) & _xor(left < 0, b < 0), left + b, left)  # of the sign of the divisor


def _remainder_known(c: Arguments) -> np.ndarray:
    if not np.all(c.known(1)):
        raise Unsupported("a division by zero")
    return on_arrays(np.fmod if c.attribute("fmod", 0) else np.mod)(c)


def _xor(a: Tensor, b: Tensor) -> Tensor:
    return (a | b) & ~(a & b)


def _power(c: Arguments) -> Tensor:
    x, y = c.tensor(0), c.tensor(1)
    if not isinstance(c.value(1), Tensor) and y.size == 1 and float(y.numpy().reshape(())) == 2.0 and x.ndim >= y.ndim:
        return x * x
    if x.dtype.kind == "f":
        return ops.pow(x, y.astype(x.dtype))
    return ops.round(ops.pow(x.astype("float64"), y.astype("float64"))).astype(x.dtype)


def _clip(c: Arguments) -> Tensor:
    x = c.tensor()
    if "min" in c.attributes or "max" in c.attributes or c.version < 11:
        low, high = (c.attributes.get(name) for name in ("min", "max"))
        x = x if low is None else maximum(x, float(low))
        return x if high is None else minimum(x, float(high))
    low, high = c.optional(1), c.optional(2)
    x = x if low is None else maximum(x, low.reshape(()))
    return x if high is None else minimum(x, high.reshape(()))


def _cast(c: Arguments) -> Tensor:
    return c.tensor().astype(numpy_dtype(c.attribute("to", 0), "Cast"))


def _cast_known(c: Arguments) -> Value:
    dtype, array = numpy_dtype(c.attribute("to", 0), "Cast"), c.known(0)
    if array.dtype.kind == "O" and dtype.kind in "iu":
        return array
    return array.astype(dtype) if array.dtype.kind != "O" else c.tensor().astype(dtype)


def _cast_like(c: Arguments) -> Value:
    value, dtype = c.value(0), np.dtype(c.value(1).dtype)
    if value.dtype == dtype or (value.dtype.kind == "O" and dtype == np.int64):
        return value
    return c.tensor(0).astype(dtype)


def _where(c: Arguments) -> Tensor:
    return where(c.tensor(0), c.tensor(1), c.tensor(2))


def _isinf(c: Arguments) -> Tensor:
    x = c.tensor()
    out = ~(ops.isfinite(x) | (x != x))
    out = out if c.attribute("detect_positive", 1) else out & (x < 0.0)
    return out if c.attribute("detect_negative", 1) else out & (x > 0.0)


def _ceil(x: Tensor) -> Tensor:
    return -ops.floor(-x)


OPERATORS: dict[str, Entry] = {
    "Add": Entry(_two(operator.add), on_arrays(np.add)),
    "Sub": Entry(_two(operator.sub), on_arrays(np.subtract)),
    "Mul": Entry(_two(operator.mul), on_arrays(np.multiply)),
    "Div": Entry(_two(divide), on_arrays(_divide_known)),
    "Mod": Entry(_remainder, _remainder_known),
    "Pow": Entry(_power, fixed=frozenset({1})),
    "Max": Entry(_fold(maximum), on_arrays(np.maximum)),
    "Min": Entry(_fold(minimum), on_arrays(np.minimum)),
    "Sum": Entry(_fold(operator.add)),
    "Mean": Entry(lambda c: functools.reduce(operator.add, c.tensors()) / float(len(c))),
    "Neg": Entry(_one(operator.neg), on_arrays(np.negative)),
    "Abs": Entry(_one(ops.abs), on_arrays(np.abs)),
    "Sign": Entry(_one(ops.sign)),
    "Floor": Entry(_one(ops.floor)),
    "Ceil": Entry(_one(_ceil)),
    "Round": Entry(_one(ops.round)),
    "Exp": Entry(_one(ops.exp)),
    "Log": Entry(_one(ops.log)),
    "Sqrt": Entry(_one(ops.sqrt)),
    "Reciprocal": Entry(_one(lambda x: 1.0 / x)),
    "Erf": Entry(_one(ops.erf)),
    "Tanh": Entry(_one(ops.tanh)),
    "Sigmoid": Entry(_one(ops.sigmoid)),
    "Softplus": Entry(_one(F.softplus)),
    "Clip": Entry(_clip, fixed=frozenset({1, 2})),
    "Cast": Entry(_cast, _cast_known),
    "CastLike": Entry(_cast_like, _cast_like),
    "Where": Entry(_where, on_arrays(np.where)),
    "Equal": Entry(_two(operator.eq), on_arrays(np.equal)),
    "Less": Entry(_two(operator.lt), on_arrays(np.less)),
    "LessOrEqual": Entry(_two(operator.le), on_arrays(np.less_equal)),
    "Greater": Entry(_two(operator.gt), on_arrays(np.greater)),
    "GreaterOrEqual": Entry(_two(operator.ge), on_arrays(np.greater_equal)),
    "And": Entry(_two(operator.and_), on_arrays(np.logical_and)),
    "Or": Entry(_two(operator.or_), on_arrays(np.logical_or)),
    "Xor": Entry(_two(_xor), on_arrays(np.logical_xor)),
    "Not": Entry(_one(operator.invert), on_arrays(np.logical_not)),
    "IsNaN": Entry(_one(lambda x: x != x)),
    "IsInf": Entry(_isinf),
}
