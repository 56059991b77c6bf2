"""Elementwise primitives as sequences of loop operations; one entry per primitive.

In: a builder and operand values of equal lanes. Out: the result. Float32 functions are polynomials after range
reduction (Cephes, Moshier 1992, for exp, log and tanh; our own Chebyshev fits for erf), the same operations in the
same order in every emitter. Float64, which is for checking, calls the C library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from smelt.compiler.builder import Builder
from smelt.compiler.loops import Value


class Math:
    """Arithmetic on values with constants made on the fly."""

    def __init__(self, builder: Builder, like: Value) -> None:
        self.b, self.dtype, self.lanes = builder, like.dtype, like.lanes

    def c(self, number: float, dtype: str = "") -> Value:
        """Return a constant like the operand."""
        return self.b.const(number, dtype or self.dtype, self.lanes)

    def __getattr__(self, name: str) -> Callable[..., Value]:
        def operation(*args: Any, dtype: str = "") -> Value:
            like = next(a for a in args if isinstance(a, Value))
            values = [a if isinstance(a, Value) else self.c(a, like.dtype) for a in args]
            return self.b.op(name, *values, dtype=dtype)

        return operation

    def less(self, a: Any, b: Any) -> Value:
        """Return a < b."""
        return self.lt(a, b, dtype="bool")

    def select(self, condition: Value, a: Any, b: Any) -> Value:
        """Return a where the condition holds, else b."""
        like = a if isinstance(a, Value) else (b if isinstance(b, Value) else None)
        dtype = like.dtype if like else self.dtype
        a, b = (v if isinstance(v, Value) else self.c(v, dtype) for v in (a, b))
        return self.b.op("select", condition, a, b, dtype=dtype)

    def polynomial(self, x: Value, coefficients: tuple[float, ...]) -> Value:
        """Return the polynomial by Horner's rule; the highest power comes first."""
        y = self.c(coefficients[0])
        for c in coefficients[1:]:
            y = self.fma(y, x, self.c(c))
        return y


def _exp2i(m: Math, n: Value) -> Value:
    """Return 2**n for whole float n in [-126, 127]; adding 1.5 * 2**23 leaves n in the low bits of the sum."""
    low = m.b.op("bitcast", m.add(n, 12582912.0), dtype="i32")
    bits = m.shl(m.add(low, 127), m.c(23, "i32"))
    return m.b.op("bitcast", bits, dtype="f32")


def _exp(m: Math, x: Value) -> Value:
    x0 = x
    x = m.min(m.max(x, m.c(-104.0)), m.c(89.0))
    n = m.rint(m.mul(x, 1.44269504088896341))
    r = m.fma(n, m.c(-0.693359375), x)
    r = m.fma(n, m.c(2.12194440e-4), r)
    p = m.polynomial(
        r,
        (
            1.9875691500e-4,
            1.3981999507e-3,
            8.3334519073e-3,
            4.1665795894e-2,
            1.6666665459e-1,
            5.0000001201e-1,
        ),
    )
    y = m.add(m.fma(p, m.mul(r, r), r), 1.0)
    half = m.floor(m.mul(n, 0.5))  # in two steps, because 2**128 alone is not a float32
    y = m.mul(m.mul(y, _exp2i(m, half)), _exp2i(m, m.sub(n, half)))
    return m.select(m.less(88.722839, x0), float("inf"), y)


