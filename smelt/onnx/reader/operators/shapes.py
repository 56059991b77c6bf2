"""Operators that make values from shapes and attributes.

In: a tensor of which only the shape is read, or numbers. Out: arrays that are known without running the network.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from smelt.onnx.reader.arguments import Arguments, Unsupported, Value, as_tensor, as_values, follows_batch, room
from smelt.onnx.reader.operators.entry import Entry


def _shape(c: Arguments) -> np.ndarray:
    sizes: list[Any] = list(c.value(0).shape)
    return as_values(sizes[c.attribute("start", 0) : c.attributes.get("end")])


def _size(c: Arguments) -> np.ndarray:
    return np.array(math.prod(int(d) for d in c.value(0).shape), np.int64)


def _constant(c: Arguments) -> np.ndarray:
    for name, dtype in (("value_float", "float32"), ("value_floats", "float32"), ("value_int", "int64"),
                        ("value_ints", "int64")):  # fmt: skip
        if name in c.attributes:
            return np.asarray(c.attributes[name], dtype)
    value = c.attributes.get("value")
    if not isinstance(value, np.ndarray):
        raise Unsupported("a constant that is no tensor and no number")
    return value


def _constant_of_shape(c: Arguments) -> Value:
    value = c.attributes.get("value", np.zeros(1, np.float32))
    if not isinstance(value, np.ndarray) or value.size != 1:
        raise Unsupported("a value that is not a tensor of one element")
    sizes = c.ints(0)
    if follows_batch(sizes):
        return as_tensor(value.reshape(())).broadcast_to(tuple(sizes))
    return np.full(room(sizes), value.reshape(()))


def _range(c: Arguments) -> np.ndarray:
    start, limit, step = (c.known(i).reshape(()).item() for i in range(3))
    if not step or not all(math.isfinite(v) for v in (start, limit, step)):
        raise Unsupported(f"a range from {start} to {limit} in steps of {step}")
    count = max(math.ceil((limit - start) / step), 0)
    room([count])
    dtype = c.known(0).dtype
    return (start + np.arange(count) * step).astype(np.int64 if dtype.kind == "O" else dtype)


OPERATORS: dict[str, Entry] = {
    "Shape": Entry(_shape, _shape),
    "Size": Entry(_size, _size),
    "Constant": Entry(_constant, _constant),
    "ConstantOfShape": Entry(_constant_of_shape, _constant_of_shape),
    "Range": Entry(_range, _range),
}
