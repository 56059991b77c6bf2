"""An ONNX file as plain values: bytes in; a checked :class:`Source` of nodes, weights and attributes out.

Nothing is believed: structure is counted before it is parsed, sizes are compared with the bytes that are there, every
value has one producer that comes before its users, and ``onnx.checker`` has the last word.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from smelt.data.errors import DataError
from smelt.data.limits import open_regular
from smelt.errors import FileError
from smelt.onnx.package import require_onnx
from smelt.onnx.reader.operators import OPERATORS
from smelt.onnx.reader.tensors import Beside, numpy_dtype, read_tensor
from smelt.onnx.reader.wire import check_fields

OLDEST, NEWEST = 7, 28
"""Versions of the operator set that are understood; of older ones, what had not changed by then."""
MAX_BYTES = (1 << 31) - 1
"""Largest file: protobuf's own limit. Weights beside it may be larger."""


@dataclass
class NodeSource:
    """One operation as the file has it: ``attributes`` are numbers, texts, lists of them, or arrays."""

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"node {printable(self.name or self.outputs[0])} ({printable(self.kind)})"


@dataclass
class Source:
    """A checked file. ``shapes`` has, for every input, its sizes (None where free) or None when nothing is said."""

    where: str
    opset: int
    inputs: list[str]
    shapes: list[tuple[int | None, ...] | None]
    dtypes: list[np.dtype]
    outputs: list[str]
    weights: dict[str, np.ndarray]
    nodes: list[NodeSource]


def printable(text: str) -> str:
    r"""Return a name from a file for a message: in quotes, escaped, not longer than a line.

    Examples
    --------
    >>> print(printable("a\nb"))
    'a\nb'
    """
    shown = ascii(text) if not text.isprintable() else repr(text)
    return shown if len(shown) <= 80 else f"{shown[:76]}...{shown[0]}"


def read_file(path: str | os.PathLike[str]) -> Source:
    """Read and check a file.

    Raises
    ------
    FileError
        One line that says what is wrong with it, and what was expected.
    """
    where = f"{os.fspath(path)!r}"
    try:
        file, size = open_regular(Path(path))
    except DataError as e:
        raise FileError(str(e).replace("a data file", "an ONNX file")) from None
    with file:
        if size > MAX_BYTES:
            raise FileError(f"{where}: {size:,} bytes, expected an ONNX file of at most {MAX_BYTES:,}")
        try:
            data = file.read(size)
        except OSError as e:
            raise FileError(f"{where}: cannot be read: {e.strerror or e}") from None
    return read_bytes(data, where, Path(path).parent)


def read_bytes(data: bytes, where: str = "ONNX", folder: Path | None = None) -> Source:
    """Check the bytes of a file; ``folder`` is where its external data may lie.

    Raises
    ------
    FileError
        As :func:`read_file`.
    """
    onnx = require_onnx()
    from google.protobuf.message import DecodeError

    try:
        check_fields(data, onnx.ModelProto.DESCRIPTOR)
        proto = onnx.ModelProto.FromString(data)
    except (ValueError, DecodeError) as e:
        raise FileError(f"{where}: damaged or not an ONNX file: {_one_line(e)}") from None
    try:
        source = _source(proto, where, Beside(folder))
        onnx.checker.check_model(proto)
    except (UnicodeDecodeError, onnx.checker.ValidationError) as e:
        raise FileError(f"{where}: damaged or not an ONNX file: {_one_line(e)}") from None
    return source


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)[:300]


def _source(proto: Any, where: str, beside: Beside) -> Source:
    if not proto.HasField("graph"):
        raise FileError(f"{where}: damaged or not an ONNX file: it holds no graph")
    graph = proto.graph
    if proto.functions or proto.training_info or graph.sparse_initializer:
        raise FileError(f"{where}: it has functions, training or sparse weights, expected one plain graph")
    opset = _opset(proto, where)
    weights = _weights(graph, where, beside)
    given = [v for v in graph.input if v.name not in weights]
    nodes = [_node(n, i, where, beside) for i, n in enumerate(graph.node)]
    source = Source(
        where,
        opset,
        [v.name for v in given],
        [_shape(v) for v in given],
        [_dtype(v, where) for v in given],
        [v.name for v in graph.output],
        weights,
        nodes,
    )
    _check_operators(source)
    _check_names(source, [v.name for v in graph.input])
    return source


def _check_operators(source: Source) -> None:
    unknown = {n.kind: n for n in reversed(source.nodes) if n.kind not in OPERATORS}
    if unknown:
        others = f", nor {', '.join(printable(kind) for kind in list(unknown)[1:5])}" if len(unknown) > 1 else ""
        first = next(iter(unknown.values()))
        raise FileError(f"{source.where}: {first}: an operator that Smelt does not have{others}")
    if source.opset < OLDEST and not all(_unchanged(kind, source.opset) for kind in {n.kind for n in source.nodes}):
        raise _version_error(source.where, source.opset)


