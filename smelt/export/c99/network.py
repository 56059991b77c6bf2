"""A network ready to be called from C: a module and the shape of its input in; functions, calls and constants out.

The module is traced once, in evaluation mode; batch normalization is folded into the weights, which are brought into
the order in which the loops read them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from smelt.autograd import no_grad
from smelt.compiler.emit.expressions import TYPE
from smelt.compiler.isa import Isa
from smelt.compiler.loops import Buffer, Kernel
from smelt.compiler.passes.freeze import freeze
from smelt.compiler.serial import Serial, lower_serial
from smelt.errors import ExportError, ShapeError, at_user_line
from smelt.graph.graph import Graph, Node
from smelt.nn.calls import CallTracer, each_dtype, leaves
from smelt.nn.module import Module
from smelt.ops.custom import Custom
from smelt.ops.primitive import Spec, short_dtype
from smelt.tensor import Tensor

InputShape = Sequence[int] | Mapping[str, Sequence[int]]
_COMMENT = re.compile(r"[^A-Za-z0-9_ .-]")
_LONGEST = 100  # characters of a comment that come from a model


def comment(text: str) -> str:
    """Return what of a model's text may stand in a comment: letters, digits and ``_ .-``, at most 100 of them."""
    return _COMMENT.sub("", text)[:_LONGEST]


class Unit(Protocol):
    """What kernels become functions of: a C file, or the code of an object."""

    what: str
    """The form, in messages."""
    suffix: str
    """Of its file."""
    isa: Isa
    """What the loops are lowered for."""
    stack_bytes: int
    """Arrays on the stack of the function that has most."""

    @property
    def math(self) -> bool:
        """Whether functions of ``math.h`` are called."""

    def add(self, kernel: Kernel) -> tuple[str, Sequence[Buffer], int]:
        """Add a kernel's function; return its name, what to pass, and the bytes of its arrays."""


@dataclass(frozen=True)
class End:
    """An input or output: its name in C, what the user calls it, and what it holds."""

    name: str
    title: str
    shape: tuple[int, ...]
    dtype: str
    buffer: Buffer

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Call:
    """A call of a kernel's function, with the buffers it passes; ``what`` and ``layers`` may stand in a comment."""

    function: str
    buffers: tuple[Buffer, ...]
    what: str
    layers: str
    macs: int
    stack_bytes: int


@dataclass(frozen=True)
class Network:
    """All that the files are written from."""

    model: str
    inputs: tuple[End, ...]
    outputs: tuple[End, ...]
    constants: tuple[tuple[Buffer, np.ndarray], ...]
    calls: tuple[Call, ...]
    serial: Serial
    unit: Unit

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return sum(c.macs for c in self.calls)

    @property
    def constant_bytes(self) -> int:
        """Bytes of weights and other constants."""
        return sum(a.nbytes for _, a in self.constants)


def network(
    model: Module, input_shape: InputShape, batch: int, dtype: str | Sequence[str], ends: bool, unit: Unit
) -> Network:
    """Return the network of a module, its functions in ``unit``; with ``ends``, inputs and outputs lie in the arena.

    Raises
    ------
    ExportError
        When something in it cannot be written in this form.
    ShapeError
        When the model cannot take such an input.
    """
    shapes = dict(input_shape) if isinstance(input_shape, Mapping) else {"input": tuple(input_shape)}
    sizes = [(batch, *shape) for shape in shapes.values()]
    if not sizes or not all(isinstance(d, int) and d > 0 for shape in sizes for d in shape):
        found = f"{shapes} and a batch of {batch}"
        raise ShapeError(at_user_line(f"{unit.what}: expected sizes of at least 1, received {found}"))
    dtypes = each_dtype(dtype, list(shapes))
    tracer = CallTracer(type(model).__name__)
    with no_grad(), tracer.watching(model):
        inputs = [tracer.input(f"x{i}", Spec(s, d)) for i, (s, d) in enumerate(zip(sizes, dtypes, strict=True))]
        graph = tracer.finish([tracer.lift(t) for t in leaves(model(*map(Tensor, inputs)))])
    return of_graph(graph, [t.numpy() for t, _ in tracer.state.values()], list(shapes), ends, unit)


