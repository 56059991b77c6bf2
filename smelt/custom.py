"""Custom operations: a function of the user's in, an operation on tensors out, with a gradient, eager and compiled.

What can be written with Smelt's operations should be: those fuse. This is for the rest: a NumPy or SciPy function, or
machine code of Numba, Cython or C.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from smelt.autograd import Record
from smelt.errors import ShapeError, at_user_line
from smelt.ops.custom import Call, Custom, Function
from smelt.ops.pointer import address_of
from smelt.ops.primitive import DTypes, Primitive
from smelt.tensor import Tensor, as_tensor, wrap

Inputs = Sequence[str | tuple[str, int]]


class CustomOp:
    """An operation made by :func:`custom_op`: called with tensors, it gives a tensor, or a tuple of them.

    Attributes
    ----------
    name : str
        As graphs, profiles and errors show it.
    """

    def __init__(self, function: Function) -> None:
        self.name = self.__name__ = function.name
        self._op = Custom(function)

    def __call__(self, *inputs: Any) -> Any:
        """Apply the operation: at once, or as a node of the graph being traced."""
        if not any(isinstance(t, Tensor) for t in inputs):
            inputs = tuple(as_tensor(t) for t in inputs)
        like = next((t for t in inputs if isinstance(t, Tensor)), None)
        tensors = tuple(as_tensor(t, like) for t in inputs)
        try:
            specs = self._op.function.infer([t._spec for t in tensors])
        except ShapeError as e:
            raise ShapeError(at_user_line(str(e))) from None
        kind = self._op.function.kind
        shapes = [f"{s} with {s.rows.per} per sample" if s.rows else str(s) for s in specs]
        call = Call(kind if len(specs) == 1 else f"{kind} -> {', '.join(shapes)}")
        outs = tuple(self._op(*tensors, call=call, output=i) for i in range(len(specs)))
        if len(outs) > 1 and outs[0].requires_grad:
            joint = _Joint(self._op, outs, tensors, call)
            for i, out in enumerate(outs):
                out._record = Record(_PICK, (joint,), {"output": i})  # type: ignore[arg-type]
        for out in outs:
            if out.dtype.kind != "f":
                out.requires_grad, out._record = False, None
        return outs if len(outs) > 1 else outs[0]

    def __deepcopy__(self, memo: Any) -> CustomOp:
        return self  # a copy of a model calls the same function

    def __repr__(self) -> str:
        return f"<custom operation {self.name}>"


class _Joint:
    """Stands for all results of one call while gradients walk back: the user's rule needs them together."""

    __slots__ = ("_record", "_value", "outs", "requires_grad")

    def __init__(self, op: Custom, outs: tuple[Tensor, ...], inputs: tuple[Tensor, ...], call: Call) -> None:
        self.requires_grad = True
        self.outs = tuple(wrap(t._value) for t in outs)
        self._value = outs[0]._value
        self._record = Record(_JOIN, inputs, {"op": op, "call": call})


class _Parts(dict[int, Tensor]):
    """Gradients of some results of a call, by number; adding joins them."""

    def __add__(self, other: _Parts) -> _Parts:
        return _Parts({**self, **other})


class _Pick(Primitive):
    """Take one result of a call."""

    def __init__(self) -> None:
        self.name, self._samples = "custom", ()

    def vjp(self, grad: Any, out: Any, inputs: tuple[Any, ...], attrs: dict[str, Any]) -> list[Any]:
        """Return the gradient of the joint: of this result only."""
        return [_Parts({attrs["output"]: grad})]


class _Join(Primitive):
    """Compute all results of a call."""

    def __init__(self) -> None:
        self.name, self._samples = "custom", ()

    def vjp(self, grad: Any, out: Any, inputs: tuple[Any, ...], attrs: dict[str, Any]) -> list[Any]:
        """Return the gradients of the operands; results that nothing depends on have gradients of zero."""
        grads = []
        for i, y in enumerate(out.outs):
            zero = as_tensor(0.0 if y.dtype.kind == "f" else 0, y)
            grads.append(grad[i] if i in grad else zero.broadcast_to(y.shape))
        return attrs["op"].vjp_of_all(grads, out.outs, inputs, attrs["call"])


_PICK, _JOIN = _Pick(), _Join()


