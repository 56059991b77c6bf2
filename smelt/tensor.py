"""Tensor and Parameter: a NumPy value, or a node of the graph being traced, with the same operators on both.

In: numbers, arrays, tensors. Out: tensors. An operation runs at once with NumPy, or, inside a traced function, is
appended to the graph; the gradient is the same walk over the same records in either case.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Union

import numpy as np

from smelt import ops
from smelt.autograd import Record, mode, no_grad, walk_back
from smelt.errors import ShapeError, TraceError, at_user_line
from smelt.graph.graph import Node
from smelt.graph.trace import BatchSize, Tracer, changes, current_tracer, plain, plain_shape
from smelt.indexing import resolve
from smelt.ops import primitive
from smelt.ops.contraction import CONTRACTIONS
from smelt.ops.primitive import FLOAT32, DTypes, Primitive, Spec, short_dtype
from smelt.ops.shapes import normalize_axes, normalize_axis
from smelt.pending import pending

ArrayLike = Union["Tensor", np.ndarray, float, int, bool, Sequence[Any]]


class Tensor:
    """An n-dimensional array with gradients.

    Parameters
    ----------
    value : array-like
        Copied unless it is a NumPy array. Python floats become float32, Python ints int64. Supported dtypes are
        float32, float64, int32, int64, uint32, int8, uint8 and bool.
    requires_grad : bool, default False
        Whether ``backward`` leaves a gradient in ``grad``.
    name : str, default ""
        Shown in graphs and errors.

    Examples
    --------
    >>> import smelt
    >>> x = smelt.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> (x * 2).sum().item()
    20.0
    """

    __slots__ = ("__weakref__", "_bound", "_grad", "_record", "_tracer", "_value", "name", "requires_grad")
    __array_priority__ = 1000

    def __init__(self, value: Any, requires_grad: bool = False, name: str = "") -> None:
        self._value: np.ndarray | Node = value if isinstance(value, Node) else _as_array(value)
        self._record: Record | None = None
        self._grad: Tensor | None = None
        self._tracer: Tracer | None = current_tracer()
        self._bound = False  # whether a program has fixed where and in which order the elements lie
        self.requires_grad = requires_grad
        self.name = name

    # --- what it is --------------------------------------------------------------------------------------------

    @property
    def _spec(self) -> Spec:
        v = self._value
        if isinstance(v, Node):
            return v.spec
        tracer = current_tracer()
        if tracer is not None:
            node = tracer.current.get(id(self))
            if node is not None:
                return node.spec
        return Spec(v.shape, v.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        v = self._value
        if isinstance(v, Node):
            return self._tracer.shape_of(v) if self._tracer else v.shape
        return v.shape

    @property
    def dtype(self) -> np.dtype:
        """NumPy dtype of the elements."""
        return self._value.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self._value.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(int(d) for d in self.shape)

    @property
    def grad(self) -> Tensor | None:
        """The gradient left by ``backward`` until an optimizer's ``step`` consumes it, or None."""
        tracer = current_tracer()
        if tracer is not None and self._tracer is not tracer:
            tracer.note_grad_read(self)
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        tracer = current_tracer()
        if tracer is not None and self._tracer is not tracer:
            tracer.note_grad_write(self)
        self._grad = value
        changes.note()

    def __repr__(self) -> str:
        kind = type(self).__name__.lower()
        if isinstance(self._value, Node):
            return f"<traced {self._value.spec}>"
        pending.settle(self._value)
        text = np.array2string(self._value, separator=", ", prefix=kind + "(")
        return f"{kind}({text}, {short_dtype(self.dtype)})"

    def __str__(self) -> str:
        self._concrete("print")
        return repr(self)

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("a tensor without axes has no length")
        return int(self.shape[0])  # of a traced batch: ties the step to its size

    # --- leaving Smelt -----------------------------------------------------------------------------------------

    def _concrete(self, what: str) -> np.ndarray:
        tracer = current_tracer()
        if isinstance(self._value, Node) or (tracer is not None and id(self) in tracer.current):
            raise TraceError(
                at_user_line(
                    f"{what} needs the number, but this tensor is a symbol ({self._spec}) while smelt.compile "
                    "traces the function; return it and look at it outside, use smelt.where instead of `if`, or "
                    "remove @smelt.compile to debug"
                )
            )
        if pending.jobs:
            pending.settle(self._value)
        return self._value

    def __getstate__(self) -> object:
        """Wait for the steps under way: ``copy.deepcopy`` asks for the state."""
        if isinstance(self._value, np.ndarray):
            pending.settle(self._value)
        return object.__getstate__(self)

    def numpy(self) -> np.ndarray:
        """Return the values as a NumPy array: a view, not a copy."""
        return self._concrete("numpy()")

    def item(self) -> Any:
        """Return the only element as a Python number."""
        value = self._concrete("item()")
        if value.size != 1:
            raise ShapeError(at_user_line(f"item(): expected one element, received shape {value.shape}"))
        return value.item()

    def tolist(self) -> Any:
        """Return nested lists of Python numbers."""
        return self._concrete("tolist()").tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        value = self._concrete("conversion to a NumPy array")
        if dtype is not None and np.dtype(dtype) != value.dtype:
            if copy is False:
                raise ValueError(f"a {value.dtype} tensor cannot become {np.dtype(dtype)} without a copy")
            return value.astype(dtype)
        return value.copy() if copy else value

    def __bool__(self) -> bool:
        return bool(self._concrete("a Python `if` or `while`"))

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    def detach(self) -> Tensor:
        """Return the same values without gradient history."""
        tracer = current_tracer()
        out = Tensor(tracer.lift(self) if tracer else self._value)
        return out

    def assign(self, value: ArrayLike) -> None:
        """Overwrite the values in place; shape and dtype stay.

        Raises
        ------
        ShapeError
            When the new value has another shape.
        """
        new = as_tensor(value, like=self)
        if plain_shape(new.shape) != plain_shape(self.shape) or new.dtype != self.dtype:
            raise ShapeError(at_user_line(f"assign: expected {self._spec}, received {new._spec}"))
        tracer = current_tracer()
        if tracer is not None:
            tracer.assign(self, tracer.lift(new))
        else:
            value_now = self._concrete("assign")
            value_now[...] = new._concrete("assign")

    # --- gradients ---------------------------------------------------------------------------------------------

    def backward(self, grad: ArrayLike | None = None) -> None:
        """Add the gradient of this tensor to ``grad`` of every tensor that requires it.

        Parameters
        ----------
        grad : array-like, optional
            Gradient of the result with respect to this tensor; 1 for a scalar.

        Raises
        ------
        ShapeError
            When the tensor is not a scalar and no ``grad`` is given, or nothing in it requires a gradient.

        Examples
        --------
        >>> import smelt
        >>> w = smelt.Parameter([3.0])
        >>> (w * w).sum().backward()
        >>> w.grad.item()
        6.0
        """
        if grad is None:
            if self._spec.size != 1:
                raise ShapeError(at_user_line(f"backward: expected a scalar, received shape {self._spec.shape}"))
            seed = as_tensor(1.0, like=self).broadcast_to(self.shape)
        else:
            seed = as_tensor(grad, like=self).astype(self.dtype)
            if seed._spec.shape != self._spec.shape:
                raise ShapeError(at_user_line(f"backward: expected a gradient {self._spec}, received {seed._spec}"))
        if not self.requires_grad:
            raise ShapeError(at_user_line("backward: nothing this tensor was computed from requires a gradient"))
        with no_grad():
            walk_back(self, seed)

    # --- operators ---------------------------------------------------------------------------------------------

    def _binary(self, op: Primitive, other: Any, swap: bool = False, floating: bool = False) -> Any:
        if not isinstance(other, (Tensor, np.ndarray, np.generic, float, int, bool)):
            return NotImplemented
        if floating and isinstance(other, (float, int)):
            self = self._floating()
        a, b = promote(self, other)
        if floating:
            a, b = a._floating(), b._floating()
        return op(b, a) if swap else op(a, b)

    def __add__(self, other: Any) -> Tensor:
        return self._binary(ops.add, other)

    def __radd__(self, other: Any) -> Tensor:
        return self._binary(ops.add, other, swap=True)

    def __sub__(self, other: Any) -> Tensor:
        return self._binary(ops.sub, other)

    def __rsub__(self, other: Any) -> Tensor:
        return self._binary(ops.sub, other, swap=True)

    def __mul__(self, other: Any) -> Tensor:
        return self._binary(ops.mul, other)

    def __rmul__(self, other: Any) -> Tensor:
        return self._binary(ops.mul, other, swap=True)

    def __truediv__(self, other: Any) -> Tensor:
        return self._binary(ops.div, other, floating=True)

    def __rtruediv__(self, other: Any) -> Tensor:
        return self._binary(ops.div, other, swap=True, floating=True)

    def __pow__(self, other: Any) -> Tensor:
        if isinstance(other, (int, float)) and other == 2:
            return self * self
        return self._binary(ops.pow, other, floating=True)

    def __rpow__(self, other: Any) -> Tensor:
        return self._binary(ops.pow, other, swap=True, floating=True)

    def __matmul__(self, other: Any) -> Tensor:
        return matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return matmul(other, self)

    def __neg__(self) -> Tensor:
        return ops.neg(self)

    def __abs__(self) -> Tensor:
        return ops.abs(self)

    def __invert__(self) -> Tensor:
        return ops.logical_not(self)

    def __and__(self, other: Any) -> Tensor:
        return self._binary(ops.logical_and, other)

    def __or__(self, other: Any) -> Tensor:
        return self._binary(ops.logical_or, other)

    def __eq__(self, other: Any) -> Any:
        return self._binary(ops.eq, other)

    def __ne__(self, other: Any) -> Any:
        return self._binary(ops.ne, other)

    def __lt__(self, other: Any) -> Tensor:
        return self._binary(ops.lt, other)

    def __le__(self, other: Any) -> Tensor:
        return self._binary(ops.le, other)

    def __gt__(self, other: Any) -> Tensor:
        return self._binary(ops.lt, other, swap=True)

    def __ge__(self, other: Any) -> Tensor:
        return self._binary(ops.le, other, swap=True)

    __hash__ = object.__hash__

    def _floating(self) -> Tensor:
        return self if self.dtype.kind == "f" else self.astype("float32")

    def __getitem__(self, index: Any) -> Tensor:
        have = self._spec.shape
        s = resolve(index, have)
        whole = (s.start, s.step, s.size) == ((0,) * self.ndim, (1,) * self.ndim, have)
        out = self if whole else ops.slice_(self, start=s.start, step=s.step, size=s.size)
        shape = self.shape
        return out.reshape(tuple(1 if a is None else shape[a] if s.size[a] == have[a] else s.size[a] for a in s.axes))

    def __iter__(self) -> Iterator[Tensor]:
        for i in range(len(self)):
            yield self[i]

    # --- moving elements ---------------------------------------------------------------------------------------

    def astype(self, dtype: Any) -> Tensor:
        """Return the tensor converted to ``dtype``."""
        name = np.dtype(dtype).name
        if name not in DTypes:
            raise ShapeError(at_user_line(f"astype: expected one of {', '.join(DTypes)}, received {name}"))
        return self if self.dtype == np.dtype(dtype) else ops.cast(self, dtype=name)

    def reshape(self, *shape: Any) -> Tensor:
        """Return the elements in C order under another shape; one size may be -1."""
        if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
            shape = tuple(shape[0])
        sizes = [plain(d) for d in shape]
        if sizes.count(-1) == 1:
            rest = int(np.prod([d for d in sizes if d != -1], dtype=np.int64))
            if rest == 0 or self._spec.size % rest:
                raise ShapeError(at_user_line(f"reshape: {self._spec.shape} does not fit into {tuple(sizes)}"))
            sizes[sizes.index(-1)] = self._spec.size // rest
        if any(d < 0 for d in sizes):
            raise ShapeError(at_user_line(f"reshape: sizes must be ≥ 0, with at most one -1; received {tuple(sizes)}"))
        if tuple(sizes) == self._spec.shape:
            return self
        return ops.reshape(self, shape=tuple(sizes))

    def permute(self, *axes: int) -> Tensor:
        """Return the axes in another order."""
        if len(axes) == 1 and isinstance(axes[0], (tuple, list)):
            axes = tuple(axes[0])
        return ops.permute(self, axes=tuple(normalize_axis("permute", a, self.ndim) for a in axes))

    def transpose(self, a: int, b: int) -> Tensor:
        """Return axes ``a`` and ``b`` exchanged."""
        order = list(range(self.ndim))
        a, b = normalize_axis("transpose", a, self.ndim), normalize_axis("transpose", b, self.ndim)
        order[a], order[b] = order[b], order[a]
        return ops.permute(self, axes=tuple(order))

    @property
    def T(self) -> Tensor:
        """The axes in reverse order."""
        return ops.permute(self, axes=tuple(reversed(range(self.ndim))))

    @property
    def mT(self) -> Tensor:
        """The last two axes exchanged."""
        return self.transpose(-1, -2)

    def flatten(self, start: int = 0) -> Tensor:
        """Return axes ``start`` and later merged into one."""
        start = normalize_axis("flatten", start, max(self.ndim, 1))
        rest = int(np.prod(self._spec.shape[start:], dtype=np.int64))
        return self.reshape(*self.shape[:start], rest)

    def squeeze(self, axis: int) -> Tensor:
        """Return the tensor without ``axis``, which must have size 1."""
        axis = normalize_axis("squeeze", axis, self.ndim)
        if self._spec.shape[axis] != 1:
            raise ShapeError(at_user_line(f"squeeze: axis {axis} of {self._spec.shape} has not size 1"))
        return self.reshape(*self.shape[:axis], *self.shape[axis + 1 :])

    def unsqueeze(self, axis: int) -> Tensor:
        """Return the tensor with a new axis of size 1 at ``axis``."""
        axis = normalize_axis("unsqueeze", axis, self.ndim + 1)
        return self.reshape(*self.shape[:axis], 1, *self.shape[axis:])

    def broadcast_to(self, shape: Sequence[int]) -> Tensor:
        """Return axes of size 1 repeated up to ``shape``."""
        if plain_shape(tuple(shape)) == self._spec.shape:
            return self
        return ops.broadcast_to(self, shape=tuple(shape))

    def sum_to(self, shape: Sequence[int]) -> Tensor:
        """Return the sum over broadcast axes down to ``shape``: the transpose of ``broadcast_to``."""
        have, want = self._spec.shape, plain_shape(tuple(shape))
        if have == want:
            return self
        extra = len(have) - len(want)
        axes = tuple(i for i, d in enumerate(have) if i < extra or (want[i - extra] == 1 and d != 1))
        out = ops.sum_(self, axes=axes) if axes else self
        return out.reshape(tuple(shape)) if out._spec.shape != want else out

    # --- reductions --------------------------------------------------------------------------------------------

    def _reduce(self, op: Primitive, axis: Any, keepdims: bool) -> Tensor:
        axes = normalize_axes(op.name, axis, self.ndim)
        out = op(self, axes=axes)
        if not keepdims:
            return out
        return out.reshape(tuple(1 if i in axes else d for i, d in enumerate(self.shape)))

    def sum(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
        """Return the sum over ``axis`` (default all); integers and bools add up in int64."""
        return (self if self.dtype.kind == "f" else self.astype("int64"))._reduce(ops.sum_, axis, keepdims)

    def mean(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
        """Return the mean over ``axis`` (default all)."""
        x = self._floating()
        return x.sum(axis, keepdims) / x.count(axis)

    def var(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
        """Return the population variance (divided by n) over ``axis`` (default all)."""
        centred = self - self.mean(axis, keepdims=True)
        return (centred * centred).mean(axis, keepdims)

    def max(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
        """Return the maximum over ``axis`` (default all)."""
        return self._reduce(ops.max_, axis, keepdims)

    def min(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
        """Return the minimum over ``axis`` (default all)."""
        return self._mirrored()._reduce(ops.max_, axis, keepdims)._mirrored()

    def _mirrored(self) -> Tensor:
        """Return the elements in opposite order: applied twice, the same elements."""
        if self.dtype.kind in "fb":
            return -self if self.dtype.kind == "f" else ~self
        return (-1 if self.dtype.kind == "i" else int(np.iinfo(self.dtype).max)) - self

    def argmax(self, axis: int | None = None, keepdims: bool = False) -> Tensor:
        """Return the index of the first maximum along ``axis`` (default: of the flattened tensor), int64."""
        return self._reduce(ops.argmax, axis, keepdims)

    def count(self, axis: int | Sequence[int] | None = None) -> Tensor:
        """Return how many elements ``axis`` (default all) holds, as a scalar of this tensor's dtype."""
        axes = normalize_axes("count", axis, self.ndim)
        spec = self._spec
        if spec.rows and spec.rows.axis in axes:
            return ops.count(self, axes=axes, dtype=self.dtype.name)
        n = int(np.prod([spec.shape[a] for a in axes], dtype=np.int64))
        return Tensor(np.asarray(n, self.dtype))

    # --- functions ---------------------------------------------------------------------------------------------

    def exp(self) -> Tensor:
        """Return e to the power of each element."""
        return ops.exp(self._floating())

    def log(self) -> Tensor:
        """Return the natural logarithm of each element."""
        return ops.log(self._floating())

    def sqrt(self) -> Tensor:
        """Return the square root of each element."""
        return ops.sqrt(self._floating())

    def tanh(self) -> Tensor:
        """Return the hyperbolic tangent of each element."""
        return ops.tanh(self._floating())

    def sigmoid(self) -> Tensor:
        """Return 1 / (1 + exp(-x)) of each element."""
        return ops.sigmoid(self._floating())

    def relu(self) -> Tensor:
        """Return max(x, 0) of each element."""
        return ops.relu(self._floating())

    def abs(self) -> Tensor:
        """Return the absolute value of each element."""
        return ops.abs(self)

    def clip(self, low: float, high: float) -> Tensor:
        """Return each element limited to [low, high]."""
        return self._binary(ops.maximum, low)._binary(ops.minimum, high)


class Parameter(Tensor):
    """A tensor that training changes: it requires a gradient.

    Examples
    --------
    >>> import smelt
    >>> smelt.Parameter([[0.5, -0.5]]).requires_grad
    True
    """

    __slots__ = ()

    def __init__(self, value: Any, name: str = "") -> None:
        array = _as_array(value)
        if array.dtype.kind != "f":
            raise ShapeError(at_user_line(f"Parameter: expected floating-point values, received {array.dtype}"))
        super().__init__(array, requires_grad=True, name=name)


def wrap(value: np.ndarray | Node) -> Tensor:
    """Return a tensor of an array or node that is known to be good; a tenth of the cost of ``Tensor(value)``."""
    out = Tensor.__new__(Tensor)
    out._value, out._record, out._grad, out._tracer = value, None, None, current_tracer()
    out._bound, out.requires_grad, out.name = False, False, ""
    return out


def _as_array(value: Any) -> np.ndarray:
    if isinstance(value, Tensor):
        value = value._concrete("Tensor()")
    array = np.asarray(value)
    if not isinstance(value, (np.ndarray, np.generic)):
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        elif array.dtype.kind == "i":
            array = array.astype(np.int64)
    if array.dtype.name not in DTypes or not array.dtype.isnative:
        raise ShapeError(at_user_line(f"expected a dtype of {', '.join(DTypes)}; received {array.dtype}"))
    return array


def tensor(value: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Return a tensor of ``value``: numbers, nested lists, arrays, or tensors.

    Examples
    --------
    >>> import smelt
    >>> smelt.tensor([1, 2, 3]).dtype.name
    'int64'
    """
    array = _as_array(value)
    if dtype is not None:
        array = array.astype(dtype)
    elif isinstance(value, (np.ndarray, Tensor)):
        array = array.copy()
    return Tensor(array, requires_grad)


def as_tensor(value: Any, like: Tensor | None = None) -> Tensor:
    """Return ``value`` itself when it is a tensor, else a tensor; Python numbers take the dtype of ``like``."""
    if isinstance(value, Tensor):
        return value
    if like is not None and isinstance(value, (bool, int, float)):
        if isinstance(value, float) and like.dtype.kind != "f":
            return Tensor(np.asarray(value, np.float32))
        return Tensor(np.asarray(int(value) if isinstance(value, BatchSize) else value, like.dtype))
    if like is not None and not isinstance(value, (np.ndarray, np.generic)):
        return Tensor(np.asarray(value, like.dtype))
    return Tensor(value)


def promote(a: Any, b: Any) -> tuple[Tensor, Tensor]:
    """Return both operands as tensors of one dtype: the wider one, float32 for an integer with a float number."""
    if not isinstance(a, Tensor):
        right = as_tensor(b)
        left = as_tensor(a, like=right)
    else:
        left, right = a, as_tensor(b, like=a)
    if left.dtype != right.dtype:
        kinds = {left.dtype.kind, right.dtype.kind}
        dtype = np.result_type(left.dtype, right.dtype)
        if "f" in kinds and len(kinds) > 1:  # an integer never widens a float, as it would in NumPy
            dtype = left.dtype if left.dtype.kind == "f" else right.dtype
        elif dtype == np.int16:  # what NumPy gives int8 and uint8
            dtype = np.dtype(np.int32)
        left, right = left.astype(dtype), right.astype(dtype)
    return left, right


def apply(op: Primitive, inputs: tuple[Any, ...], attrs: dict[str, Any]) -> Tensor:
    """Run ``op`` on tensors: at once with NumPy, or as a node of the graph being traced."""
    if not all(isinstance(t, Tensor) for t in inputs):
        like = next((t for t in inputs[::-1] if isinstance(t, Tensor)), None)
        inputs = tuple(as_tensor(t, like) for t in inputs)
    if mode.half is not None and op.name in CONTRACTIONS:
        inputs = tuple(ops.cast(t, dtype=mode.half.name) if t.dtype == FLOAT32 else t for t in inputs)
    tracer = current_tracer()
    if tracer is not None:
        if "shape" in attrs:
            attrs = _plain_attrs(attrs, keep_rows=op.name in ("broadcast_to", "random_uniform", "iota"))
        elif "size" in attrs:
            attrs = {**attrs, "size": plain_shape(attrs["size"])}
    try:
        spec = op.infer(*(t._spec for t in inputs), **attrs)
    except ShapeError as e:
        raise ShapeError(at_user_line(str(e))) from None
    value: Any
    if tracer is not None:
        value = tracer.apply(op, inputs, attrs, spec)
    else:
        value = op.evaluate(*(t._concrete(op.name) for t in inputs), **attrs)
    out = wrap(value)
    if mode.grad and op.differentiable and any(t.requires_grad for t in inputs):
        out.requires_grad = True
        out._record = Record(op, inputs, attrs)
    if tracer is None and mode.observe is not None:
        mode.observe(out, op, inputs)
    return out


def _plain_attrs(attrs: dict[str, Any], keep_rows: bool) -> dict[str, Any]:
    shape = attrs["shape"]
    out = {**attrs, "shape": plain_shape(shape)}
    for axis, d in enumerate(shape):
        if keep_rows and isinstance(d, BatchSize):
            out["rows"] = (axis, d.per)
    return out


primitive._dispatch.append(apply)


def matmul(a: ArrayLike, b: ArrayLike) -> Tensor:
    """Return ``a @ b`` with NumPy's rules: leading axes broadcast, 1-D operands are row and column vectors."""
    a = as_tensor(a)
    b = as_tensor(b)
    if a.ndim == 0 or b.ndim == 0:
        raise ShapeError(at_user_line(f"matmul: expected at least one axis each, received {a.shape} @ {b.shape}"))
    row, column = a.ndim == 1, b.ndim == 1
    out = ops.matmul(a.unsqueeze(0) if row else a, b.unsqueeze(1) if column else b)
    if column:
        out = out.squeeze(-1)
    return out.squeeze(-1 if column else -2) if row else out
