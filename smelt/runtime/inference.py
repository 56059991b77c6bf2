"""``model.compile()``: the forward pass of a model as programs of its own, one per shape of the input.

In: a module. Out: a callable on arrays. Its weights are folded, brought into the kernels' order and kept beside the
model's. One sample is shared by all threads; of a batch, each thread takes samples of its own.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from smelt.autograd import no_grad
from smelt.compiler import jit, program
from smelt.compiler.isa import host
from smelt.compiler.passes.freeze import Frozen, freeze
from smelt.compiler.passes.slices import rows_per_slice
from smelt.errors import ShapeError, TraceError, at_user_line
from smelt.graph.graph import Graph
from smelt.graph.trace import Tracer
from smelt.ops.primitive import HALVES, Rows, Spec
from smelt.precision import autocast, checked
from smelt.runtime.arena import laid_out
from smelt.runtime.arguments import LEAF, give, take
from smelt.runtime.collecting import not_collecting
from smelt.runtime.executable import Executable
from smelt.tensor import Tensor, wrap

if TYPE_CHECKING:
    from smelt.nn.module import Module

Specs = tuple[tuple[tuple[int, ...], np.dtype], ...]
_Short = tuple[tuple[int, ...], np.dtype, Callable[[np.ndarray], np.ndarray] | None]
MOST_SHAPES = 256  # shapes of inputs whose form is found at once


class _Form:
    """The program for a single sample, for batches of any size, or, where the model demands it, for one size."""

    def __init__(self, model: Module, specs: Specs, values: _Values, half: np.dtype | None) -> None:
        self._half = half
        batch = specs[0][0][0] if specs[0][0] else 0
        self.frozen = self._trace(model, specs, batch)
        self.apart = batch != 1 and program.may_be_apart(self.frozen.graph)
        if self.apart:
            rows = rows_per_slice(self.frozen.graph)
            sliced = tuple(((rows, *shape[1:]) if shape[:1] == (batch,) else shape, dtype) for shape, dtype in specs)
            try:
                self.frozen = self._trace(model, sliced, rows)
                self.apart = program.may_be_apart(self.frozen.graph)
            except (ShapeError, TraceError):  # what is written for this batch size alone
                self.apart = False
            if not self.apart:
                self.frozen = self._trace(model, specs, batch)
        graph = self.frozen.graph
        self.fixed = bool(graph.exact) or not (self.apart or batch == 1)
        self.program = program.build(graph, None, apart=self.apart)
        self.executable = Executable(self.program, graph, self.weights(values), private=True)

    def _trace(self, model: Module, specs: Specs, batch: int) -> Frozen:
        tracer = Tracer(type(model).__name__)
        outputs: list[Any] = []
        with _evaluating(model), no_grad(), autocast("f32"), tracer:
            rows = [Rows(0) if shape[:1] == (batch,) and batch else None for shape, _ in specs]
            nodes = [tracer.input(f"x{i}", Spec(*s, r)) for i, (s, r) in enumerate(zip(specs, rows, strict=True))]
            self.result = take(model(*map(Tensor, nodes)), outputs)
            if not outputs or not all(isinstance(o, Tensor) for o in outputs):
                raise TraceError(at_user_line(f"{type(model).__name__}.compile: the forward pass returns no tensor"))
            graph = tracer.finish([tracer.lift(o) for o in outputs])
        self.tensors = [t for t, _ in tracer.state.values()]
        return freeze(graph, self._half, host())

    def weights(self, values: _Values) -> list[np.ndarray]:
        """Return the folded weights, lying as the program expects."""
        folded = self.frozen.evaluate([values(t) for t in self.tensors])
        program = self.program
        lies = zip(folded, program.state_strides, program.state_pairs, program.state_panels, strict=True)
        return [laid_out(*how) for how in lies]


class _Values:
    """What a model's tensors held when it was compiled."""

    def __init__(self, model: Module) -> None:
        tensors = [t for _, t in [*model.named_parameters(), *model.named_buffers()]]
        self._known = {id(t): (t, t.numpy().copy()) for t in tensors}  # holds the tensors alive: ids stay theirs

    def __call__(self, tensor: Tensor) -> np.ndarray:
        if id(tensor) not in self._known:
            self._known[id(tensor)] = (tensor, tensor.numpy().copy())
        return self._known[id(tensor)][1]