def _log(m: Math, x: Value) -> Value:
    bits = m.b.op("bitcast", x, dtype="i32")
    # Move the mantissa into [sqrt(1/2), sqrt(2)): 0x3f3504f3 is sqrt(1/2).
    shifted = m.sub(bits, 0x3F3504F3)
    e = _exponent(m, shifted)
    mantissa = m.b.op("bitcast", m.add(m.b.op("and", shifted, m.c(0x007FFFFF, "i32")), 0x3F3504F3), dtype="f32")
    f = m.sub(mantissa, 1.0)
    z = m.mul(f, f)
    p = m.polynomial(
        f,
        (
            7.0376836292e-2,
            -1.1514610310e-1,
            1.1676998740e-1,
            -1.2420140846e-1,
            1.4249322787e-1,
            -1.6668057665e-1,
            2.0000714765e-1,
            -2.4999993993e-1,
            3.3333331174e-1,
        ),
    )
    y = m.mul(m.mul(p, z), f)
    y = m.fma(e, m.c(-2.12194440e-4), y)
    y = m.fma(z, m.c(-0.5), y)
    y = m.fma(e, m.c(0.693359375), m.add(f, y))
    y = m.select(m.less(x, float("inf")), y, x)
    y = m.select(m.less(x, 1.17549435e-38), float("-inf"), y)  # denormals count as zero
    y = m.select(m.less(x, -1.17549435e-38), float("nan"), y)
    return m.select(m.eq(x, x, dtype="bool"), y, x)


def _exponent(m: Math, shifted: Value) -> Value:
    """Return the arithmetic shift right by 23 of an i32 as a float."""
    high = m.b.op("and", shifted, m.c(-8388608, "i32"))
    return m.mul(m.b.op("cast", high, dtype="f32"), 2.0**-23)


def _log1p(m: Math, x: Value) -> Value:
    u = m.add(x, 1.0)
    corrected = m.mul(_log(m, u), m.div(x, m.sub(u, 1.0)))
    y = m.select(m.eq(u, 1.0, dtype="bool"), x, corrected)
    return m.select(m.eq(u, float("inf"), dtype="bool"), u, y)


def _sigmoid(m: Math, x: Value) -> Value:
    z = lower(m.b, "exp", [m.neg(m.abs(x))])
    return m.div(m.select(m.le(0.0, x, dtype="bool"), 1.0, z), m.add(z, 1.0))


def _tanh(m: Math, x: Value) -> Value:
    a = m.abs(x)
    z = m.mul(x, x)
    small = m.polynomial(
        z,
        (
            -5.70498872745e-3,
            2.06390887954e-2,
            -5.37397155531e-2,
            1.33314422036e-1,
            -3.33332819422e-1,
        ),
    )
    small = m.fma(m.mul(small, z), x, x)
    large = m.sub(1.0, m.div(m.c(2.0), m.add(_exp(m, m.add(a, a)), 1.0)))
    large = m.select(m.less(x, 0.0), m.neg(large), large)
    return m.select(m.less(a, 0.625), small, large)


# Chebyshev fits in float64, rounded to float32: erf(x) = x P(x^2) below 1; 1 - exp(-x^2) Q(1 / (1 + x/2)) from 1 to 4.
# Largest relative error over both pieces 1.7e-7.
_ERF_SMALL = (
    7.882497448008507e-05,
    -0.0008018855005502701,
    0.005189312156289816,
    -0.02685432881116867,
    0.11283597350120544,
    -0.3761262595653534,
    1.1283791065216064,
)
_ERF_LARGE = (
    0.012932905927300453,
    0.06853048503398895,
    -0.38464614748954773,
    0.47981640696525574,
    -0.05379359796643257,
    0.3289463222026825,
    0.26410767436027527,
    0.2843257784843445,
    -0.00012040259025525302,
)


def _erf(m: Math, x: Value) -> Value:
    a = m.abs(x)
    z = m.mul(x, x)
    small = m.mul(x, m.polynomial(z, _ERF_SMALL))
    t = m.div(m.c(1.0), m.fma(a, m.c(0.5), m.c(1.0)))
    tail = m.mul(_exp(m, m.neg(z)), m.polynomial(t, _ERF_LARGE))
    large = m.select(m.less(4.0, a), 1.0, m.sub(1.0, tail))
    large = m.select(m.less(x, 0.0), m.neg(large), large)
    return m.select(m.less(a, 1.0), small, m.select(m.eq(x, x, dtype="bool"), large, x))


