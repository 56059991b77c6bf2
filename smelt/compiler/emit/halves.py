"""Write conversions between float32 and the 16-bit types, which kernels hold as integers, and products of their pairs.

In: the names of values. Out: LLVM text. Rounding is to the nearest, ties to even. A bfloat16 is the upper half of a
float32: widening is a shift everywhere; narrowing is one instruction where the processor has it, integer arithmetic
elsewhere. Float16 is converted by the processor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from smelt.compiler.isa import Isa

Line = Callable[[str], str]  # appends ``%t = text`` and returns %t


def _of(kind: str, lanes: int) -> str:
    return kind if lanes == 1 else f"<{lanes} x {kind}>"


def _splat(kind: str, lanes: int, number: int) -> str:
    return str(number) if lanes == 1 else f"splat ({kind} {number})"


def widen(line: Line, value: str, dtype: str, lanes: int) -> str:
    """Return the text of a 16-bit value in float32."""
    short, whole, real = _of("i16", lanes), _of("i32", lanes), _of("float", lanes)
    if dtype == "f16":
        half = line(f"bitcast {short} {value} to {_of('half', lanes)}")
        return f"fpext {_of('half', lanes)} {half} to {real}"
    wide = line(f"zext {short} {value} to {whole}")
    bits = line(f"shl {whole} {wide}, {_splat('i32', lanes, 16)}")
    return f"bitcast {whole} {bits} to {real}"


def narrow(line: Line, value: str, dtype: str, lanes: int, isa: Isa) -> str:
    """Return the text of a float32 value rounded to 16 bits."""
    short, whole, real = _of("i16", lanes), _of("i32", lanes), _of("float", lanes)
    if dtype == "f16" or isa.bf16:
        kind = _of("half" if dtype == "f16" else "bfloat", lanes)
        half = line(f"fptrunc {real} {value} to {kind}")
        return f"bitcast {kind} {half} to {short}"

    def c(number: int) -> str:
        return _splat("i32", lanes, number)

    bits = line(f"bitcast {real} {value} to {whole}")
    high = line(f"lshr {whole} {bits}, {c(16)}")
    odd = line(f"and {whole} {high}, {c(1)}")
    up = line(f"add {whole} {odd}, {c(0x7FFF)}")
    sum_ = line(f"add {whole} {bits}, {up}")
    rounded = line(f"lshr {whole} {sum_}, {c(16)}")
    quiet = line(f"or {whole} {high}, {c(0x40)}")  # a NaN stays one: rounding it could give an infinity
    nan = line(f"fcmp uno {real} {value}, {value}")
    chosen = line(f"select {_of('i1', lanes)} {nan}, {whole} {quiet}, {whole} {rounded}")
    return f"trunc {whole} {chosen} to {short}"


def dot(line: Line, declare: Callable[[str], None], values: Sequence[str], lanes: int, isa: Isa) -> str:
    """Return the text of a float32 sum plus the two products of each lane's pairs of bfloat16."""
    total, a, b = values
    real, both = _of("float", lanes), f"<{2 * lanes} x bfloat>"
    x86 = isa.triple.startswith("x86_64")
    if lanes * 4 in (16, 32, 64) and isa.bf16 and lanes * 4 <= isa.vector_bytes:
        name = f"llvm.x86.avx512bf16.dpbf16ps.{lanes * 32}" if x86 else "llvm.aarch64.neon.bfdot.v4f32.v8bf16"
        declare(f"{real} @{name}({real}, {both}, {both})")
        left, right = (line(f"bitcast {_of('i32', lanes)} {v} to {both}") for v in (a, b))
        return f"call {real} @{name}({real} {total}, {both} {left}, {both} {right})"
    name = f"llvm.fma.{'f32' if lanes == 1 else f'v{lanes}f32'}"
    declare(f"{real} @{name}({real}, {real}, {real})")
    (a_low, b_low), (a_high, b_high) = ([line(unpair(line, v, odd, lanes)) for v in (a, b)] for odd in (0, 1))
    first = line(f"call {real} @{name}({real} {a_low}, {real} {b_low}, {real} {total})")
    return f"call {real} @{name}({real} {a_high}, {real} {b_high}, {real} {first})"


def unpair(line: Line, value: str, odd: int, lanes: int) -> str:
    """Return the text of the even or odd bfloat16 of each pair, in float32."""
    whole = _of("i32", lanes)
    if odd:
        bits = line(f"and {whole} {value}, {_splat('i32', lanes, 0xFFFF0000 - (1 << 32))}")
    else:
        bits = line(f"shl {whole} {value}, {_splat('i32', lanes, 16)}")
    return f"bitcast {whole} {bits} to {_of('float', lanes)}"