def _unchanged(kind: str, opset: int) -> bool:
    """Return whether an operator meant the same in the oldest version that is understood."""
    defs = require_onnx().defs
    try:
        return defs.get_schema(kind, opset).since_version == defs.get_schema(kind, OLDEST).since_version
    except defs.SchemaError:
        return False


def _version_error(where: str, opset: int) -> FileError:
    return FileError(f"{where}: operators of version {opset}, expected {OLDEST} to {NEWEST}")


def _opset(proto: Any, where: str) -> int:
    versions = {o.domain: o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")}
    if len(versions) != 1:
        raise FileError(f"{where}: {len(versions)} versions of ONNX's operators are named, expected one")
    opset = int(next(iter(versions.values())))
    if not 1 <= opset <= NEWEST:
        raise _version_error(where, opset)
    return opset


def _weights(graph: Any, where: str, beside: Beside) -> dict[str, np.ndarray]:
    weights: dict[str, np.ndarray] = {}
    for tensor in graph.initializer:
        label = f"{where}: weight {printable(tensor.name)}"
        if not tensor.name or tensor.name in weights:
            raise FileError(f"{label}: expected a name that no other weight has")
        weights[tensor.name] = read_tensor(tensor, beside, label)
        if tensor.data_location == tensor.EXTERNAL:  # to be checked as if it had been in the file
            del tensor.external_data[:]
            tensor.data_location = tensor.DEFAULT
            tensor.raw_data = weights[tensor.name].astype(weights[tensor.name].dtype.newbyteorder("<")).tobytes()
    return weights


def _shape(value: Any) -> tuple[int | None, ...] | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    sizes = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
    return tuple(None if s is None or s < 0 else int(s) for s in sizes)


def _dtype(value: Any, where: str) -> np.dtype:
    label = f"{where}: input {printable(value.name)}"
    if not value.type.HasField("tensor_type"):
        raise FileError(f"{label}: expected a tensor")
    return numpy_dtype(value.type.tensor_type.elem_type, label)


def _node(node: Any, index: int, where: str, beside: Beside) -> NodeSource:
    name = node.name or (node.output[0] if node.output else f"#{index}")
    label = f"{where}: node {printable(name)} ({printable(node.op_type)})"
    if node.domain not in ("", "ai.onnx"):
        raise FileError(f"{label}: an operator of {printable(node.domain)}, expected ONNX's own")
    if not any(node.output):
        raise FileError(f"{label}: it has no output")
    attributes: dict[str, Any] = {}
    for a in node.attribute:
        if a.name in attributes:
            raise FileError(f"{label}: the attribute {printable(a.name)} appears twice")
        attributes[a.name] = _attribute(a, beside, f"{label}: attribute {printable(a.name)}")
    return NodeSource(node.op_type, name, list(node.input), list(node.output), attributes)


def _attribute(a: Any, beside: Beside, label: str) -> Any:
    kinds = type(a)
    if a.ref_attr_name:
        raise FileError(f"{label}: refers to a function's, expected a value")
    if a.type == kinds.FLOAT:
        return shortest(a.f)
    if a.type == kinds.INT:
        return int(a.i)
    if a.type == kinds.STRING:
        return a.s.decode("utf-8", "backslashreplace")
    if a.type == kinds.TENSOR:
        return read_tensor(a.t, beside, label)
    if a.type == kinds.FLOATS:
        return [shortest(v) for v in a.floats]
    if a.type == kinds.INTS:
        return [int(v) for v in a.ints]
    if a.type == kinds.STRINGS:
        return [v.decode("utf-8", "backslashreplace") for v in a.strings]
    raise FileError(
        f"{label}: a graph, a sparse tensor or a type, which Smelt cannot run; expected numbers or a tensor"
    )


def shortest(value: float) -> float:
    """Return the number that somebody wrote who got this float32.

    Examples
    --------
    >>> shortest(float(np.float32(1e-5)))
    1e-05
    """
    return float(str(np.float32(value)))


def _check_names(source: Source, declared: Sequence[str]) -> None:
    """Check that every value has one name and one producer, which comes before its users."""
    for label, names in (("input", declared), ("output", source.outputs)):
        counts = Counter(names)
        for name in names:
            if not name or counts[name] > 1:
                raise FileError(f"{source.where}: {label} {printable(name)}: expected a name that no other has")
    if not source.outputs:
        raise FileError(f"{source.where}: the graph has no output")
    made = {*source.inputs, *source.weights}
    produced = {o for n in source.nodes for o in n.outputs if o}
    for node in source.nodes:
        for name in node.inputs:
            if name and name not in made:
                late = name in produced
                how = "which only a later node makes: a cycle, or nodes out of order" if late else "which nothing makes"
                raise FileError(f"{source.where}: {node} reads {printable(name)}, {how}")
        for name in node.outputs:
            if name in made:
                raise FileError(f"{source.where}: {node} makes {printable(name)}, a name that is taken")
            if name:
                made.add(name)
    for name in source.outputs:
        if name not in made:
            raise FileError(f"{source.where}: output {printable(name)}: nothing makes it")
