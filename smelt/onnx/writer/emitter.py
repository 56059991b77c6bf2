"""The ONNX graph being written: operations, weights and constants by name in; protobuf messages out.

Operations are named by the layer that made them, weights as in ``state_dict``. The batch's axis has no size: where a
shape is needed as a value it is read from the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import helper, numpy_helper
from onnx.onnx_ml_pb2 import NodeProto, TensorProto, ValueInfoProto

from smelt.graph.graph import Node
from smelt.onnx.names import Names
from smelt.ops.primitive import Spec

BATCH = "batch"
"""Name of the free size of the batch's axis."""


def element_type(dtype: np.dtype) -> int:
    """Return ONNX's number of an element type."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


class Emitter:
    """Collects the nodes of one ONNX graph.

    ``scope`` is the layer that is being written, and ``alone`` says that it has one primitive, named as the layer is.

    Parameters
    ----------
    inputs : list of Node
        Of the traced graph; the first axis of the first is the batch.
    names : sequence of str
        Of the inputs.
    reserved : sequence of str
        Names that are taken: of weights and outputs.
    """

    def __init__(self, inputs: list[Node], names: Sequence[str], reserved: Sequence[str]) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, TensorProto] = {}
        self.scope = ""
        self.alone = False
        self._names = Names((*names, *reserved))
        self._node_names: set[str] = set()
        self._values: dict[int, str] = {id(n): name for n, name in zip(inputs, names, strict=True)}
        self._batch_of = (names[0], inputs[0].spec) if inputs else ("", None)
        self._batches: dict[int, str] = {}

    # --- values ---------------------------------------------------------------------------------------------------

    def known(self, node: Node) -> bool:
        """Return whether the value of a traced node has been written."""
        return id(node) in self._values

    def value(self, node: Node) -> str:
        """Return the name of a traced node's value."""
        return self._values[id(node)]

    def bind(self, node: Node, name: str) -> None:
        """Note that ``name`` holds the value of a traced node."""
        self._values[id(node)] = name

    def weight(self, name: str, array: np.ndarray) -> str:
        """Return the name of an initializer, which is written once."""
        if name not in self.weights:
            self.weights[name] = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        return name

    def constant(self, value: Any, dtype: Any = "float32", label: str = "constant") -> str:
        """Return the name of a value that never changes and is not trained."""
        array = np.asarray(value, dtype)
        tensor = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape))
        return self._append("Constant", (), label, {"value": tensor})

    def ints(self, values: Sequence[int], label: str = "constant") -> str:
        """Return the name of a constant of int64."""
        return self.constant(list(values), "int64", label)

    def batch(self, per: int = 1) -> str:
        """Return the name of an int64[1] that holds ``per`` times the batch size."""
        if per not in self._batches:
            name, spec = self._batch_of
            assert spec is not None and spec.rows is not None
            axis = spec.rows.axis
            size = self._append("Shape", (name,), "batch", {"start": axis, "end": axis + 1})
            self._batches[per] = size if per == 1 else self._append("Mul", (size, self.ints([per])), "rows", {})
        return self._batches[per]

    def sizes(self, spec: Spec) -> str:
        """Return the name of an int64 vector that holds the shape of a value."""
        if spec.rows is None:
            return self.ints(spec.shape, "shape")
        axis = spec.rows.axis
        parts = [self.ints(spec.shape[:axis])] if axis else []
        parts.append(self.batch(spec.rows.per))
        parts += [self.ints(spec.shape[axis + 1 :])] if axis + 1 < len(spec.shape) else []
        return parts[0] if len(parts) == 1 else self._append("Concat", parts, "shape", {"axis": 0})

    # --- operations -----------------------------------------------------------------------------------------------

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append an operation with one result; return the result's name. Attributes that are None are left out."""
        return self._append(kind, inputs, "" if self.alone and self.scope else kind, attributes)

    def last(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append the operation that gives a layer's result: it is named as the layer is."""
        return self._append(kind, inputs, "" if self.scope else kind, attributes)

    def _append(self, kind: str, inputs: Sequence[str], label: str, attributes: dict[str, Any]) -> str:
        name = self._names.unique("/".join(part for part in (self.scope, label) if part))
        given = {k: v for k, v in attributes.items() if v is not None}
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, **given))
        return name

    def outputs(self, nodes: Sequence[Node], names: Sequence[str]) -> None:
        """Give the values of traced nodes the names of the graph's outputs."""
        made = {node.output[0]: node for node in self.nodes}
        self.scope = ""
        for node, name in zip(nodes, names, strict=True):
            value = self.value(node)
            if value not in made or made[value].output[0] != value:  # an input, a weight, or an output already
                source = made[value].output[0] if value in made else value
                self.nodes.append(helper.make_node("Identity", [source], [name], name))
                continue
            made[value].output[0] = name
            for user in self.nodes:
                user.input[:] = [name if i == value else i for i in user.input]


def value_info(name: str, spec: Spec) -> ValueInfoProto:
    """Return the description of a graph's input or output; the batch's axis is free."""
    sizes: list[int | str] = list(spec.shape)
    if spec.rows is not None:
        sizes[spec.rows.axis] = BATCH if spec.rows.per == 1 else f"{spec.rows.per}*{BATCH}"
    return helper.make_tensor_value_info(name, element_type(spec.dtype), sizes)
