"""``smelt.compile``: a function traced once, compiled, and from then on one native call.

In: a Python function on tensors. Out: a callable with the same results. It is traced again only when a guard fails,
and then says which; a batch smaller than the first runs the same code with fewer rows.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from smelt.autograd import grad_enabled
from smelt.compiler import jit, program
from smelt.compiler.isa import host
from smelt.compiler.passes.precision import round_activations
from smelt.compiler.passes.rounds import rows_per_round
from smelt.errors import TraceError, at_user_line
from smelt.graph.graph import Graph, Node
from smelt.graph.trace import Guard, Tracer, changes, current_tracer
from smelt.ops.primitive import Rows, Spec, short_dtype
from smelt.pending import pending
from smelt.precision import autocast, checked, current
from smelt.runtime import arena, workers
from smelt.runtime.ahead import QueuedExecutable
from smelt.runtime.arguments import LEAF, give, take
from smelt.runtime.calls import refuse_inside_call
from smelt.runtime.collecting import not_collecting
from smelt.runtime.executable import Executable
from smelt.runtime.shortcut import NOT_ALIKE, shortcut
from smelt.tensor import Tensor, wrap

MOST_VARIANTS = 16  # traces kept for one function; the least recently used goes first


def _array(value: Any) -> np.ndarray:
    array = value.numpy() if isinstance(value, Tensor) else value
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


@dataclass
class _Key:
    """What must be the same for a trace to be reused, besides its guards."""

    structure: Any
    specs: tuple[tuple[tuple[int, ...], np.dtype], ...]
    grad: bool
    precision: str


class _Variant:
    """One trace of a function: its program, bound state, and how to call it."""

    def __init__(
        self, function: Callable[..., Any], name: str, key: _Key, arrays: Sequence[np.ndarray], owned: bool
    ) -> None:
        self.key = key
        self.batch = _batch_inputs(arrays)
        self.capacity = self.rows(arrays)
        self.ranks: program.Ranks = {}
        self._trace(function, name, arrays)
        self.whole = self.graph
        rows, self.in_rounds = self.capacity, rows_per_round(self.graph)
        if self.in_rounds:
            self._trace(function, name, [a[: self.in_rounds] if i in self.batch else a for i, a in enumerate(arrays)])
            self._compile(owned)
            self.capacity = self.in_rounds * self.executable.program.most_rounds
            if rows <= self.capacity:
                return
            self.in_rounds, self.capacity = 0, rows
            self._trace(function, name, arrays)
        self._compile(owned)

    # --- tracing -----------------------------------------------------------------------------------------------

    def _trace(self, function: Callable[..., Any], name: str, arrays: Sequence[np.ndarray]) -> None:
        tracer = Tracer(name)
        outputs: list[Any] = []
        try:
            with tracer:
                tensors = []
                for i, a in enumerate(arrays):
                    rows = Rows(0) if i in self.batch else None
                    tensors.append(Tensor(tracer.input(f"x{i}", Spec(a.shape, a.dtype, rows))))
                args, kwargs = give(self.key.structure, iter(tensors))
                with autocast(self.key.precision):
                    result = function(*args, **kwargs)
                self.result = take(result, outputs)
                nodes = [tracer.lift(o if isinstance(o, Tensor) else Tensor(o)) for o in outputs]
                self.grads = self._gradients(tracer)
            self.graph: Graph = round_activations(tracer.finish(nodes))
        finally:
            for tensor, before in tracer.grads.values():
                tensor._grad = before
        self.guards: list[Guard] = tracer.guards
        self.tensors = [t for t, _ in tracer.state.values()]
        self.ragged = bool(self.batch) and not self.graph.exact

    def _gradients(self, tracer: Tracer) -> list[tuple[Tensor, Tensor | None]]:
        """Turn gradients the function left behind into state; return what each tensor's ``grad`` is afterwards."""
        after: list[tuple[Tensor, Tensor | None]] = []
        for tensor, before in list(tracer.grads.values()):
            now = tensor._grad
            if now is not None and isinstance(now._value, Node):
                node = now._value
                same = before is not None and before.shape == node.shape and before.dtype == node.dtype
                kept = before if same and before is not None else Tensor(np.zeros(node.shape, node.dtype))
                kept._tracer = None
                kept.name = f"{tensor.name or 'tensor'}.grad"
                tracer.assign(kept, node)
                now = kept
            after.append((tensor, now))
        return after

    # --- compiling ---------------------------------------------------------------------------------------------

    def _strides(self) -> dict[Node, tuple[int, ...] | None]:
        return {
            node: arena.element_strides(t.numpy()) if t._bound else None
            for node, t in zip(self.graph.states, self.tensors, strict=True)
        }

    def _compile(self, owned: bool) -> None:
        built = program.build(self.graph, self._strides(), ranks=self.ranks, rounds=self.in_rounds > 0)
        states = self._bound(built)
        self.executable: Executable
        if self.graph.updates:
            self.executable = QueuedExecutable(built, self.graph, states, owned)
        else:
            self.executable = Executable(built, self.graph, states)

    def _bound(self, built: program.Program) -> list[np.ndarray]:
        """Move the state where the program expects it; return its arrays."""
        refuse_inside_call()
        with workers.team().writing:
            pending.settle_all()
            arrays = arena.bind(self.tensors, built.state_strides)
            self.moves = arena.moves.count
        return arrays

    # --- calling -----------------------------------------------------------------------------------------------

    def mismatch(self, key: _Key, arrays: Sequence[np.ndarray]) -> str:
        """Return why this trace does not serve a call, or an empty string."""
        mine = self.key
        if key.structure != mine.structure:
            return f"the arguments are {key.structure}, they were {mine.structure}"
        if key.grad != mine.grad:
            return "gradients were switched " + ("on" if key.grad else "off")
        if key.precision != mine.precision:
            return f"the precision is {key.precision}, it was {mine.precision}"
        sizes = {a.shape[0] for i, a in enumerate(arrays) if i in self.batch and a.ndim}
        for i, ((shape, dtype), (was, was_dtype)) in enumerate(zip(key.specs, mine.specs, strict=True)):
            if dtype != was_dtype:
                return f"argument {i} is {short_dtype(dtype)}, it was {short_dtype(was_dtype)}"
            if shape == was:
                continue
            rest = i in self.batch and len(shape) == len(was) and shape[1:] == was[1:]
            if not rest or len(sizes) != 1:
                return f"argument {i} has shape {shape}, it had {was}"
            if shape[0] > self.capacity:
                return f"a batch of {shape[0]} is larger than the {self.capacity} compiled for"
            if not self.ragged:
                return f"a batch of {shape[0]} cannot run code for {self.capacity}: {self.graph.exact[0]}"
        for guard in self.guards:
            if not guard.holds():
                return f"no longer true: {guard.text}"
        return ""

    def rows(self, arrays: Sequence[np.ndarray]) -> int:
        """Return the size of a call's batch."""
        return arrays[self.batch[0]].shape[0] if self.batch else 0

    def run(self, arrays: Sequence[np.ndarray], rows: int) -> Any:
        """Run one step."""
        if self.executable.writes:
            with workers.team().writing:
                return self._run(arrays, rows)
        return self._run(arrays, rows)

    def _run(self, arrays: Sequence[np.ndarray], rows: int) -> Any:
        executable = self.executable
        if self.moves != arena.moves.count:
            executable.rebind(self._bound(executable.program))
        outputs = executable.call(arrays, rows)
        for tensor, grad in self.grads:
            if tensor._grad is not grad:
                tensor._grad = grad
                changes.note()
        return wrap(outputs[0]) if self.result is LEAF else give(self.result, map(wrap, outputs))