def custom_op(
    function: Any = None,
    *,
    out: Callable[..., Any] | None = None,
    gradient: Callable[..., Any] | None = None,
    per_sample: bool | Sequence[int] = False,
    inputs: Inputs | None = None,
    name: str | None = None,
) -> Any:
    """Make an operation of a function; usable as a decorator.

    Parameters
    ----------
    function : callable or native function
        A function of NumPy arrays that returns an array, or a tuple of them for several results. It receives copies,
        which it owns. Or a native function: of a ``ctypes.CDLL``, a Numba ``cfunc``, or a capsule of Cython's
        ``__pyx_capi__``, of the signature ``int32_t f(const void **inputs, void **outputs, const int64_t *sizes,
        const int64_t **shapes)``, that returns 1 when all is done. Operands lie densely in C order; ``sizes[k]`` and
        ``shapes[k]`` are the elements and the axes of operand ``k``, inputs first, then outputs.
    out : callable, optional
        Receives a spec (``.shape``, ``.dtype``) for each operand and returns a spec or a pair (shape, dtype), or a
        list of these for several results. Default: one result like the first operand.
    gradient : callable, optional
        Receives tensors: the gradient of each result, each result, each operand, in this order; returns the gradient
        of each operand, or None where there is none. Another custom operation, or a function of tensors.
    per_sample : bool or sequence of int, default False
        Whether a native function works on each entry of the first axis by itself: on that of all operands and results,
        or of the operands with these numbers and of all results. It is then called from several threads at once, each
        time for a slice of the samples.
    inputs : sequence of dtype names or (dtype name, axes), optional
        What the operands must be. A native function needs it.
    name : str, optional
        Default: the function's own name.

    Returns
    -------
    CustomOp
        Called with tensors. An exception of a NumPy function comes out of the call, or of the compiled step, as it
        is; the state of a compiled step is then as it was before the step.

    Raises
    ------
    TypeError
        When ``function`` is neither, or a native function has another signature.
    ValueError
        When another argument is not what it should be.

    Examples
    --------
    >>> import numpy as np, smelt
    >>> @smelt.custom_op
    ... def swish_grad(grad, y, x):
    ...     s = 1 / (1 + np.exp(-x))
    ...     return grad * (s + y * (1 - s))
    >>> @smelt.custom_op(gradient=swish_grad)
    ... def swish(x):
    ...     return x / (1 + np.exp(-x))
    >>> w = smelt.Parameter([[0.0, 1.0]])
    >>> swish(w).sum().backward()
    >>> [round(v, 4) for v in w.grad.tolist()[0]]
    [0.5, 0.9277]
    """

    def make(function: Any) -> CustomOp:
        try:
            address = address_of(function)
        except TypeError as e:
            raise TypeError(at_user_line(f"custom_op: {e}")) from None
        if not address and not callable(function):
            kind = type(function).__name__
            raise TypeError(at_user_line(f"custom_op: expected a function or a native function, received {kind}"))
        if address and inputs is None:
            raise ValueError(
                at_user_line("custom_op: a native function cannot check its operands: expected inputs=...")
            )
        if not address and per_sample is not False:
            raise ValueError(at_user_line("custom_op: per_sample is for native functions, received a Python function"))
        title = re.sub(r"\W", "_", name or getattr(function, "__name__", "").replace("<lambda>", "") or "custom")
        made = Function(
            name=title,
            evaluate=None if address else function,
            address=address,
            keep=function,
            out=_callable("out", out),
            inputs=_inputs(inputs),
            samples=_samples(per_sample),
            gradient=_callable("gradient", gradient),
        )
        return CustomOp(made)

    return make if function is None else make(function)


def _callable(name: str, value: Any) -> Any:
    if value is not None and not callable(value):
        raise TypeError(at_user_line(f"custom_op: expected {name} to be a function, received {type(value).__name__}"))
    return value


def _inputs(inputs: Any) -> tuple[tuple[str, int | None], ...] | None:
    if inputs is None:
        return None
    out: list[tuple[str, int | None]] = []
    for one in [inputs] if isinstance(inputs, str) else inputs:
        dtype, rank = one if isinstance(one, tuple) and len(one) == 2 else (one, None)
        if dtype not in DTypes or not (rank is None or (type(rank) is int and rank >= 0)):
            kinds = ", ".join(DTypes)
            raise ValueError(at_user_line(f"custom_op: expected inputs of {kinds}, or (dtype, axes); received {one!r}"))
        out.append((dtype, rank))
    return tuple(out)


def _samples(per_sample: Any) -> tuple[int, ...] | None:
    if isinstance(per_sample, bool):
        return () if per_sample else None
    numbers = tuple(per_sample) if isinstance(per_sample, (tuple, list)) else ()
    if not numbers or not all(type(i) is int and i >= 0 for i in numbers):
        raise ValueError(
            at_user_line(f"custom_op: expected per_sample to be a bool or numbers of operands, received {per_sample!r}")
        )
    return numbers


__all__ = ["CustomOp", "custom_op"]