class Inference:
    """A model's forward pass as native code; made by :meth:`smelt.nn.Module.compile`.

    It may be called from several Python threads at once: each call has memory of its own. The weights are those the
    model had when it was compiled; :meth:`refresh` takes them again.

    Parameters
    ----------
    model : Module
        Run in evaluation mode, whatever mode it is in.
    precision : {"f32", "bf16", "f16"}, default "f32"
        What matrix products and convolutions round their operands to; weights of 16 bits take half the memory.

    Attributes
    ----------
    compile_seconds : float
        What tracing took so far, compiling or finding the code in the cache, and linking.

    Raises
    ------
    ValueError
        When the precision is none of these.

    Examples
    --------
    >>> import numpy as np
    >>> from smelt import nn
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
    >>> fast = model.compile()
    >>> fast(np.ones((2, 4), np.float32)).shape
    (2, 8)
    """

    def __init__(self, model: Module, precision: str = "f32") -> None:
        self.precision = checked(type(self).__name__, precision)
        self._model = model
        self._lock = threading.Lock()
        self.compile_seconds = 0.0
        self._forms: dict[tuple, _Form] = {}
        self._known: dict[Specs, _Form] = {}
        self._last: _Short = ((), np.dtype(np.float32), None)
        self.refresh()

    def refresh(self) -> None:
        """Take the model's weights as they are now. What is compiled stays compiled."""
        with self._lock:
            self._values = _Values(self._model)
            for form in self._forms.values():
                form.executable.rebind(form.weights(self._values))

    def __call__(self, *inputs: Any) -> Any:
        """Run the forward pass.

        Parameters
        ----------
        *inputs : numpy.ndarray or Tensor
            What the model's ``forward`` takes. The first axis of the first is the batch, of any size; others with as
            many rows follow it.

        Returns
        -------
        Tensor
            Or whatever structure of tensors ``forward`` returns.

        Raises
        ------
        TypeError
            When an input is not an array or tensor.
        ShapeError
            When the model does not take this shape.
        """
        if len(inputs) == 1:
            (x,), (shape, dtype, call) = inputs, self._last
            if call is not None and type(x) is np.ndarray and x.shape == shape and x.dtype is dtype:
                return wrap(call(x if x.flags.c_contiguous else np.ascontiguousarray(x)))
        arrays = [x.numpy() if isinstance(x, Tensor) else x for x in inputs]
        try:
            key = tuple([(a.shape, a.dtype) for a in arrays])
        except AttributeError:
            wrong = next(a for a in arrays if not isinstance(a, np.ndarray))
            raise TypeError(
                at_user_line(f"expected arrays or tensors, received {type(wrong).__name__}; try smelt.tensor(...)")
            ) from None
        form = self._known.get(key)
        if form is None:
            form = self._form(key)
        for i, a in enumerate(arrays):
            if not a.flags.c_contiguous:
                arrays[i] = np.ascontiguousarray(a)
        shape = arrays[0].shape
        rows = shape[0] if shape else 0
        if form.result is LEAF and len(arrays) == 1:
            self._last = (shape, arrays[0].dtype, form.executable.short_call(rows))
        outputs = form.executable.call(arrays, rows)
        return wrap(outputs[0]) if form.result is LEAF else give(form.result, map(wrap, outputs))

    def _form(self, specs: Specs) -> _Form:
        """Return the form for inputs of these shapes and dtypes, compiled if there is none."""
        if not specs:
            raise TypeError(
                at_user_line(f"{type(self._model).__name__}: expected an array or tensor, received nothing")
            )
        batch = specs[0][0][0] if specs[0][0] else 0
        kind = tuple(((shape[:1] == (batch,), *shape[1:]), dtype) for shape, dtype in specs)
        with self._lock:
            form = self._forms.get((kind, min(batch, 2) or 2)) or self._forms.get((kind, -batch))
            if form is None:
                traced = tuple(((2, *s[1:]) if s[:1] == (0,) == (batch,) else s, d) for s, d in specs)
                started = time.perf_counter()
                with not_collecting():
                    form = _Form(self._model, traced, self._values, HALVES.get(self.precision))
                self.compile_seconds += time.perf_counter() - started
                self._forms[(kind, -batch if form.fixed else min(batch, 2) or 2)] = form
            if len(self._known) >= MOST_SHAPES:
                self._known.clear()
            self._known[specs] = form
            self._latest = form
        return form

    # --- what instruments look at --------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The model's class."""
        return type(self._model).__name__

    @property
    def graph(self) -> Graph:
        """The frozen graph of the form compiled or looked up last.

        Raises
        ------
        TraceError
            Before the first call.
        """
        if not self._forms:
            raise TraceError(at_user_line(f"{self.name} has not been called yet: there is no graph"))
        return self._latest.frozen.graph

    def lowered(self) -> program.Lowered:
        """Return the kernels of :attr:`graph`, lowered for this processor."""
        graph = self.graph
        return program.lower(graph, None, host(), apart=self._latest.apart)

    @property
    def library(self) -> jit.Library:
        """The machine code of the form compiled or looked up last."""
        return self._latest.executable.library

    @contextlib.contextmanager
    def replaced(self, address: int) -> Iterator[np.ndarray]:
        """Run another native step of the same kernels for a while; yields the context's words."""
        with self._latest.executable.replaced(address) as words:
            yield words


@contextlib.contextmanager
def _evaluating(model: Module) -> Iterator[None]:
    """Let the model and its parts be in evaluation mode for a while."""
    before = [(m, m._training) for _, m in model.named_modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in before:
            module._training = mode


__all__ = ["Inference"]
