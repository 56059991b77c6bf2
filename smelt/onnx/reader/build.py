"""From a checked file to a module: constants computed, weights made parameters, the rest wired.

In: a :class:`~smelt.onnx.reader.parse.Source`. Out: an :class:`~smelt.onnx.reader.model.OnnxModel` in evaluation mode.
What depends only on constants is computed here, within limits; a weight of at least one axis becomes a Parameter, but
for running statistics, which become buffers, and bounds, exponents and the like, which stay constants. Where the file
says the shapes of its inputs, the network is traced once, so that what does not fit together is found now.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from smelt.autograd import no_grad
from smelt.errors import FileError, ShapeError
from smelt.graph.graph import Node
from smelt.graph.trace import Tracer
from smelt.onnx.names import Names
from smelt.onnx.reader.arguments import MAX_KNOWN, DependsOnData, Value
from smelt.onnx.reader.layers import use_layers
from smelt.onnx.reader.model import CLASSES, PROBLEMS, OnnxModel, Operator, Step, why
from smelt.onnx.reader.operators import OPERATORS
from smelt.onnx.reader.parse import NodeSource, Source
from smelt.ops.primitive import Primitive, Rows, Spec
from smelt.tensor import Parameter, Tensor

MAX_FOLDED_BYTES = 32 << 20
"""Most bytes of constants that are computed while loading."""
MAX_ELEMENTS = 1 << 31
"""Most elements of a value at the declared shapes."""
MAX_OPERATIONS = 10_000
"""Most primitives a network may consist of."""
_TRACED_BATCH = 7


def build(source: Source) -> OnnxModel:
    """Return the network of a file.

    Raises
    ------
    FileError
        When a node asks for something that Smelt cannot do, or that does not fit together: the line names the node.
    """
    builder = _Builder(source)
    for node in source.nodes:
        builder.add(node)
    builder.add_outputs()
    specs = builder.trace()
    batch = builder.tied_batch(specs)
    names = use_layers(builder.steps, builder.names, specs, source.outputs)
    shapes = {name: (shape or ())[1:] for name, shape in zip(source.inputs, source.shapes, strict=True)}
    known = {name: tuple(d for d in shape if d is not None) for name, shape in shapes.items()}
    known = known if known == shapes else {}
    model = OnnxModel(builder.steps, source.inputs, source.outputs, names, known, batch, source.dtypes)
    model.eval()
    return model


class _Limited(Tracer):
    """A tracer that stops when a network grows beyond what can be meant."""

    def __init__(self, most_elements: int, done: int = 0) -> None:
        super().__init__("onnx")
        self.most_elements, self.done = most_elements, done

    def check(self, spec: Spec) -> None:
        """Refuse a value that is too large."""
        if math.prod(spec.shape) > self.most_elements:
            raise ShapeError(f"a value of shape {spec.shape}, expected at most {self.most_elements:,} elements")

    def apply(self, op: Primitive, inputs: tuple[Tensor, ...], attrs: dict[str, Any], spec: Spec) -> Node:
        self.done += 1
        if self.done > MAX_OPERATIONS:
            raise ShapeError(f"it makes more than {MAX_OPERATIONS:,} operations of the network")
        self.check(spec)
        return super().apply(op, inputs, attrs, spec)


class _Builder:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.constants: dict[str, np.ndarray] = {}
        self.weights: dict[str, Tensor] = {}
        self.steps: list[Step] = []
        self.names: dict[str, str] = {}  # of weights, by the path of the module that has them
        self._used = {*source.outputs, *(name for node in source.nodes for name in node.inputs)}
        self._paths = Names()
        self._folded_bytes = 0
        self._folded_operations = 0
        self._sort_weights()

    def _sort_weights(self) -> None:
        """Decide which of the file's weights are trained, kept, or constant."""
        roles: dict[str, set[str]] = {name: set() for name in self.source.weights}
        for node in self.source.nodes:
            entry = OPERATORS[node.kind]
            for i, name in enumerate(node.inputs):
                if name in roles:
                    roles[name].add("fixed" if i in entry.fixed else "buffer" if i in entry.buffers else "trained")
        for name, array in self.source.weights.items():
            if array.dtype.kind != "f" or array.ndim == 0 or roles[name] == {"fixed"}:
                self.constants[name] = array
            else:
                self.weights[name] = Tensor(array) if roles[name] == {"buffer"} else Parameter(array)

    def add(self, node: NodeSource) -> None:
        """Turn a node into a step, or into constants."""
        if node.kind == "Identity" and node.inputs and node.inputs[0] in self.weights:
            self.weights[node.outputs[0]] = self.weights[node.inputs[0]]
            return
        known: dict[str, Value] = {**self._pick(self.constants, node), **self._pick(self.weights, node)}
        bound = {i: known[name] for i, name in enumerate(node.inputs) if name in known}
        module = self._operator(node, bound)
        inputs = [name if name and i not in bound else None for i, name in enumerate(node.inputs)]
        if not any(inputs) and all(isinstance(v, np.ndarray) for v in bound.values()):
            self._fold(node, module)
        else:
            self._append(node, module, inputs)

    @staticmethod
    def _pick(values: dict[str, Any], node: NodeSource) -> dict[str, Any]:
        return {name: values[name] for name in node.inputs if name in values}

    def _append(self, node: NodeSource, module: Operator, inputs: list[str | None]) -> None:
        path = self._paths.unique(node.name)
        for i, attribute in module.weights.items():
            self.names[f"{path}.{attribute}"] = node.inputs[i]
        self.steps.append(Step(path, module, str(node), inputs, node.outputs))

    def add_outputs(self) -> None:
        """Let a step make each output that is a constant or a weight."""
        made = {*self.source.inputs, *(name for step in self.steps for name in step.outputs)}
        for name in self.source.outputs:
            if name not in made:
                value = self.constants[name] if name in self.constants else self.weights[name]
                node = NodeSource("Identity", name, [name], [name])
                self._append(node, self._operator(node, {0: value}), [None])

    def _operator(self, node: NodeSource, bound: dict[int, Value]) -> Operator:
        wanted = [name in self._used and bool(name) for name in node.outputs]
        return CLASSES[node.kind](node, self.source.opset, bound, wanted)

    def _error(self, node: NodeSource | Step, problem: str) -> FileError:
        label = node.label if isinstance(node, Step) else str(node)
        return FileError(f"{self.source.where}: {label}: {problem}")

    def _fold(self, node: NodeSource, module: Operator) -> None:
        nothing = [None] * len(node.inputs)
        try:
            if OPERATORS[node.kind].known is None:  # computed by primitives: first look how large it gets
                tracer = _Limited(MAX_KNOWN, self._folded_operations)
                with tracer:
                    module(nothing)
                self._folded_operations = tracer.done
            with no_grad():
                results = module(nothing)
        except PROBLEMS as e:
            raise self._error(node, why(e)) from None
        for name, value in zip(node.outputs, results, strict=False):
            if name and value is not None:
                self.constants[name] = value.numpy() if isinstance(value, Tensor) else value
                self._folded_bytes += self.constants[name].nbytes
        if self._folded_bytes > MAX_FOLDED_BYTES:
            raise self._error(node, f"constants of more than {MAX_FOLDED_BYTES:,} bytes are computed before it")

    # --- shapes ---------------------------------------------------------------------------------------------------

    def trace(self) -> dict[str, Spec]:
        """Return shape and type of every value, as far as the file's declarations tell."""
        specs: dict[str, Spec] = {}
        for name, shape, dtype in zip(self.source.inputs, self.source.shapes, self.source.dtypes, strict=True):
            if shape is None or None in shape[1:]:
                return {}
            free = bool(shape) and shape[0] is None
            full = tuple(_TRACED_BATCH if d is None else d for d in shape)
            specs[name] = Spec(full, dtype, Rows(0) if free else None)
            if math.prod(full) > MAX_ELEMENTS:
                shown = f"input {name!r} of shape {full}"
                raise FileError(f"{self.source.where}: {shown}, expected at most {MAX_ELEMENTS:,} elements")
        return self._trace(specs)

    def tied_batch(self, specs: dict[str, Spec]) -> int | None:
        """Return the batch size that the file declares, where its own operations work for no other."""
        declared = {specs[name].shape[:1] for name in self.source.inputs if name in specs}
        if len(declared) != 1 or declared == {()} or all(s[0] is None for s in self.source.shapes if s):
            return None
        (size,) = declared.pop()
        try:
            self._trace({n: Spec((size + 1, *specs[n].shape[1:]), specs[n].dtype) for n in self.source.inputs})
        except FileError:
            return size
        return None

    def _trace(self, specs: dict[str, Spec]) -> dict[str, Spec]:
        """Return the specs of the inputs and of what is made of them."""
        tracer = _Limited(MAX_ELEMENTS)
        with no_grad(), tracer:
            values: dict[str, Value] = {name: Tensor(tracer.input(name, spec)) for name, spec in specs.items()}
            for step in self.steps:
                try:
                    step.run(values)
                except DependsOnData:
                    break
                except PROBLEMS as e:
                    raise self._error(step, why(e)) from None
                for name in step.outputs:
                    value = values.get(name)
                    if isinstance(value, Tensor):
                        specs[name] = value._spec
        return specs
