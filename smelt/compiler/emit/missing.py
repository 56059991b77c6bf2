"""Write operations that a processor has no instruction for, so that no function of a library is called for them.

In: the names of values. Out: LLVM text, of a few operations that every processor with or without a float unit has.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from smelt.compiler.emit.halves import Line

_WHOLE = {"float": 2.0**23, "double": 2.0**52}  # from here on, every number is a whole one


def largest(line: Line, op: str, a: str, b: str, type_: str, lanes: int) -> str:
    """Return the text of the larger (``max``) or smaller of two numbers; of NaN when either is."""
    condition = "i1" if lanes == 1 else f"<{lanes} x i1>"
    first = line(f"fcmp {'olt' if op == 'max' else 'ogt'} {type_} {a}, {b}")
    if not is_number(b):
        nan = line(f"fcmp uno {type_} {b}, {b}")
        first = line(f"or {condition} {first}, {nan}")
    return f"select {condition} {first}, {type_} {b}, {type_} {a}"


def is_number(value: str) -> bool:
    """Return whether the name of a value is that of a floating-point constant that is not NaN."""
    constant = value.startswith("0x") or (value.startswith("splat (") and " 0x" in value)
    return constant and "0x7FF" not in value.replace("0x7FF0000000000000", "")


def rounded(line: Line, declare: Callable[[str], None], op: str, a: str, kind: str, lanes: int) -> str:
    """Return the text of a number rounded to the nearest whole one, ties to even (``rint``), or down (``floor``)."""
    type_, suffix = kind, "f32" if kind == "float" else "f64"
    condition = "i1"
    if lanes > 1:
        type_, suffix, condition = f"<{lanes} x {kind}>", f"v{lanes}{suffix}", f"<{lanes} x i1>"

    def c(value: float) -> str:
        text = f"0x{struct.pack('>d', value).hex().upper()}"
        return text if lanes == 1 else f"splat ({kind} {text})"

    def call(name: str, *args: str) -> str:
        declare(f"{type_} @llvm.{name}.{suffix}({', '.join([type_] * len(args))})")
        return f"call {type_} @llvm.{name}.{suffix}({', '.join(f'{type_} {x}' for x in args)})"

    size = line(call("fabs", a))
    up = line(f"fadd {type_} {size}, {c(_WHOLE[kind])}")
    near = line(f"fsub {type_} {up}, {c(_WHOLE[kind])}")
    out = line(call("copysign", near, a))
    if op == "floor":
        above = line(f"fcmp ogt {type_} {out}, {a}")
        less = line(f"fsub {type_} {out}, {c(1.0)}")
        out = line(f"select {condition} {above}, {type_} {less}, {type_} {out}")
    small = line(f"fcmp olt {type_} {size}, {c(_WHOLE[kind])}")
    return f"select {condition} {small}, {type_} {out}, {type_} {a}"