def _batch_inputs(arrays: Sequence[np.ndarray]) -> list[int]:
    """Return the arguments whose first axis is the batch: those that share the first one's leading size."""
    first = next((a for a in arrays if a.ndim), None)
    if first is None or first.shape[0] == 0:
        return []
    return [i for i, a in enumerate(arrays) if a.ndim and a.shape[0] == first.shape[0]]


class Compiled:
    """A function that runs as native code; made by :func:`compile`.

    Attributes
    ----------
    traces : int
        How often the function was traced so far.
    compile_seconds : float
        What that took: tracing, compiling or finding the code in the cache, and linking.
    """

    def __init__(
        self, function: Callable[..., Any], name: str = "", precision: str | None = None, owned: bool = False
    ) -> None:
        self._function = function
        self._owned = owned  # whether the arrays it is given are never written again
        self.precision = None if precision is None else checked("compile", precision)
        self.name = name or getattr(function, "__name__", type(function).__name__)
        self._variants: list[_Variant] = []
        self._shortcut: Callable[[tuple[Any, ...]], Any] | None = None
        self._lock = threading.RLock()
        self.traces = 0
        self.compile_seconds = 0.0
        functools.update_wrapper(self, function, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function on arrays or tensors; traces and compiles it when no earlier trace fits."""
        if self._shortcut is not None and not kwargs:
            result = self._shortcut(args)
            if result is not NOT_ALIKE:
                return result
        precision = self.precision or current()
        if current_tracer() is not None:
            with autocast(precision):
                return self._function(*args, **kwargs)
        taken: list[Any] = []
        structure = (take(args, taken), take(kwargs, taken))
        arrays = [_array(a) for a in taken]
        key = _Key(structure, tuple((a.shape, a.dtype) for a in arrays), grad_enabled(), precision)
        with self._lock:
            seen = changes.number
            variant = self._find(key, arrays)
            rows = variant.rows(arrays)
            self._shortcut = None if kwargs else shortcut(variant.run, args, structure[0], rows, seen)
        return variant.run(arrays, rows)

    def _find(self, key: _Key, arrays: Sequence[np.ndarray]) -> _Variant:
        reasons = []
        for i, variant in enumerate(self._variants):
            reason = variant.mismatch(key, arrays)
            if not reason:
                if i:
                    self._variants.insert(0, self._variants.pop(i))
                return variant
            reasons.append(reason)
        if reasons:
            print(f"smelt: compiling {self.name} again: {reasons[0]}", file=sys.stderr)
        started = time.perf_counter()
        with not_collecting():
            variant = _Variant(self._function, self.name, key, arrays, self._owned)
        self.compile_seconds += time.perf_counter() - started
        self.traces += 1
        self._variants.insert(0, variant)
        del self._variants[MOST_VARIANTS:]
        return variant

    @property
    def graph(self) -> Graph:
        """The graph of the most recent trace.

        Raises
        ------
        TraceError
            Before the first call.
        """
        return self._latest().whole

    def _latest(self) -> _Variant:
        if not self._variants:
            raise TraceError(at_user_line(f"{self.name} has not been called yet: there is no graph"))
        return self._variants[0]

    @property
    def library(self) -> jit.Library:
        """The machine code of the most recent trace."""
        return self._variants[0].executable.library

    @contextlib.contextmanager
    def replaced(self, address: int) -> Iterator[np.ndarray]:
        """Run another native step of the same kernels for a while; yields the context's words."""
        with self._variants[0].executable.replaced(address) as words:
            yield words

    def lowered(self, ranks: program.Ranks | None = None) -> program.Lowered:
        """Return the kernels of the most recent trace, lowered for this processor; on request with other tiles."""
        variant = self._latest()
        ranks = variant.ranks if ranks is None else ranks
        return program.lower(variant.graph, variant._strides(), host(), ranks=ranks, rounds=variant.in_rounds > 0)

    def take_tiles(self, ranks: program.Ranks) -> None:
        """Run the most recent trace with other tiles from now on; results keep their bits."""
        with self._lock:
            variant = self._variants[0]
            variant.ranks = ranks
            variant._compile(self._owned)

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Put back afterwards what the most recent trace keeps as state."""
        tensors = self._variants[0].tensors
        before = [t.numpy().copy() for t in tensors]
        try:
            yield
        finally:
            for tensor, values in zip(tensors, before, strict=True):
                tensor.numpy()[...] = values


def compile(function: Callable[..., Any] | None = None, *, precision: str | None = None) -> Any:
    """Compile a function (or a module) that works on tensors; usable as a decorator.

    The function is run with symbols in place of its arguments: once, or twice where a large batch is cut into rounds.
    Every tensor it touches besides them (parameters,
    running statistics, optimizer state) is bound as state and updated in place by the native code. Arguments that are
    arrays or tensors are data; their first axis is the batch, which may be smaller in later calls. Other arguments are
    constants: another value traces again. So does anything else the trace relied on, with a line on stderr that says
    what changed.

    Parameters
    ----------
    function : callable
        Takes and returns arrays, tensors, and tuples, lists or dicts of them.
    precision : {"f32", "bf16", "f16"}, optional
        What matrix products and convolutions round their operands to, and large activations are kept in; by default
        what :func:`smelt.autocast` says where the function is called, float32 without it.

    Returns
    -------
    Compiled
        Called like the function, returning tensors where it returned tensors.

    Raises
    ------
    TraceError
        When the function needs a number while it is traced: ``item()``, ``print``, a Python ``if``.

    Examples
    --------
    >>> import numpy as np, smelt
    >>> w = smelt.Parameter(np.ones((3, 2), np.float32))
    >>> @smelt.compile
    ... def f(x):
    ...     return (x @ w).relu().sum()
    >>> f(np.ones((4, 3), np.float32)).item()
    24.0
    """
    if function is None:
        return functools.partial(Compiled, precision=precision)
    return Compiled(function, precision=precision)


__all__ = ["Compiled", "compile"]
