"""Write operations of the loops as C expressions.

In: an operation and the texts of its operands. Out: a text, with how tightly it binds, and what it needs beside: small
functions of our own, or ``math.h``. Signed integers wrap around, as everywhere in Smelt; in C that takes casts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from smelt.compiler.loops import Instr

TYPE = {"f32": "float", "f64": "double", "i32": "int32_t", "u32": "uint32_t", "i64": "int64_t", "u8": "uint8_t"}
TYPE |= {"i8": "int8_t", "bool": "uint8_t"}
ATOM, PRODUCT, SUM, LOOSE = 3, 2, 1, 0  # how tightly an expression binds
FLOATS = ("f32", "f64")
_WIDTH = {"i32": 32, "u32": 32, "i64": 64, "u8": 8, "i8": 8}
_INFIX = {"add": ("+", SUM), "sub": ("-", SUM), "mul": ("*", PRODUCT), "div": ("/", PRODUCT)}
_BITWISE = {"and": "&", "or": "|", "xor": "^"}
_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<="}
_LIBRARY = {"sqrt": "sqrt", "floor": "floor", "rint": "rint", "abs": "fabs"}
_RINT = """\
  const float low = floorf(x), half = floorf(0.5f * low), rest = x - low;
  return rest < 0.5f || (rest == 0.5f && half + half == low) ? low : low + 1.0f;"""
_LIBRARY64 = ("pow", "exp", "log", "log1p", "tanh", "erf")


@dataclass(frozen=True)
class Text:
    """An expression and how tightly it binds."""

    text: str
    level: int = ATOM

    def at(self, level: int) -> str:
        """Return the text as an operand of something that binds like ``level``."""
        return self.text if self.level >= level else f"({self.text})"


class Needs:
    """What the expressions of a file rely on: small functions, by name, and whether ``math.h`` is among it."""

    def __init__(self) -> None:
        self.functions: dict[str, str] = {}
        self.math = False

    def function(self, name: str, result: str, parameters: str, body: str) -> str:
        """Have a small function written once; return its name."""
        self.functions[name] = f"static {result} {name}({parameters})\n{{\n{body}\n}}"
        return name

    def library(self, name: str, dtype: str) -> str:
        """Return the name of a function of ``math.h``."""
        self.math = True
        return f"{name}f" if dtype == "f32" else name

    def number(self, value: float | int | bool, dtype: str) -> Text:
        """Return a constant, to the last digit; infinities and NaN are macros of ``math.h``."""
        if dtype not in FLOATS:
            return _whole_number(int(value), dtype)
        with np.errstate(over="ignore"):
            real = np.float32(value) if dtype == "f32" else np.float64(value)
        if np.isfinite(real):
            text = str(real)
            text = text if "." in text or "e" in text else f"{text}.0"
            return Text(text + ("f" if dtype == "f32" else ""), SUM if text.startswith("-") else ATOM)
        self.math = True
        name = "NAN" if np.isnan(real) else "INFINITY"
        return Text(f"{'-' if real < 0 else ''}({TYPE[dtype]}){name}", SUM)


def _whole_number(value: int, dtype: str) -> Text:
    if dtype in ("i32", "i64"):
        lowest = value == -(2 ** (_WIDTH[dtype] - 1))
        return Text(f"INT{_WIDTH[dtype]}_MIN" if lowest else f"INT{_WIDTH[dtype]}_C({value})")
    return Text(f"UINT32_C({value})" if dtype == "u32" else str(value))


def expression(s: Instr, args: Sequence[Text], needs: Needs) -> Text:
    """Return the expression of an operation on values."""
    assert s.out is not None
    dtype = s.out.dtype
    if s.op in _INFIX:
        return _arithmetic(s.op, dtype, args)
    if s.op == "fma":
        a, b, c = args
        return Text(f"{c.at(SUM)} + {a.at(PRODUCT)} * {b.at(ATOM)}", SUM)
    if s.op in _COMPARE:
        return Text(f"{args[0].at(SUM)} {_COMPARE[s.op]} {args[1].at(SUM)}", LOOSE)
    if s.op == "select":
        return Text(f"{args[0].at(SUM)} ? {args[1].at(SUM)} : {args[2].at(SUM)}", LOOSE)
    if s.op in _BITWISE:
        return Text(f"{args[0].at(ATOM)} {_BITWISE[s.op]} {args[1].at(ATOM)}", LOOSE)
    if s.op in ("shl", "lshr"):
        sign = "<<" if s.op == "shl" else ">>"
        return Text(f"({TYPE[dtype]})(({_unsigned(dtype)}){args[0].at(ATOM)} {sign} {args[1].at(ATOM)})", PRODUCT)
    if s.op == "neg":
        if dtype in FLOATS:
            return Text(f"-{args[0].at(ATOM)}", PRODUCT)
        return _arithmetic("sub", dtype, [Text("0"), *args])
    if s.op in ("max", "min"):
        return _largest(s.op, dtype, args, needs)
    if s.op in _LIBRARY:
        return Text(f"{_library(s.op, dtype, needs)}({args[0].text})")
    if s.op == "libm" and s.imm[0] in _LIBRARY64 and dtype == "f64":
        return Text(f"{needs.library(s.imm[0], dtype)}({', '.join(a.text for a in args)})")
    if s.op == "bitcast":
        return _bitcast(s.args[0].dtype, dtype, args[0], needs)
    if s.op == "cast":
        return _cast(s.args[0].dtype, dtype, args[0], needs)
    raise ValueError(f"operation {s.op} of {dtype} cannot be written in C")


def _unsigned(dtype: str) -> str:
    return TYPE[dtype] if TYPE[dtype].startswith("u") else f"u{TYPE[dtype]}"


def _arithmetic(op: str, dtype: str, args: Sequence[Text]) -> Text:
    sign, level = _INFIX[op]
    if dtype in FLOATS:
        return Text(f"{args[0].at(level)} {sign} {args[1].at(level + 1)}", level)
    a, b = (f"({_unsigned(dtype)}){x.at(ATOM)}" for x in args)
    return Text(f"({TYPE[dtype]})({a} {sign} {b})", PRODUCT)


def _library(op: str, dtype: str, needs: Needs) -> str:
    """Return the function of an operation; of our own for floats: AVR's ``math.h`` returns doubles and has no rint."""
    name = needs.library(_LIBRARY[op], dtype)
    if dtype != "f32":
        return name
    body = f"  return {name}(x);"
    if op == "rint":
        body = f"#ifdef __AVR__\n{_RINT}\n#else\n{body}\n#endif"
    return needs.function(f"{op}_f32", "float", "float x", body)


