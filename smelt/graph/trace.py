"""Tracing: run the user's function once on symbolic tensors and write down what it does.

In: operations dispatched by :mod:`smelt.tensor`. Out: a :class:`~smelt.graph.graph.Graph`, the tensors bound as its
state, and guards: facts about Python values that must still hold for the graph to be reused.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from smelt.errors import TraceError, user_line
from smelt.graph.graph import Graph, Node
from smelt.ops.primitive import Primitive, Rows, Spec

if TYPE_CHECKING:
    from smelt.tensor import Tensor


class _Local(threading.local):
    tracer: Tracer | None = None


_local = _Local()


def current_tracer() -> Tracer | None:
    """Return the tracer of this thread, or None while operations run at once."""
    return _local.tracer


@contextmanager
def in_layer(name: str) -> Iterator[None]:
    """Attribute the nodes made meanwhile to a layer, while a function is traced."""
    tracer = _local.tracer
    if tracer is None:
        yield
        return
    before, tracer.layer = tracer.layer, name
    try:
        yield
    finally:
        tracer.layer = before


class BatchSize(int):
    """The batch's size as seen in a traced ``shape``: using it as a number ties the step to this very batch."""

    tracer: Tracer
    per: int

    @staticmethod
    def make(value: int, tracer: Tracer, per: int) -> BatchSize:
        """Return ``value`` as a batch size seen by ``tracer``; ``per`` is its multiple of the batch."""
        out = BatchSize(value)
        out.tracer, out.per = tracer, per
        return out


def _tied(name: str) -> Callable[..., Any]:
    plain_method = getattr(int, name)

    def method(self: BatchSize, *args: Any) -> Any:
        self.tracer.tie(f"the batch size {plain(self)} is used as a number")
        return plain_method(plain(self), *(plain(a) if isinstance(a, BatchSize) else a for a in args))

    return method


_ARITHMETIC = "add|sub|mul|floordiv|truediv|mod|divmod|pow|lshift|rshift|and|or|xor"
_ALONE = "neg|abs|invert|bool|int|float|str|format|eq|ne|lt|le|gt|ge"
_TIED = re.findall(r"\w+", f"{_ARITHMETIC}|r{_ARITHMETIC.replace('|', '|r')}|{_ALONE}")
for _name in _TIED:
    setattr(BatchSize, f"__{_name}__", _tied(f"__{_name}__"))
BatchSize.__hash__ = int.__hash__  # type: ignore[method-assign]


def plain(size: int) -> int:
    """Return a size as an ordinary int without tying the step to it."""
    return int.__add__(size, 0)


def plain_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape of ordinary ints."""
    return tuple(int.__add__(int.__index__(d), 0) for d in shape)


class _Changes:
    """A number that is another one after anything that guards look at has changed."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self.number = 0

    def note(self) -> None:
        """Make it another number."""
        self.number = next(self._numbers)


changes = _Changes()


class Guard:
    """A fact about a Python value read while tracing."""

    __slots__ = ("holds", "text")

    def __init__(self, text: str, holds: Callable[[], bool]) -> None:
        self.text, self.holds = text, holds


