"""ONNX's own tests of single operators, made in memory by the package ``onnx``.

Out: :class:`NodeCase` objects by operator, of those whose tensors are float32, uint8, int8, int32, int64 or bool.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

import smelt
from smelt.autograd import no_grad
from smelt.graph.graph import Graph
from smelt.graph.trace import Tracer
from smelt.nn import Module
from smelt.nn.calls import leaves
from smelt.onnx.reader.build import build
from smelt.onnx.reader.parse import read_bytes
from smelt.ops import Spec
from smelt.tensor import Tensor

REQUIRED = (
    *("Conv", "Gemm", "MatMul", "MaxPool", "AveragePool", "GlobalAveragePool", "BatchNormalization", "Relu"),
    *("LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softmax", "Clip", "Add", "Sub", "Mul", "Div"),
    *("Reshape", "Flatten", "Transpose", "Concat", "Slice", "Pad", "Squeeze", "Unsqueeze", "Identity", "ReduceMean"),
    *("Gelu", "LayerNormalization"),
)
"""Operators all of whose cases must pass: eager, compiled both ways, and as C where C can express them."""

SHAPED = {"Reshape", "Slice", "Pad", "Squeeze", "Unsqueeze", "ReduceMean"}
"""Operators whose inputs after the first are shapes, axes and the like: constants of a compiled network."""

RANDOM = {
    *("test_training_dropout_default", "test_training_dropout_default_mask"),
    *("test_training_dropout", "test_training_dropout_mask"),
}
"""Cases that expect the random numbers of NumPy's generator."""

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

    def split(self, inputs: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return which inputs are data, and which are constants of a network."""
        count = 1 if self.operator in SHAPED else len(inputs)
        return inputs[:count], inputs[count:]

    def run(self, compiled: bool) -> None:
        """Assert that the model gives what is expected."""
        model = self.load()
        for inputs, expected in self.sets:
            data, constants = self.split(inputs)
            rest = [Tensor(a) for a in constants]

            def call(*x: Any, rest: list[Tensor] = rest) -> Any:
                return model(*x, *rest)

            runs: list[Callable[..., Any]] = [smelt.compile(call)] if compiled else [call]
            if compiled and all(a.size for a in data):  # of an empty batch, a network of any size is compiled
                runs.append(_Bound(call).compile())
            for run in runs:
                self.check([t.numpy() for t in leaves(run(*data))], expected)

    def check(self, found: list[np.ndarray], expected: list[np.ndarray]) -> None:
        """Assert that results are what is expected."""
        assert len(found) == len(expected)
        for got, want in zip(found, expected, strict=True):
            assert (got.dtype, got.shape) == (want.dtype, want.shape)
            np.testing.assert_allclose(got, want, rtol=self.rtol, atol=self.atol)

    def graphs(self) -> list[Graph]:
        """Return the model traced for each set, for the compiler of C."""
        model, out = self.load(), []
        for inputs, _ in self.sets:
            data, constants = self.split(inputs)
            tracer = Tracer(self.operator)
            with no_grad(), tracer:
                given = [Tensor(tracer.input(f"x{i}", Spec(a.shape, a.dtype))) for i, a in enumerate(data)]
                result = model(*given, *map(Tensor, constants))
                out.append(tracer.finish([tracer.lift(t) for t in leaves(result)]))
        return out


class _Bound(Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def forward(self, *x: Any) -> Any:
        return self.function(*x)


@functools.cache
def node_cases() -> dict[str, list[NodeCase]]:
    """Return the cases of every operator that has some.

    A case whose name ends as another's does, but for ``_expanded``, is that operator written out in others.
    """
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the expected values are computed with overflows and the like
        tests = load_model_tests(kind="node")
    out: dict[str, list[NodeCase]] = {}
    operators: dict[str, str] = {}
    for test in tests:
        graph = test.model.graph
        kinds = {node.op_type for node in graph.node}
        types = {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)}
        if len(kinds) == 1 and "_expanded" not in test.name:
            operators[test.name] = kinds.copy().pop()
        kind = operators.get(test.name.split("_expanded")[0])
        if kind is not None and types <= _TYPES:
            sets = [([np.asarray(a) for a in x], [np.asarray(a) for a in y]) for x, y in test.data_sets]
            case = NodeCase(test.name, kind, test.model.SerializeToString(), sets, test.rtol, test.atol)
            out.setdefault(kind, []).append(case)
    return out
