"""A loaded network: operators and layers wired as the file says, an ordinary module.

In: tensors, in the order of the file's inputs. Out: a tensor, or a tuple of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from smelt.errors import ShapeError, TraceError, at_user_line, without_user_line
from smelt.nn.module import Module, _join
from smelt.onnx.reader.arguments import Arguments, Value, as_tensor
from smelt.onnx.reader.operators import OPERATORS
from smelt.onnx.reader.parse import NodeSource, printable
from smelt.tensor import Tensor

PROBLEMS = (ValueError, TypeError, ArithmeticError, IndexError, KeyError, AttributeError, AssertionError)
"""What an operator may raise when a node asks for something that does not fit together."""


class Operator(Module):
    """One ONNX operation for which there is no layer; its class is named as the operation is.

    Parameters
    ----------
    node : NodeSource
        The operation.
    version : int
        Of the operator set.
    bound : dict
        Inputs that are always the same, by position: weights, or arrays.
    wanted : sequence of bool
        Which of its outputs are used.
    """

    def __init__(self, node: NodeSource, version: int, bound: dict[int, Value], wanted: Sequence[bool]) -> None:
        self.attributes = node.attributes
        self.version = version
        self._outputs = list(wanted)
        self._training = False
        self._constants = {i: v for i, v in bound.items() if isinstance(v, np.ndarray)}
        self._weights = {i: f"input{i}" for i, v in bound.items() if isinstance(v, Tensor)}
        for i, name in self._weights.items():
            setattr(self, name, bound[i])

    @property
    def weights(self) -> dict[int, str]:
        """Attributes that hold weights, by the position of the input they stand for."""
        return self._weights

    @property
    def outputs(self) -> int:
        """How many of its outputs are used."""
        return sum(self._outputs)

    @property
    def constants(self) -> dict[int, np.ndarray]:
        """Inputs that never change, by position."""
        return self._constants

    def forward(self, values: Sequence[Value | None]) -> tuple[Value | None, ...]:
        """Return the results of the operation, of inputs of which those that are bound are None."""
        entry = OPERATORS[type(self).__name__]
        given = list(values)
        for i, array in self._constants.items():
            given[i] = array
        for i, name in self._weights.items():
            given[i] = getattr(self, name)
        c = Arguments(given, self.attributes, self.version, self._outputs, self.training, self._weights)
        arrays = entry.known is not None and all(v is None or isinstance(v, np.ndarray) for v in given)
        result = entry.known(c) if arrays and entry.known else entry.run(c)
        return result if isinstance(result, tuple) else (result,)

    def __repr__(self) -> str:
        shown = ", ".join(f"{k}={_short(v)}" for k, v in self.attributes.items())
        return f"{type(self).__name__}({shown})"


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    text = ascii(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


CLASSES: dict[str, type[Operator]] = {
    kind: type(kind, (Operator,), {"__doc__": f"ONNX's {kind}."}) for kind in OPERATORS
}


@dataclass(eq=False)
class Step:
    """One module with what it reads (None: nothing, or bound) and what its results are called."""

    path: str
    module: Module
    label: str
    inputs: list[str | None]
    outputs: list[str]
    last_uses: tuple[str, ...] = ()

    def run(self, values: dict[str, Value]) -> None:
        """Compute the step's results and put them among the values."""
        given = [values[name] if name else None for name in self.inputs]
        results: tuple[Value | None, ...]
        if isinstance(self.module, Operator):
            results = self.module(given)
        else:
            x = given[0]
            results = (self.module(x if isinstance(x, Tensor) else as_tensor(np.asarray(x))),)
        for name, value in zip(self.outputs, results, strict=False):
            if name and value is not None:
                values[name] = value


class OnnxModel(Module):
    """A network read from an ONNX file.

    It runs, is compiled, traced, summarized and trained as any module. Parameters and buffers have the names of the
    file's weights; layers are named by their weights, or by their nodes.

    Attributes
    ----------
    inputs, outputs : list of str
        Names in the file, in order.
    input_shapes : dict of str to tuple of int
        Shape of one sample of each input, by name; empty where the file does not say all.
    input_dtypes : list of numpy.dtype
        Type of the elements of each input, in order.
    batch : int or None
        The batch size that the file declares, where its operations work for no other; None where it is free.
    """

    def __init__(
        self,
        steps: list[Step],
        inputs: list[str],
        outputs: list[str],
        names: dict[str, str],
        input_shapes: dict[str, tuple[int, ...]] | None = None,
        batch: int | None = None,
        input_dtypes: list[np.dtype] | None = None,
    ) -> None:
        self.inputs, self.outputs, self.batch = inputs, outputs, batch
        self.input_shapes = input_shapes or {}
        self.input_dtypes = input_dtypes or [np.dtype(np.float32)] * len(inputs)
        self._steps, self._names = steps, names
        self._forget()

    def _forget(self) -> None:
        """Note after which step each value is not needed any more."""
        last: dict[str, Step] = {}
        for step in self._steps:
            for name in step.inputs:
                if name:
                    last[name] = step
        for step in self._steps:
            names = {n for n in step.inputs if n and last[n] is step and n not in self.outputs}
            step.last_uses = tuple(sorted(names))

    def forward(self, *inputs: Any) -> Any:
        """Return the file's outputs: one tensor, or a tuple of several."""
        if len(inputs) != len(self.inputs):
            expected = ", ".join(printable(n) for n in self.inputs)
            raise ShapeError(at_user_line(f"expected {len(self.inputs)} inputs ({expected}), received {len(inputs)}"))
        values: dict[str, Value] = dict(zip(self.inputs, (_tensor(x) for x in inputs), strict=True))
        for step in self._steps:
            try:
                step.run(values)
            except TraceError:
                raise
            except PROBLEMS as e:
                raise ShapeError(at_user_line(f"{step.label}: {why(e)}")) from None
            for name in step.last_uses:
                values.pop(name, None)
        results = tuple(_tensor(values[name]) for name in self.outputs)
        return results[0] if len(results) == 1 else results

    def _members(self) -> Iterator[tuple[str, Any]]:
        return ((step.path, step.module) for step in self._steps)

    def _tensors(self, prefix: str) -> Iterator[tuple[str, Tensor]]:
        seen: set[int] = set()
        for step in self._steps:
            for name, tensor in step.module._members():
                if isinstance(tensor, Tensor) and id(tensor) not in seen:
                    seen.add(id(tensor))
                    path = _join(step.path, name)
                    full = _join(prefix, self._names.get(path, path))
                    if not tensor.name or full.endswith(f".{tensor.name}"):
                        tensor.name = full
                    yield full, tensor


def why(error: Exception) -> str:
    """Return what an operator's error says, without the line of code."""
    return without_user_line(str(error)) or type(error).__name__


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else as_tensor(np.asarray(value))
