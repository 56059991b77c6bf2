"""A model traced layer by layer: a module in; a graph, and which call of which module made each of its nodes, out.

The summary counts by it, and exported files name their operations by it. The model is traced in evaluation mode and
left as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smelt.errors import ShapeError, at_user_line
from smelt.graph.graph import Node
from smelt.graph.trace import Tracer
from smelt.nn.module import Module
from smelt.ops.primitive import Primitive, Spec
from smelt.tensor import Tensor


@dataclass(eq=False)
class Call:
    """One call of a module: the values it was given, the nodes it made itself, and what it returned."""

    path: str
    module: Module
    inputs: list[Node] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    results: list[Node] = field(default_factory=list)


def each_dtype(dtype: str | Sequence[str], names: Sequence[str]) -> list[np.dtype]:
    """Return the type of every input: one for all of them, or as many as there are.

    Raises
    ------
    ShapeError
        When there are more or fewer.

    Examples
    --------
    >>> each_dtype("float32", ["left", "right"])
    [dtype('float32'), dtype('float32')]
    """
    given = [dtype] * len(names) if isinstance(dtype, str) else list(dtype)
    if len(given) != len(names):
        found = ", ".join(map(str, given)) or "none"
        raise ShapeError(at_user_line(f"dtype: expected one for each of {len(names)} inputs, received {found}"))
    return [np.dtype(d) for d in given]


class CallTracer(Tracer):
    """A tracer that notes which call of which module made each node; ``calls`` are in the order of their return."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[Call] = []
        self.maker: dict[int, Call] = {}
        self._stack: list[Call] = []

    def apply(self, op: Primitive, inputs: tuple[Tensor, ...], attrs: dict[str, Any], spec: Spec) -> Node:
        """Append ``op`` to the graph and to the call that is going on."""
        node = super().apply(op, inputs, attrs, spec)
        if self._stack:
            self.maker[id(node)] = self._stack[-1]
            self._stack[-1].nodes.append(node)
        return node

    @contextmanager
    def watching(self, model: Module) -> Iterator[None]:
        """Trace with every module's ``forward`` shadowed by one that keeps the stack of calls."""
        modules = list(model.named_modules())
        before = [dict(vars(m)) for _, m in modules]
        try:
            for path, module in modules:
                self._watch(path, module)
                vars(module)["_training"] = False
            with self:
                yield
        finally:
            for (_, module), kept in zip(modules, before, strict=True):
                for key in ("forward", "_training"):
                    if key in kept:
                        vars(module)[key] = kept[key]
                    else:
                        vars(module).pop(key, None)

    def _watch(self, path: str, module: Module) -> None:
        forward = module.forward

        def watched(*args: Any, **kwargs: Any) -> Any:
            given = [self.lift(t) for t in leaves([args, kwargs])]
            call = Call(path, module, given)
            self._stack.append(call)
            try:
                out = forward(*args, **kwargs)
            except ShapeError as e:
                if getattr(e, "smelt_layer", None) is None:
                    e.smelt_layer = path  # type: ignore[attr-defined]
                    where = f"layer {path} ({type(module).__name__})" if path else type(module).__name__
                    e.args = (f"{where}: {e}",)
                raise
            finally:
                self.calls.append(self._stack.pop())
            call.results = [self.lift(t) for t in leaves(out)]
            return out

        vars(module)["forward"] = watched


def leaves(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, dict):
        yield from leaves(list(value.values()))