def of_graph(graph: Graph, states: list[np.ndarray], titles: Sequence[str], ends: bool, unit: Unit) -> Network:
    """Return the network of a traced graph; ``titles`` say what the user calls its inputs."""
    _check(graph, unit.what)
    frozen = freeze(graph)
    values = frozen.evaluate(states)
    serial = lower_serial(frozen.graph, unit.isa, ends)
    calls = []
    for k in serial.kernels:
        function, buffers, stack = unit.add(k)
        what, layers = comment(k.note.replace(" + ", " ")), comment(" ".join(k.layers))
        calls.append(Call(function, tuple(buffers), what, layers, k.macs, stack))
    return Network(
        comment(graph.name),
        _ends("x", titles, frozen.graph.inputs, serial),
        _ends("y", [], frozen.graph.outputs, serial),
        _constants(serial, frozen.graph.states, values),
        tuple(calls),
        serial,
        unit,
    )


def _check(graph: Graph, what: str) -> None:
    """Raise an error that names what cannot be called from C."""
    if not graph.outputs:
        raise ExportError(at_user_line(f"{what}: the model returns no tensor, expected at least one"))
    if graph.updates:
        changed = comment(next(iter(graph.updates)).name)
        raise ExportError(
            at_user_line(f"{what}: the model changes {changed} when it runs; expected one that keeps no state")
        )
    for node in graph.nodes():
        line = f"  [{node.line}]" if node.line else ""
        if isinstance(node.op, Custom):
            raise ExportError(f"{what}: {node.opname}: a user's function cannot be exported{line}")
        if short_dtype(node.dtype) not in TYPE:
            raise ExportError(f"{what}: {node.opname} {node.spec}: expected one of {', '.join(TYPE)}{line}")


def _ends(letter: str, titles: Sequence[str], nodes: Sequence[Node], serial: Serial) -> tuple[End, ...]:
    """Return inputs or outputs; the buffers of outputs are found by their place in the table of pointers."""
    kind, first = ("input", 0) if letter == "x" else ("output", len(serial.graph.inputs))
    used = {b.slot: b for k in serial.kernels for b in k.reads | k.writes if b.kind == kind}
    out = []
    for i, node in enumerate(nodes):
        name = letter if len(nodes) == 1 else f"{letter}{i}"
        dtype = short_dtype(node.dtype)
        buffer = used.get(first + i) or Buffer(name, dtype, node.spec.size, kind, first + i)
        title = comment(titles[i]) if titles else ("output" if len(nodes) == 1 else f"output{i}")
        out.append(End(name, title, node.shape, dtype, buffer))
    return tuple(out)


def _constants(serial: Serial, states: Sequence[Node], values: Sequence[np.ndarray]) -> tuple:
    """Return the buffers of weights and constants that kernels read, with their elements as they lie in memory."""
    used = {b for k in serial.kernels for b in k.reads}
    out = []
    for node, value in zip(states, values, strict=True):
        storage = serial.plan.storage[node]
        if storage.buffer in used:
            flat = np.zeros(storage.buffer.size, value.dtype)
            strides = tuple(s * value.itemsize for s in storage.strides)
            np.lib.stride_tricks.as_strided(flat, value.shape, strides)[...] = value
            out.append((storage.buffer, flat))
    loose = {s.buffer for s in serial.plan.storage.values() if s.buffer.kind == "constant"} & used
    first = len(serial.graph.inputs) + len(serial.graph.outputs) + len(serial.graph.states)
    for buffer in sorted(loose, key=lambda b: b.slot):
        out.append((buffer, serial.plan.arrays[buffer.slot - first].reshape(-1)))
    return tuple(out)