def _pow(m: Math, x: Value, y: Value) -> Value:
    """Go through float64: exp(y log x) in float32 would lose the digits that the exponent multiplies."""
    wide = [m.b.op("cast", v, dtype="f64") for v in (x, y)]
    return m.b.op("cast", m.b.op("libm", *wide, imm=("pow",)), dtype="f32")


def _sign(m: Math, x: Value) -> Value:
    positive = m.select(m.less(0, x), 1, m.mul(x, 0) if x.dtype in ("f32", "f64") else 0)
    return positive if x.dtype in ("u8", "u32") else m.select(m.less(x, 0), -1, positive)


def _abs(m: Math, x: Value) -> Value:
    if x.dtype in ("f32", "f64"):
        return m.abs(x)
    return x if x.dtype in ("u8", "u32") else m.max(x, m.neg(x))


FUNCTIONS: dict[str, Callable[..., Value]] = {
    "exp": _exp,
    "log": _log,
    "log1p": _log1p,
    "tanh": _tanh,
    "erf": _erf,
    "pow": _pow,
}

POINTWISE: dict[str, Callable[..., Value]] = {
    "add": lambda m, a, b: m.add(a, b),
    "sub": lambda m, a, b: m.sub(a, b),
    "mul": lambda m, a, b: m.mul(a, b),
    "div": lambda m, a, b: m.div(a, b),
    "neg": lambda m, a: m.neg(a),
    "abs": _abs,
    "sign": _sign,
    "floor": lambda m, a: m.floor(a),
    "round": lambda m, a: m.rint(a),
    "sqrt": lambda m, a: m.sqrt(a),
    "sigmoid": _sigmoid,
    "relu": lambda m, a: m.max(a, m.c(0.0)),
    "maximum": lambda m, a, b: m.max(a, b),
    "minimum": lambda m, a, b: m.min(a, b),
    "where": lambda m, c, a, b: m.select(c, a, b),
    "eq": lambda m, a, b: m.eq(a, b, dtype="bool"),
    "ne": lambda m, a, b: m.ne(a, b, dtype="bool"),
    "lt": lambda m, a, b: m.lt(a, b, dtype="bool"),
    "le": lambda m, a, b: m.le(a, b, dtype="bool"),
    "isfinite": lambda m, a: m.less(m.abs(a), float("inf")),
    "logical_and": lambda m, a, b: m.b.op("and", a, b),
    "logical_or": lambda m, a, b: m.b.op("or", a, b),
    "logical_not": lambda m, a: m.b.op("xor", a, m.c(True, "bool")),
}


def lower(builder: Builder, name: str, args: list[Value]) -> Value:
    """Return the value of the elementwise primitive ``name``."""
    m = Math(builder, args[-1])
    if name in FUNCTIONS:
        if args[0].dtype == "f64":
            return builder.op("libm", *args, imm=(name,))
        return FUNCTIONS[name](m, *args)
    return POINTWISE[name](m, *args)


def random_bits(builder: Builder, key: tuple[Value, Value], x0: Value, x1: Value) -> Value:
    """Return word 0 of Threefry-2x32-20 (see :mod:`smelt.ops.random`)."""
    from smelt.ops.random import PARITY, ROTATIONS

    m = Math(builder, x0)
    parity = m.xor(m.xor(key[0], key[1]), m.c(PARITY, "u32"))
    ks = (key[0], key[1], parity)
    x0, x1 = m.add(x0, ks[0]), m.add(x1, ks[1])
    for block in range(5):
        for r in ROTATIONS[:4] if block % 2 == 0 else ROTATIONS[4:]:
            x0 = m.add(x0, x1)
            x1 = builder.op("or", m.shl(x1, m.c(r, "u32")), m.lshr(x1, m.c(32 - r, "u32")))
            x1 = m.xor(x1, x0)
        x0 = m.add(x0, ks[(block + 1) % 3])
        x1 = m.add(m.add(x1, ks[(block + 2) % 3]), block + 1)
    return x0
