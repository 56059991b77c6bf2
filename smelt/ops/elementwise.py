"""Elementwise primitives: one row per function, with NumPy's function and the derivative for each input.

In: tensors of one dtype whose shapes broadcast. Out: a tensor of the broadcast shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from smelt.errors import ShapeError
from smelt.ops.primitive import Primitive, Sample, Spec, is_floating, short_dtype
from smelt.ops.shapes import broadcast_rows, broadcast_shapes

BOOL = np.dtype(np.bool_)
_FLOAT, _NUMBER, _LOGICAL = "a floating-point", "a numeric", "a bool"


class Elementwise(Primitive):
    """A function of the elements at one position.

    ``gradients`` holds one rule ``(grad, out, *inputs) -> Tensor`` per input, or None where there is no derivative.
    ``domain`` bounds the test samples to where the function and its derivative exist.
    """

    def __init__(
        self,
        name: str,
        arity: int,
        function: Callable[..., Any],
        gradients: tuple[Callable[..., Any] | None, ...] = (),
        *,
        takes: str = _FLOAT,
        gives: np.dtype | None = None,
        domain: tuple[float, float] = (-2.0, 2.0),
    ) -> None:
        super().__init__(name)
        self.arity, self.function, self.gradients = arity, function, gradients
        self.takes, self.gives, self.domain = takes, gives, domain
        self.differentiable = bool(gradients)

    def _check_kind(self, dtype: np.dtype) -> None:
        ok = {_FLOAT: dtype.kind == "f", _NUMBER: dtype.kind in "fiu", _LOGICAL: dtype.kind == "b"}
        if not ok[self.takes]:
            raise ShapeError(f"{self.name}: expected {self.takes} tensor, received {short_dtype(dtype)}")

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        values = specs[1:] if self.name == "where" else specs
        if self.name != "where":
            self._check_kind(values[0].dtype)
        if any(s.dtype != values[0].dtype for s in values):
            raise ShapeError(f"{self.name}: dtypes differ: {', '.join(str(s) for s in specs)}; cast one of them")
        if self.name == "where" and specs[0].dtype != BOOL:
            raise ShapeError(f"where: expected a bool condition, received {specs[0]}")
        shape = broadcast_shapes(self.name, *(s.shape for s in specs))
        rows, exact = broadcast_rows(specs, shape)
        return Spec(shape, self.gives or values[0].dtype, rows, exact)

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        with np.errstate(all="ignore"):
            out = np.asarray(self.function(*arrays))
        dtype = self.gives or arrays[-1].dtype
        return out if out.dtype == dtype else out.astype(dtype)

    def gradient(self, index: int, grad: Any, out: Any, inputs: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        rule = self.gradients[index] if self.gradients else None
        return None if rule is None else rule(grad, out, *inputs).sum_to(inputs[index].shape)

    def flops(self, specs: tuple[Spec, ...], out: Spec, attrs: dict[str, Any]) -> int:
        return out.size if any(s.dtype.kind == "f" for s in specs) else 0

    def samples(self) -> Iterator[Sample]:
        low, high = self.domain
        shapes: list[tuple[tuple[int, ...], ...]] = [
            ((s,) * self.arity) for s in ((3, 5), (37,), (1,), (), (0, 4), (2, 3, 17))
        ]
        if self.arity == 2:
            shapes += [((4, 1, 5), (3, 1)), ((7,), (2, 7)), ((), (6,))]
        if self.arity == 3:
            shapes += [((4, 1), (4, 6), ()), ((6,), (1, 6), (3, 1))]
        dtype = {_LOGICAL: "bool"}.get(self.takes)
        dtypes = dict.fromkeys(range(self.arity), dtype) if dtype else {}
        if self.name == "where":
            dtypes = {0: "bool"}
        for s in shapes:
            yield Sample(s, dtypes=dtypes, low=low, high=high)
        if self.takes == _NUMBER:
            for integer in ("int64", "int32", "int8", "uint8"):
                yield Sample(((37,),) * self.arity, dtypes=dict.fromkeys(range(self.arity), integer))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    z = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, z) / (1 + z)


def _erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf, otypes=[x.dtype])(x) if x.size else x.copy()


_TWO_OVER_SQRT_PI = 2 / math.sqrt(math.pi)

# --- arithmetic --------------------------------------------------------------------------------------------------
add = Elementwise("add", 2, np.add, (lambda g, y, a, b: g, lambda g, y, a, b: g), takes=_NUMBER)
sub = Elementwise("sub", 2, np.subtract, (lambda g, y, a, b: g, lambda g, y, a, b: -g), takes=_NUMBER)
mul = Elementwise("mul", 2, np.multiply, (lambda g, y, a, b: g * b, lambda g, y, a, b: g * a), takes=_NUMBER)
div = Elementwise("div", 2, np.divide, (lambda g, y, a, b: g / b, lambda g, y, a, b: -g * y / b), domain=(0.5, 2.0))
pow: Elementwise = Elementwise(
    "pow",
    2,
    np.power,
    (
        lambda g, y, a, b: g * b * pow(a, b - 1),
        lambda g, y, a, b: where(a > 0, g * y * log(where(a > 0, a, 1.0)), 0.0),
    ),
    domain=(0.5, 2.0),
)
neg = Elementwise("neg", 1, np.negative, (lambda g, y, x: -g,), takes=_NUMBER)
abs = Elementwise("abs", 1, np.abs, (lambda g, y, x: g * sign(x),), takes=_NUMBER, domain=(0.3, 2.0))
sign: Elementwise = Elementwise("sign", 1, np.sign, takes=_NUMBER)
floor = Elementwise("floor", 1, np.floor)
round = Elementwise("round", 1, np.rint)

# --- functions ---------------------------------------------------------------------------------------------------
exp = Elementwise("exp", 1, np.exp, (lambda g, y, x: g * y,))
log: Elementwise = Elementwise("log", 1, np.log, (lambda g, y, x: g / x,), domain=(0.2, 4.0))
log1p = Elementwise("log1p", 1, np.log1p, (lambda g, y, x: g / (x + 1.0),), domain=(-0.5, 4.0))
sqrt = Elementwise("sqrt", 1, np.sqrt, (lambda g, y, x: g * 0.5 / y,), domain=(0.2, 4.0))
tanh = Elementwise("tanh", 1, np.tanh, (lambda g, y, x: g * (1.0 - y * y),))
sigmoid = Elementwise("sigmoid", 1, _sigmoid, (lambda g, y, x: g * y * (1.0 - y),))
erf = Elementwise("erf", 1, _erf, (lambda g, y, x: g * exp(-x * x) * _TWO_OVER_SQRT_PI,))
relu = Elementwise("relu", 1, lambda x: np.maximum(x, 0), (lambda g, y, x: where(y > 0.0, g, 0.0),))

# --- selection and comparison ------------------------------------------------------------------------------------
# A tie sends its whole gradient to the first operand.
maximum = Elementwise(
    "maximum",
    2,
    np.maximum,
    (lambda g, y, a, b: where(a >= b, g, 0.0), lambda g, y, a, b: where(a >= b, 0.0, g)),
    takes=_NUMBER,
)
minimum = Elementwise(
    "minimum",
    2,
    np.minimum,
    (lambda g, y, a, b: where(a <= b, g, 0.0), lambda g, y, a, b: where(a <= b, 0.0, g)),
    takes=_NUMBER,
)
where: Elementwise = Elementwise(
    "where",
    3,
    np.where,
    (None, lambda g, y, c, a, b: where(c, g, 0.0), lambda g, y, c, a, b: where(c, 0.0, g)),
)
eq = Elementwise("eq", 2, np.equal, takes=_NUMBER, gives=BOOL)
ne = Elementwise("ne", 2, np.not_equal, takes=_NUMBER, gives=BOOL)
lt = Elementwise("lt", 2, np.less, takes=_NUMBER, gives=BOOL)
le = Elementwise("le", 2, np.less_equal, takes=_NUMBER, gives=BOOL)
isfinite = Elementwise("isfinite", 1, np.isfinite, gives=BOOL)
logical_and = Elementwise("logical_and", 2, np.logical_and, takes=_LOGICAL)
logical_or = Elementwise("logical_or", 2, np.logical_or, takes=_LOGICAL)
logical_not = Elementwise("logical_not", 1, np.logical_not, takes=_LOGICAL)


class Cast(Primitive):
    """Convert to ``dtype``; between floating-point types the gradient is converted back."""

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        (x,) = specs
        return Spec(x.shape, np.dtype(attrs["dtype"]), x.rows)

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        with np.errstate(all="ignore"):
            return arrays[0].astype(attrs["dtype"])

    def gradient(self, index: int, grad: Any, out: Any, inputs: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        source = inputs[0].dtype
        if not is_floating(source) or not is_floating(np.dtype(attrs["dtype"])):
            return None
        return grad if grad.dtype == source else cast(grad, dtype=source.name)


cast = Cast(
    "cast",
    (
        Sample(((5, 7),), {"dtype": "float64"}),
        Sample(((5, 7),), {"dtype": "float32"}),
        Sample(((33,),), {"dtype": "int32"}),
        Sample(((3, 9),), {"dtype": "float32"}, dtypes={0: "int64"}),
        Sample(((3, 9),), {"dtype": "float32"}, dtypes={0: "uint8"}, below=256),
        Sample(((0,),), {"dtype": "float64"}),
        Sample(((2, 3),), {"dtype": "float32"}, dtypes={0: "bool"}),
        Sample(((1,),), {"dtype": "float32"}),
        Sample(((35,),), {"dtype": "int64"}, dtypes={0: "bool"}),
        Sample(((35,),), {"dtype": "bool"}, dtypes={0: "int64"}),
        Sample(((35,),), {"dtype": "uint8"}, low=0.0, high=255.0),
        Sample(((35,),), {"dtype": "int8"}, low=-128.0, high=127.0),
        Sample(((35,),), {"dtype": "int32"}, dtypes={0: "int8"}, below=128),
        Sample(((35,),), {"dtype": "int8"}, dtypes={0: "uint8"}, below=256),
        Sample(((35,),), {"dtype": "int32"}, dtypes={0: "int64"}, below=2**31),
        Sample(((35,),), {"dtype": "float64"}, dtypes={0: "uint32"}, below=2**32),
    ),
)
