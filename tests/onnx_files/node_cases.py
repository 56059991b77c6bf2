"""ONNX's own tests of single operators, made in memory by the package ``onnx``.

Out: :class:`NodeCase` objects by operator, of those whose tensors are float32, uint8, int8, int32, int64 or bool.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

import smelt
from smelt.nn import Module
from smelt.onnx.reader.build import build
from smelt.onnx.reader.parse import read_bytes
from smelt.tensor import Tensor

REQUIRED = (
    *("Conv", "Gemm", "MatMul", "MaxPool", "AveragePool", "GlobalAveragePool", "BatchNormalization", "Relu"),
    *("LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softmax", "Clip", "Add", "Sub", "Mul", "Div"),
    *("Reshape", "Flatten", "Transpose", "Concat", "Slice", "Pad", "Squeeze", "Unsqueeze", "Identity", "ReduceMean"),
    *("Gelu", "LayerNormalization"),
)
"""Operators all of whose cases must pass, eager and compiled."""

SHAPED = {"Reshape", "Slice", "Pad", "Squeeze", "Unsqueeze", "ReduceMean"}
"""Operators whose inputs after the first are shapes, axes and the like: constants of a compiled network."""

_TYPES = {
    *(TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL),
}


@dataclass(frozen=True)
class NodeCase:
    """One call of one operator; ``sets`` holds pairs of inputs and expected outputs."""

    name: str
    operator: str
    model: bytes
    sets: list[tuple[list[np.ndarray], list[np.ndarray]]]
    rtol: float
    atol: float

    def load(self) -> Module:
        """Return the case's model."""
        return build(read_bytes(self.model))

    def run(self, compiled: bool) -> None:
        """Assert that the model gives what is expected."""
        model = self.load()
        for inputs, expected in self.sets:
            data = inputs[:1] if self.operator in SHAPED else inputs
            rest = [Tensor(a) for a in inputs[len(data) :]]

            def call(*x: Any, rest: list[Tensor] = rest) -> Any:
                return model(*x, *rest)

            got = smelt.compile(call)(*data) if compiled else call(*data)
            got = got if isinstance(got, tuple) else (got,)
            assert len(got) == len(expected)
            for g, want in zip(got, expected, strict=True):
                assert (g.dtype, g.shape) == (want.dtype, want.shape)
                np.testing.assert_allclose(g.numpy(), want, rtol=self.rtol, atol=self.atol)


@functools.cache
def node_cases() -> dict[str, list[NodeCase]]:
    """Return the cases of every operator that has some."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the expected values are computed with overflows and the like
        tests = load_model_tests(kind="node")
    out: dict[str, list[NodeCase]] = {}
    for test in tests:
        graph = test.model.graph
        kinds = {node.op_type for node in graph.node}
        types = {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)}
        if len(kinds) == 1 and types <= _TYPES:
            kind = kinds.pop()
            sets = [([np.asarray(a) for a in x], [np.asarray(a) for a in y]) for x, y in test.data_sets]
            case = NodeCase(test.name, kind, test.model.SerializeToString(), sets, test.rtol, test.atol)
            out.setdefault(kind, []).append(case)
    return out
