"""Custom operations: a user's function as a node of the graph.

In: a :class:`Function` (what to run and how its results follow from its operands) and tensors. Out: its results, held
to what was declared. A native function has the signature :data:`PROTOTYPE` describes; a NumPy function is called
through the same signature by compiled steps (:mod:`smelt.runtime.calls`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from smelt.errors import ShapeError, at_user_line, user_line
from smelt.ops.primitive import DTypes, Primitive, Rows, Spec

SLICES = 16  # calls of a native per-sample function: a number of the data's, so that bits do not depend on threads
DONE = 1  # what a native function returns; 0 is what one of Numba's returns that raised

PROTOTYPE = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
"""``int32_t f(const void **inputs, void **outputs, const int64_t *sizes, const int64_t **shapes)``.

``sizes[k]`` and ``shapes[k]`` are the number of elements and the sizes of the axes of operand ``k``, inputs before
outputs; all lie densely in C order.
"""


@dataclass(eq=False)
class Function:
    """What a custom operation runs.

    Attributes
    ----------
    name : str
        Shown in graphs and errors.
    evaluate : callable or None
        Takes and returns NumPy arrays. None for a native function.
    address : int
        Of a native function; ``keep`` holds its machine code alive.
    out : callable or None
        Gives the results' shapes and dtypes from the operands'; None means those of the first operand.
    inputs : tuple of (dtype, rank or None), or None
        What the operands must be.
    samples : tuple of int, or None
        Of a native function: operands whose first axis holds samples that do not see each other; ``()`` means all.
    gradient : callable or None
        ``(*grads, *results, *operands)`` to a gradient for each operand.
    """

    name: str
    evaluate: Callable[..., Any] | None = None
    address: int = 0
    keep: Any = None
    out: Callable[..., Any] | None = None
    inputs: tuple[tuple[str, int | None], ...] | None = None
    samples: tuple[int, ...] | None = None
    gradient: Callable[..., Any] | None = None

    @property
    def kind(self) -> str:
        """What decides the code of a call, besides shapes."""
        kind = "numpy" if self.evaluate else "native"
        if self.samples is None:
            return kind
        return f"{kind} per sample{f' of {self.samples}' if self.samples else ''}"

    # --- shapes ------------------------------------------------------------------------------------------------

    def infer(self, specs: Sequence[Spec]) -> list[Spec]:
        """Return what the results are, and how they follow the batch."""
        self._check_inputs(specs)
        plain = [Spec(s.shape, s.dtype) for s in specs]
        outs = self._declared(plain)
        if self.samples is not None:
            sizes = {(*s.shape, -1)[0] for s in (*(plain[i] for i in self.batch(len(specs))), *outs)}
            if len(sizes) != 1 or -1 in sizes:
                raise ShapeError(
                    f"{self.name} works on samples: expected one size of the first axis, received "
                    f"{', '.join(map(str, plain))} and results {', '.join(map(str, outs))}"
                )
        return self._follow(specs, outs)

    def _declared(self, specs: list[Spec]) -> list[Spec]:
        """Return what ``out`` gives for operands of these shapes."""
        return _specs(self.name, self.out(*specs) if self.out else specs[:1])

    def batch(self, count: int) -> tuple[int, ...]:
        """Return the operands, of ``count``, whose first axis holds samples."""
        return self.samples or (() if self.samples is None else tuple(range(count)))

    def _check_inputs(self, specs: Sequence[Spec]) -> None:
        wanted = self.inputs
        most = max(self.samples or (0,))
        if not specs or most >= len(specs):
            raise ShapeError(f"{self.name}: expected at least {most + 1} operands, received {len(specs)}")
        if wanted is None:
            return
        if len(specs) != len(wanted):
            raise ShapeError(f"{self.name}: expected {len(wanted)} operands, received {len(specs)}")
        for i, (spec, (dtype, rank)) in enumerate(zip(specs, wanted, strict=True)):
            if spec.dtype != dtype or rank not in (None, len(spec.shape)):
                axes = "" if rank is None else f" of {rank} axes"
                raise ShapeError(f"{self.name}: expected operand {i} to be {dtype}{axes}, received {spec}")

    def _follow(self, specs: Sequence[Spec], outs: list[Spec]) -> list[Spec]:
        """Return the results' specs with the axis that follows the batch, or why that is not known."""
        follow = {s.rows for s in specs if s.rows}
        if not follow:
            return outs
        found: Sequence[Rows | None] | None
        if any(r.axis for r in follow):
            found, why = None, "the batch is not the first axis of its operands"
        elif self.samples is None:
            found, why = self._vary(specs, outs), "the shapes of its results are not those of another batch"
        else:
            batch = self.batch(len(specs))
            right = len(follow) == 1 and all((s.rows is not None) == (i in batch) for i, s in enumerate(specs))
            found, why = [*follow] * len(outs) if right else None, "the batch is not the operands that hold samples"
        if found is None:
            return [Spec(s.shape, s.dtype, None, f"{self.name}: {why}") for s in outs]
        return [Spec(s.shape, s.dtype, r) for s, r in zip(outs, found, strict=True)]

    def _vary(self, specs: Sequence[Spec], outs: Sequence[Spec]) -> list[Rows | None] | None:
        """Return how the results follow the batch: as the shapes do that ``out`` gives for another batch."""
        size = next(s.shape[0] // s.rows.per for s in specs if s.rows)
        other = size - 1 or 2
        varied = [Spec((other * s.rows.per, *s.shape[1:]) if s.rows else s.shape, s.dtype) for s in specs]
        try:
            again = self._declared(varied)
        except Exception:  # of the user's function: it takes this batch only
            return None
        found: list[Rows | None] = []
        for a, b in zip(outs, again, strict=False):
            per = a.shape[0] // size if a.shape else 0
            if a.shape == b.shape:
                found.append(None)
            elif a.shape == (per * size, *a.shape[1:]) and b.shape == (per * other, *a.shape[1:]):
                found.append(Rows(0, per))
        return found if len(found) == len(outs) == len(again) else None

    # --- running -----------------------------------------------------------------------------------------------

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the results, checked; a NumPy function owns the arrays it receives."""
        specs = [Spec(a.shape, a.dtype) for a in arrays]
        outs = self.infer(specs)
        if self.evaluate is None:
            return self._native([np.ascontiguousarray(a).reshape(a.shape) for a in arrays], outs)
        result = self.evaluate(*(np.array(a, order="C") for a in arrays))
        try:
            results = self.checked(result, outs)
        except ShapeError as e:
            raise ShapeError(at_user_line(str(e))) from None
        return [r.copy() for r in results]  # the function may keep, and change, what it returned

    def checked(self, result: Any, outs: Sequence[Spec]) -> list[np.ndarray]:
        """Return what a NumPy function gave as dense arrays, or raise when they are not as declared."""
        results = list(result) if isinstance(result, (tuple, list)) else [result]
        if len(results) != len(outs):
            raise ShapeError(f"{self.name} returned {_count(len(results))}, expected {_count(len(outs))}")
        arrays = [np.asarray(r, order="C") for r in results]
        for i, (array, out) in enumerate(zip(arrays, outs, strict=True)):
            if array.shape != out.shape or array.dtype != out.dtype:
                which = f" as result {i}" if len(outs) > 1 else ""
                raise ShapeError(
                    f"{self.name} returned {array.dtype}{list(array.shape)}{which}, "
                    f"expected {out.dtype}{list(out.shape)}"
                )
        return arrays

    def _native(self, arrays: list[np.ndarray], outs: Sequence[Spec]) -> list[np.ndarray]:
        """Call the native function as compiled steps do: slice by slice where samples do not see each other."""
        results = [np.empty(s.shape, s.dtype) for s in outs]
        operands = [*arrays, *results]
        cut = {*self.batch(len(arrays)), *range(len(arrays), len(operands))} if self.samples is not None else set()
        rows = results[0].shape[0] if cut else 1
        call = PROTOTYPE(self.address)
        for s in range(SLICES if cut else 1):
            low, high = (rows * s // SLICES, rows * (s + 1) // SLICES) if cut else (0, 1)
            if low < high:
                parts = [a[low:high] if k in cut else a for k, a in enumerate(operands)]
                arguments = _arguments(parts, len(arrays))
                code = call(*(ctypes.addressof(a) for a in arguments))
                if code != DONE:
                    raise RuntimeError(at_user_line(failure(self.name, code)))
        return results


def failure(name: str, code: int) -> str:
    """Return what to say of a native function that did not return 1."""
    return f"{name} returned {code}, expected {DONE} (done)"


def _count(n: int) -> str:
    return "1 array" if n == 1 else f"{n} arrays"


def _arguments(parts: Sequence[np.ndarray], inputs: int) -> list[Any]:
    """Return the four arguments of a native call as ctypes arrays."""
    pointers = [a.ctypes.data for a in parts]
    dims = [(ctypes.c_int64 * max(a.ndim, 1))(*a.shape) for a in parts]
    shapes = (ctypes.c_void_p * len(parts))(*(ctypes.addressof(d) for d in dims))
    shapes.keep = dims  # type: ignore[attr-defined]
    first, last = pointers[:inputs], pointers[inputs:]
    sizes = (ctypes.c_int64 * len(parts))(*(a.size for a in parts))
    return [(ctypes.c_void_p * len(first))(*first), (ctypes.c_void_p * len(last))(*last), sizes, shapes]


def _specs(name: str, declared: Any) -> list[Spec]:
    """Return what ``out`` gave as specs: one, or a list of several."""
    several = declared if isinstance(declared, list) else [declared]
    out = []
    for one in several:
        shape, dtype = (one.shape, one.dtype) if isinstance(one, Spec) else _pair(name, one)
        sizes = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
        if not all(isinstance(d, (int, np.integer)) and d >= 0 for d in sizes):
            raise ShapeError(f"{name}: out gave the shape {shape!r}, expected a tuple of sizes ≥ 0")
        try:
            kind = np.dtype(dtype)
        except TypeError:
            raise ShapeError(f"{name}: out gave the dtype {dtype!r}, expected one of {', '.join(DTypes)}") from None
        if kind.name not in DTypes:
            raise ShapeError(f"{name}: out gave the dtype {kind}, expected one of {', '.join(DTypes)}")
        out.append(Spec(tuple(int(d) for d in sizes), kind))
    if not out:
        raise ShapeError(f"{name}: out gave an empty list, expected at least one result")
    return out


def _pair(name: str, one: Any) -> tuple[Any, Any]:
    if not isinstance(one, tuple) or len(one) != 2:
        raise ShapeError(f"{name}: out gave {one!r}, expected (shape, dtype), an operand's spec, or a list of these")
    return one


class Call:
    """One application of a function: nodes that share it are results of one call."""

    __slots__ = ("line", "text", "waiting")

    def __init__(self, text: str) -> None:
        self.text = text  # what decides the code of the call
        self.line = user_line()
        self.waiting: dict[int, np.ndarray] = {}  # eager results that nobody has taken yet

    def __str__(self) -> str:
        return self.text


class Custom(Primitive):
    """Results of calls of a user's function: ``call`` says which call, ``output`` which of its results."""

    def __init__(self, function: Function) -> None:
        self.name, self._samples = f"custom.{function.name}", ()  # not one of Smelt's own, so not registered
        self.function = function

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        return self.function.infer(specs)[attrs["output"]]

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        call, output = attrs["call"], attrs["output"]
        if output not in call.waiting:
            call.waiting = dict(enumerate(self.function.run(arrays)))
        return call.waiting.pop(output)

    def vjp(self, grad: Any, out: Any, inputs: tuple[Any, ...], attrs: dict[str, Any]) -> list[Any]:
        return self.vjp_of_all((grad,), (out,), inputs, attrs["call"])

    def vjp_of_all(self, grads: Sequence[Any], outs: Sequence[Any], inputs: tuple[Any, ...], call: Call) -> list[Any]:
        """Return the gradient of every operand, given those of all results, as the user's rule gives it."""
        name, rule = self.function.name, self.function.gradient
        where = f"  [{call.line}]" if call.line else ""
        if rule is None:
            raise ShapeError(f"{name} has no gradient, and backward needs it: expected gradient=...{where}")
        parts = rule(*grads, *outs, *inputs)
        parts = list(parts) if isinstance(parts, (tuple, list)) else [parts]
        if len(parts) != len(inputs):
            raise ShapeError(f"the gradient of {name} gave {len(parts)} values, expected {len(inputs)}{where}")
        for i, (part, x) in enumerate(zip(parts, inputs, strict=True)):
            if part is None or not x.requires_grad:
                parts[i] = None
                continue
            have, want = getattr(part, "_spec", None), x._spec
            if have is None or (have.shape, have.dtype) != (want.shape, want.dtype):
                received = type(part).__name__ if have is None else have
                raise ShapeError(
                    f"the gradient of {name} gave {received} for operand {i}, expected a tensor {want}{where}"
                )
        return parts