def _largest(op: str, dtype: str, args: Sequence[Text], needs: Needs) -> Text:
    """Return the larger or smaller of two numbers; NaN when either is."""
    name, sign = ("larger", "<") if op == "max" else ("smaller", ">")
    nan = " || b != b" if dtype in FLOATS else ""
    type_ = TYPE[dtype]
    needs.function(f"{name}_{dtype}", type_, f"{type_} a, {type_} b", f"  return a {sign} b{nan} ? b : a;")
    return Text(f"{name}_{dtype}({args[0].text}, {args[1].text})")


def _bitcast(source: str, target: str, a: Text, needs: Needs) -> Text:
    union = "  union { float f; int32_t i; } u;\n"
    if source == "f32":
        needs.function("bits_of", "int32_t", "float x", f"{union}  u.f = x;\n  return u.i;")
        return Text(f"bits_of({a.text})") if target == "i32" else Text(f"(uint32_t)bits_of({a.text})", PRODUCT)
    if target == "f32":
        needs.function("float_of", "float", "int32_t x", f"{union}  u.i = x;\n  return u.f;")
        return Text(f"float_of({a.text if source == 'i32' else f'(int32_t){a.at(ATOM)}'})")
    return Text(f"({TYPE[target]}){a.at(ATOM)}", PRODUCT)


def _cast(source: str, target: str, a: Text, needs: Needs) -> Text:
    if target == "bool":
        return Text(f"{a.at(SUM)} != {needs.number(0, source).text}", LOOSE)
    if source not in FLOATS or target in FLOATS:
        return Text(f"({TYPE[target]}){a.at(ATOM)}", PRODUCT)
    bits, signed = _WIDTH[target], target.startswith("i")
    low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1)) if signed else (0.0, 2.0**bits)
    kind, least = ("INT", f"INT{bits}_MIN") if signed else ("UINT", "0")
    name = f"{target}_of_{source}"
    body = (
        "  if (x != x)\n    return 0;\n"
        f"  if (x <= {needs.number(low, source).text})\n    return {least};\n"
        f"  if (x >= {needs.number(high, source).text})\n    return {kind}{bits}_MAX;\n  return ({TYPE[target]})x;"
    )
    needs.function(name, TYPE[target], f"{TYPE[source]} x", body)
    return Text(f"{name}({a.text})")
