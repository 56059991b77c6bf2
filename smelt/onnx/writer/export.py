"""``smelt.export.onnx``: a module and the shape of one sample in; an ONNX file out.

The module is traced once, in evaluation mode. Each call of a layer that ONNX knows becomes that operation; the rest is
written primitive by primitive. The file is checked by ``onnx.checker`` before it is written, whole or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from smelt._version import __version__
from smelt.autograd import no_grad
from smelt.errors import ExportError, ShapeError, at_user_line
from smelt.files import PathLike, write_atomic
from smelt.graph.graph import Graph, Node
from smelt.nn.calls import Call, CallTracer, each_dtype, leaves
from smelt.nn.module import Module
from smelt.onnx.names import Names
from smelt.onnx.package import require_onnx
from smelt.onnx.reader.model import OnnxModel
from smelt.ops.primitive import Rows, Spec
from smelt.precision import autocast
from smelt.tensor import Tensor

if TYPE_CHECKING:
    from onnx import ModelProto

    from smelt.onnx.writer.emitter import Emitter

OPSETS = (26, 27, 28)
"""Versions of the operator set that are written; the operations used are the same in all of them."""
_TRACED_BATCH = 7  # any size: a prime is never mistaken for another axis
_LARGEST = (1 << 31) - 1


def export(
    model: Module,
    path: PathLike,
    input_shape: Sequence[int] | Mapping[str, Sequence[int]],
    *,
    opset: int = OPSETS[0],
    batch: int | None = None,
    dtype: str | Sequence[str] = "float32",
) -> None:
    """Write a network as an ONNX file.

    Operations are named by their layers and weights as in ``state_dict``; the batch size is free. The network is traced
    in evaluation mode, and left as it was.

    Parameters
    ----------
    model : Module
        Any module: library layers become the operations ONNX has for them, everything else is written as the
        primitives it is made of.
    path : path
        Where to write; the old file stays until the new one is complete.
    input_shape : sequence of int, or mapping of str to such
        Shape of one sample, without the batch. A model of several inputs needs their names and shapes, in order.
    opset : {26, 27, 28}, default 26
        Version of ONNX's operator set. 26 is the newest that ONNX Runtime 1.31 reads.
    batch : int, optional
        A fixed batch size, for a network that does not work with any other; free by default.
    dtype : str or sequence of str, default "float32"
        Type of the inputs' elements: of all, or of one after the other.

    Raises
    ------
    ExportError
        When something in the network cannot be said in ONNX: the line names the layer and the operation.
    ShapeError
        When the model cannot take such an input.
    FileError
        When the file cannot be written.
    ImportError
        When the package ``onnx`` is not installed.

    Examples
    --------
    >>> import os, tempfile, onnx, smelt
    >>> from smelt import nn
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "small.onnx")
    ...     smelt.export.onnx(model, path, (4,))
    ...     graph = onnx.load(path).graph
    >>> [(node.name, node.op_type) for node in graph.node], [w.name for w in graph.initializer]
    ([('0', 'Gemm'), ('1', 'Relu')], ['0.weight', '0.bias'])
    """
    write_atomic(path, to_bytes(model, input_shape, opset=opset, batch=batch, dtype=dtype))


def to_bytes(
    model: Module,
    input_shape: Sequence[int] | Mapping[str, Sequence[int]],
    *,
    opset: int = OPSETS[0],
    batch: int | None = None,
    dtype: str | Sequence[str] = "float32",
) -> bytes:
    """Return the file that :func:`export` writes."""
    onnx = require_onnx()
    if opset not in OPSETS:
        raise ExportError(at_user_line(f"onnx: opset: expected one of {OPSETS}, received {opset!r}"))
    shapes = dict(input_shape) if isinstance(input_shape, Mapping) else {"input": tuple(input_shape)}
    tracer = CallTracer("onnx")
    outputs = _trace(model, tracer, shapes, batch, each_dtype(dtype, list(shapes)))
    graph = tracer.finish(outputs)
    _check_outputs(graph, batch)
    proto = _write(model, tracer, graph, list(shapes), opset)
    if graph.updates:
        changed = next(iter(graph.updates)).name
        raise ExportError(at_user_line(f"onnx: the model changes {changed} when it runs, which a file cannot"))
    _check_size(proto)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as e:
        raise ExportError(at_user_line(f"onnx: onnx.checker refuses the file: {' '.join(str(e).split())}")) from None
    return bytes(proto.SerializeToString(deterministic=True))


def _trace(
    model: Module, tracer: CallTracer, shapes: Mapping[str, Sequence[int]], batch: int | None, dtypes: list[np.dtype]
) -> list[Node]:
    rows = Rows(0) if batch is None else None
    full = {name: (_TRACED_BATCH if batch is None else batch, *shape) for name, shape in shapes.items()}
    if not shapes or not all(isinstance(d, int) and d > 0 for shape in full.values() for d in shape):
        raise ShapeError(at_user_line(f"onnx: expected sizes of at least 1, received {dict(shapes)}"))
    with no_grad(), autocast("f32"), tracer.watching(model):
        pairs = zip(full.items(), dtypes, strict=True)
        result = model(*(Tensor(tracer.input(name, Spec(s, dtype, rows))) for (name, s), dtype in pairs))
        return [tracer.lift(t) for t in leaves(result)]


def _check_outputs(graph: Graph, batch: int | None) -> None:
    if not graph.outputs:
        raise ExportError(at_user_line("onnx: the model returns no tensor, expected at least one"))
    if graph.exact and batch is None:
        raise ExportError(
            at_user_line(f"onnx: the batch size cannot be free: {graph.exact[0]}; batch=1 writes a file for one sample")
        )


def _write(model: Module, tracer: CallTracer, graph: Graph, names: list[str], opset: int) -> ModelProto:
    from onnx import helper

    from smelt.onnx.writer.emitter import Emitter, value_info

    tensors = _weight_names(model, tracer)
    for name in names:
        if not isinstance(name, str) or not name or name in tensors.values():
            raise ExportError(at_user_line(f"onnx: input {name!r}: expected a name that no weight has"))
    count = len(graph.outputs)
    wishes = ["output"] if count == 1 else [f"output{i}" for i in range(count)]
    taken = Names((*names, *tensors.values()))
    results = [taken.unique(wish) for wish in (model.outputs if isinstance(model, OnnxModel) else wishes)]
    e = Emitter(graph.inputs, names, [*tensors.values(), *results])
    _emit(e, tracer, graph, tensors)
    e.outputs(graph.outputs, results)
    proto = helper.make_graph(
        e.nodes,
        type(model).__name__,
        [value_info(name, n.spec) for name, n in zip(names, graph.inputs, strict=True)],
        [value_info(name, n.spec) for name, n in zip(results, graph.outputs, strict=True)],
        list(e.weights.values()),
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(
        proto,
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="smelt",
        producer_version=__version__,
    )


def _weight_names(model: Module, tracer: CallTracer) -> dict[int, str]:
    """Return names by tensor: those of ``state_dict``, and for tensors from elsewhere their own."""
    names = {id(t): name for name, t in model._tensors("")}
    free = Names(names.values())
    for tensor, node in tracer.state.values():
        if id(tensor) not in names:
            names[id(tensor)] = free.unique(node.name)
    return names


def _emit(e: Emitter, tracer: CallTracer, graph: Graph, tensors: Mapping[int, str]) -> None:
    """Write every node the outputs depend on, inputs before users: whole layers where ONNX has a word for them."""
    from smelt.onnx.writer.layers import LAYERS, Layer, has_word
    from smelt.onnx.writer.primitives import Inexpressible, write_primitive

    whole = {id(call.results[0]): call for call in reversed(tracer.calls) if has_word(call)}
    states = {id(node): tensor for tensor, node in tracer.state.values()}
    stack = list(reversed(graph.outputs))
    while stack:
        node = stack[-1]
        call = whole.get(id(node))
        missing = [n for n in (call.inputs if call else node.inputs) if not e.known(n)]
        if missing and not e.known(node):
            stack += reversed(missing)
            continue
        stack.pop()
        if e.known(node):
            continue
        maker = call or tracer.maker.get(id(node))
        e.scope = maker.path if maker else ""
        e.alone = call is None and maker is not None and len(maker.nodes) == 1
        if call is not None:
            name = LAYERS[type(call.module)](Layer(e, call, tensors))
        elif id(node) in states:
            tensor = states[id(node)]
            name = e.weight(tensors[id(tensor)], tensor.numpy())
        elif node.value is not None:
            name = e.constant(node.value, node.dtype)
        else:
            try:
                name = write_primitive(e, node)
            except Inexpressible as why:
                raise ExportError(_blame(node, maker, str(why))) from None
        e.bind(node, name)


def _blame(node: Node, maker: Call | None, why: str) -> str:
    layer = f"layer {maker.path} ({type(maker.module).__name__}): " if maker and maker.path else ""
    line = f"  [{node.line}]" if node.line else ""
    return f"onnx: {layer}{node.opname} {node.spec} cannot be expressed: {why}{line}"


def _check_size(proto: Any) -> None:
    size = sum(len(t.raw_data) for t in proto.graph.initializer)
    if size > _LARGEST - (64 << 20):
        raise ExportError(at_user_line(f"onnx: weights of {size:,} bytes, expected less than 2 GiB in one file"))