class Tracer:
    """Collects the nodes of one traced call. Use as a context manager around the user's function."""

    def __init__(self, name: str) -> None:
        self.graph = Graph(name)
        self.guards: list[Guard] = []
        self.state: dict[int, tuple[Tensor, Node]] = {}  # by id of the bound tensor; holds it alive
        self.current: dict[int, Node] = {}  # latest value of every bound tensor
        self.grads: dict[int, tuple[Tensor, Tensor | None]] = {}  # tensors whose grad was set, and the grad before
        self.layer = ""  # what nodes are attributed to
        self.paths: dict[int, str] = {}  # by id of a module: its dotted name in the model that was called
        self._read: dict[int, Tensor] = {}  # tensors whose grad is guarded; holds them alive
        self._assigned: list[Tensor] = []  # holds alive what ``current`` knows by id
        self._outer: Tracer | None = None

    def __enter__(self) -> Tracer:
        self._outer, _local.tracer = _local.tracer, self
        return self

    def __exit__(self, *exc: object) -> None:
        _local.tracer = self._outer

    def tie(self, reason: str) -> None:
        """Note why the graph is right only for the traced batch size."""
        line = user_line()
        text = f"{reason} [{line}]" if line else reason
        if text not in self.graph.exact:
            self.graph.exact.append(text)

    def guard(self, text: str, holds: Callable[[], bool]) -> None:
        """Record a fact that later calls must share; whatever changes it must call ``changes.note()``."""
        self.guards.append(Guard(text, holds))

    def note_grad_read(self, tensor: Tensor) -> None:
        """Guard that the gradient found before the step is found again (or again missing)."""
        if id(tensor) not in self.grads and id(tensor) not in self._read:
            self._read[id(tensor)] = tensor
            before = tensor._grad
            known = "present" if before is not None else "absent"
            self.guard(f"the gradient of {tensor.name or 'a tensor'} is {known}", lambda: tensor._grad is before)

    def note_grad_write(self, tensor: Tensor) -> None:
        """Remember the gradient a tensor had before the step replaced it."""
        self.grads.setdefault(id(tensor), (tensor, tensor._grad))

    def input(self, name: str, spec: Spec) -> Node:
        """Add an input of the traced function."""
        node = Node("input", spec, name=name)
        self.graph.inputs.append(node)
        return node

    def constant(self, value: np.ndarray) -> Node:
        """Add a value that never changes."""
        return Node("constant", Spec(value.shape, value.dtype), value=value)

    def lift(self, tensor: Tensor) -> Node:
        """Return the node of a tensor: its own, the latest value of bound state, or a new state."""
        value = tensor._value
        if isinstance(value, Node):
            if tensor._tracer is not self:
                raise TraceError(
                    "a value from another trace was used here: it was a symbol of a finished call, not a number; "
                    f"return it from the compiled function instead  [{user_line()}]"
                )
            return value
        node = self.current.get(id(tensor))
        if node is not None:
            return node
        if tensor._tracer is self:
            return self.constant(value)
        name = self._unique(tensor.name or f"state{len(self.state)}")
        node = Node("state", Spec(value.shape, value.dtype), name=name)
        self.graph.states.append(node)
        self.state[id(tensor)] = (tensor, node)
        self.current[id(tensor)] = node
        return node

    def _unique(self, name: str) -> str:
        taken = {s.name for s in self.graph.states} | {i.name for i in self.graph.inputs}
        if name not in taken:
            return name
        i = 2
        while f"{name}.{i}" in taken:
            i += 1
        return f"{name}.{i}"

    def assign(self, tensor: Tensor, node: Node) -> None:
        """Give bound state a new value, to be stored at the end of the step."""
        state = self.lift(tensor)
        inside = isinstance(tensor._value, Node)
        if inside and state.kind != "op":
            raise TraceError(
                f"assign: an argument or detached tensor cannot be overwritten inside a compiled function; return the "
                f"new value  [{user_line()}]"
            )
        if node.shape != state.shape or node.dtype != state.dtype:
            raise TraceError(f"assign: the new value is {node.spec}, the tensor {tensor.name or ''} is {state.spec}")
        if inside:  # made inside the step: later uses mean the new value
            tensor._value = node
            return
        if node.spec.rows:
            self.tie("state of a fixed shape receives a value of the batch's shape")
        self._assigned.append(tensor)
        self.current[id(tensor)] = node

    def apply(self, op: Primitive, inputs: tuple[Tensor, ...], attrs: dict[str, Any], spec: Spec) -> Node:
        """Append ``op``; ``spec`` is its inferred result."""
        if spec.exact:
            self.tie(spec.exact)
        return Node("op", spec, op, tuple(self.lift(t) for t in inputs), attrs, line=user_line(), layer=self.layer)

    def shape_of(self, node: Node) -> tuple[int, ...]:
        """Return the shape as the user sees it: the batch's axis as a :class:`BatchSize`."""
        rows: Rows | None = node.spec.rows
        if rows is None:
            return node.shape
        size = BatchSize.make(node.shape[rows.axis], self, rows.per)
        return (*node.shape[: rows.axis], size, *node.shape[rows.axis + 1 :])

    def finish(self, outputs: list[Node]) -> Graph:
        """Set the outputs and the updates of state; return the graph."""
        self.graph.outputs = outputs
        for key, (_, node) in self.state.items():
            if self.current[key] is not node:
                self.graph.updates[node] = self.current[key]
        return self.graph
