"""Write kernels as LLVM text, already vectorized: no optimizer pass is needed to make them fast.

In: :class:`~smelt.compiler.loops.Kernel` objects. Out: one module with functions ``kernel(ctx, lo, hi, buffer, ...)``,
or ``kernel(buffer, ...)`` where the rows of the batch are known. Kernels that differ only in where their buffers lie
share one function.

``ctx`` points to: the rows of this batch (i64), the arena, the team's barrier, the profile's time stamps (or null), how
many arenas there are (threads that work apart have one each), for a step in rounds the rows of the whole batch, the row
that the round begins with (0 for others), then the table of pointers to inputs, outputs, states and constants.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from smelt.compiler.emit import halves, missing
from smelt.compiler.emit.call import emit_call
from smelt.compiler.isa import Isa
from smelt.compiler.loops import Buffer, If, Index, Instr, Kernel, Let, Loop, Stmt, Value
from smelt.ops.primitive import HALVES

ATTRIBUTES = "nounwind noredzone"  # of functions without a context: the stack they take is what they say they take
# Byte offsets in the context; the rows are at 0.
CTX_ARENA, CTX_TEAM, CTX_STAMPS, CTX_ARENAS, CTX_BATCH, CTX_FIRST, CTX_TABLE = 8, 16, 24, 32, 40, 48, 56
_LOADED = {"n": 0, "batch": CTX_BATCH, "first_row": CTX_FIRST}  # variables that kernels find in the context

MEMORY = {"f32": "float", "f64": "double", "i32": "i32", "u32": "i32", "i64": "i64", "u8": "i8", "bool": "i8"}
MEMORY |= {"bf16": "i16", "f16": "i16", "i8": "i8", "pair": "i32"}
ALIGN = {"float": 4, "double": 8, "i64": 8, "i32": 4, "i16": 2, "i8": 1}
REGISTER = {**MEMORY, "bool": "i1"}
_FLOATS = ("f32", "f64")
_ARITHMETIC = {"add": ("fadd", "add"), "sub": ("fsub", "sub"), "mul": ("fmul", "mul"), "div": ("fdiv", "")}
_COMPARE = {"eq": ("oeq", "eq"), "ne": ("une", "ne"), "lt": ("olt", "lt"), "le": ("ole", "le")}
_BITS = {"and": "and", "or": "or", "xor": "xor", "shl": "shl", "lshr": "lshr"}
_INTRINSIC = {"sqrt": "sqrt", "floor": "floor", "rint": "roundeven", "abs": "fabs", "fma": "fma"}
_MINMAX = {"max": ("maximum", "smax", "umax"), "min": ("minimum", "smin", "umin")}


def type_of(dtype: str, lanes: int) -> str:
    """Return the LLVM type of a value in registers."""
    return REGISTER[dtype] if lanes == 1 else f"<{lanes} x {REGISTER[dtype]}>"


def number(value: float | int | bool, dtype: str) -> str:
    """Return a constant; floats as the hexadecimal of the double they round to."""
    if dtype == "bool":
        return "true" if value else "false"
    if dtype in HALVES:
        return str(int(np.asarray(value, HALVES[dtype]).view(np.uint16)))
    if dtype in _FLOATS:
        if dtype == "f32":
            try:
                value = struct.unpack("f", struct.pack("f", value))[0]
            except OverflowError:
                value = float("inf") if value > 0 else float("-inf")
        return "0x" + struct.pack(">d", value).hex().upper()
    return str(int(value))


@dataclass
class _Scope:
    """Lines of one loop body, and what has been computed in it."""

    lines: list[str] = field(default_factory=list)
    known: dict[tuple, str] = field(default_factory=dict)
    vars: set[str] = field(default_factory=set)
    label: str = "entry"
    loop: str = ""  # the variable of the loop this is the body of
    multiples: dict[int, str] = field(default_factory=dict)  # of that variable
    innermost: bool = True


class _Function:
    """Emits one kernel."""

    def __init__(self, module: Module, kernel: Kernel) -> None:
        self.module, self.kernel = module, kernel
        self.scopes = [_Scope(vars={"lo", "hi", *_LOADED})]
        self.names: dict[int, str] = {}
        self.buffers: dict[Buffer, str] = {}  # the parameter of each, in the order of first use
        self.locals: dict[Buffer, str] = {}
        self.int = f"i{8 * module.isa.pointer_bytes}"  # of indices
        self.known: dict[str, int] = {}  # integer variables that are constants
        if module.rows:
            self.known = {"lo": 0, "hi": kernel.range.units(module.rows), "n": module.rows, "first_row": 0}
        self.temps = 0
        self.labels = 0

    def emit(self) -> str:
        """Return everything after the function's name; ``buffers`` then holds what a call must pass."""
        self._body(self.kernel.body)
        lines = self.scopes[0].lines
        buffers = [f"ptr {name}" for name in self.buffers.values()]
        if not self.module.rows:
            buffers = ["ptr noalias %ctx", "i64 %lo", "i64 %hi", *buffers]
        head = f"({', '.join(buffers)}) {self.module.attributes}{{\nentry:"
        stack = [
            f"  {name} = alloca [{b.size} x {MEMORY[b.dtype]}], align {self.module.isa.vector_bytes}"
            for b, name in self.locals.items()
        ]
        return "\n".join([head, *stack, *lines, "  ret void", "}"])

    # --- integers and addresses --------------------------------------------------------------------------------

    def _temp(self) -> str:
        self.temps += 1
        return f"%t{self.temps}"

    def _new(self, text: str) -> str:
        name = self._temp()
        self._line(f"{name} = {text}")
        return name

    def _line(self, text: str) -> None:
        self.scopes[-1].lines.append("  " + text)

    def lines(self, lines: Sequence[str]) -> None:
        """Add lines as they are."""
        self.scopes[-1].lines += lines

    def _scope_of(self, name: str) -> int:
        for depth in range(len(self.scopes) - 1, -1, -1):
            if name in self.scopes[depth].vars:
                return depth
        raise KeyError(f"{self.kernel.name}: variable {name} is not in scope")

    def _once(self, depth: int, key: tuple, text: str) -> str:
        """Emit ``%t = text`` in the scope ``depth``, unless it is known there."""
        scope = self.scopes[depth]
        if key not in scope.known:
            name = self._temp()
            scope.lines.append(f"  {name} = {text}")
            scope.known[key] = name
        return scope.known[key]

    def _var(self, name: str) -> str:
        if name in _LOADED:
            slot = "%ctx"
            if _LOADED[name]:
                slot = self._once(0, (name, "slot"), f"getelementptr i8, ptr %ctx, i64 {_LOADED[name]}")
            return self._once(0, (name,), f"load i64, ptr {slot}, align 8")
        return f"%{name}"

    def _multiple(self, depth: int, name: str, coef: int) -> str:
        """Return the operand of a variable times a constant."""
        scope = self.scopes[depth]
        if coef == 1:
            return self._var(name)
        if name != scope.loop:
            return self._once(depth, ("mul", name, coef), f"mul nsw {self.int} {self._var(name)}, {coef}")
        return scope.multiples.setdefault(coef, f"%{name}.{len(scope.multiples)}")

    def _fold(self, index: Index) -> Index:
        """Return an index without the variables that are constants."""
        if not self.known:
            return index
        out = Index(index.const)
        for name, coef in index.terms:
            out = out + (self.known[name] * coef if name in self.known else Index(0, ((name, coef),)))
        return out

    def _sorted_terms(self, index: Index) -> list[tuple[int, str, int]]:
        return sorted(((self._scope_of(v), v, c) for v, c in index.terms), key=lambda t: t[0])

    def integer(self, index: Index) -> str:
        """Return the operand of an integer index; partial sums are computed in the outermost scope they can be."""
        index = self._fold(index)
        if not index.terms:
            return str(index.const)
        total = ""
        for depth, name, coef in self._sorted_terms(index):
            term = self._multiple(depth, name, coef)
            text = f"add nsw {self.int} {total}, {term}"
            total = term if not total else self._once(depth, ("add", total, term), text)
        if index.const:
            depth = max(d for d, _, _ in self._sorted_terms(index))
            total = self._once(depth, ("add", total, index.const), f"add nsw {self.int} {total}, {index.const}")
        return total

    def slot(self, slot: int) -> str:
        """Return the address of a slot of the pointer table."""
        offset = CTX_TABLE + 8 * slot
        return self._once(0, ("slot", offset), f"getelementptr i8, ptr %ctx, i64 {offset}")

    def pointer_in(self, slot: int) -> str:
        """Return the pointer that a slot of the table holds."""
        return self._once(0, ("pointer", slot), f"load ptr, ptr {self.slot(slot)}, align 8")

    def address(self, buffer: Buffer, index: Index) -> str:
        """Return a pointer; everything that does not vary in the inner loops is added outside of them."""
        element, index = MEMORY[buffer.dtype], self._fold(index)
        if buffer.kind == "local":
            pointer = self.locals.setdefault(buffer, f"%local{len(self.locals)}")
        else:
            pointer = self.buffers.setdefault(buffer, f"%m{len(self.buffers)}.")
        for depth, name, coef in self._sorted_terms(index):
            offset = self._multiple(depth, name, coef)
            pointer = self._once(
                depth,
                ("gep", pointer, offset),
                f"getelementptr {self.module.inbounds}{element}, ptr {pointer}, {self.int} {offset}",
            )
        if index.const:
            depth = len(self.scopes) - 1
            pointer = self._once(
                depth,
                ("gep", pointer, index.const),
                f"getelementptr {element}, ptr {pointer}, {self.int} {index.const}",
            )
        return pointer

    # --- statements --------------------------------------------------------------------------------------------

    def _body(self, body: Sequence[Stmt]) -> None:
        for s in body:
            if isinstance(s, Instr):
                self._instr(s)
            elif isinstance(s, Loop):
                self._loop(s)
            elif isinstance(s, Let):
                self._let(s)
            else:
                self._if(s)

    def _let(self, s: Let) -> None:
        a = [self.integer(x) for x in s.args]
        self.scopes[-1].vars.add(s.var)
        if s.op in ("min", "max"):
            i = self.int
            self.module.declare(f"{i} @llvm.s{s.op}.{i}({i}, {i})")
            self._line(f"%{s.var} = call {i} @llvm.s{s.op}.{i}({i} {a[0]}, {i} {a[1]})")
        elif s.op == "muldiv":
            product = self._temp()
            self._line(f"{product} = mul nsw {self.int} {a[0]}, {a[1]}")
            self._line(f"%{s.var} = sdiv {self.int} {product}, {a[2]}")
        else:
            raise ValueError(f"unknown let {s.op}")

    def _open(self, kind: str, var: str = "") -> str:
        self.labels += 1
        label = f"{kind}{self.labels}"
        self.scopes.append(_Scope(vars={var} if var else set(), label=f"{label}.body", loop=var))
        return label

    def _loop(self, s: Loop) -> None:
        start, stop = self.integer(s.start), self.integer(s.stop)
        firsts = [self._operand(first) for _, first, _ in s.carried]
        for value, _, _ in s.carried:
            self.names[value.number] = f"%v{value.number}"
        label = self._open("loop", s.var)
        self._body(s.body)
        inner = self.scopes.pop()
        outer = self.scopes[-1]
        for scope in self.scopes:
            scope.innermost = False
        counted, multiplied = [(f"%{s.var}", start, s.step)], []
        for coef, name in inner.multiples.items():
            if inner.innermost:
                counted.append((name, self.integer(s.start * coef), s.step * coef))
            else:
                multiplied.append(f"  {name} = mul nsw {self.int} %{s.var}, {coef}")
        before, after = f"%{outer.label}", f"%{inner.label}"
        outer.lines += [f"  br label %{label}", f"{label}:"]
        outer.lines += [
            f"  {v}.phi = phi {self.int} [{first}, {before}], [{v}.next, {after}]" for v, first, _ in counted
        ]
        for (value, _, last), first in zip(s.carried, firsts, strict=True):
            type_ = type_of(value.dtype, value.lanes)
            name = f"%v{value.number}"
            outer.lines.append(f"  {name} = phi {type_} [{first}, {before}], [{self._operand(last)}, {after}]")
        outer.lines += [
            f"  %{s.var}.more = icmp slt {self.int} %{s.var}.phi, {stop}",
            f"  br i1 %{s.var}.more, label %{label}.body, label %{label}.end",
            f"{label}.body:",
        ]
        # Addresses are reduced already. The freeze hides the variable from LLVM's loop strength reduction, which took
        # a third of the time to compile and made no step faster; it must freeze an addition, not the phi itself. For
        # objects it runs: a Cortex-M4 executes a tenth less, with loads that move their pointers on.
        for v, _, _ in counted:
            if self.module.rows:
                outer.lines.append(f"  {v} = add {self.int} {v}.phi, 0")
            else:
                outer.lines += [f"  {v}.same = add {self.int} {v}.phi, 0", f"  {v} = freeze {self.int} {v}.same"]
        outer.lines += [*multiplied, *inner.lines]
        outer.lines += [f"  {v}.next = add nsw {self.int} {v}.phi, {step}" for v, _, step in counted]
        outer.lines += [f"  br label %{label}", f"{label}.end:"]
        outer.label = f"{label}.end"

    def _if(self, s: If) -> None:
        left, right = self.integer(s.left), self.integer(s.right)
        label = self._open("if")
        self._body(s.body)
        inner = self.scopes.pop()
        outer = self.scopes[-1]
        outer.lines += [
            f"  %{label} = icmp slt {self.int} {left}, {right}",
            f"  br i1 %{label}, label %{label}.body, label %{label}.end",
            f"{label}.body:",
            *inner.lines,
            f"  br label %{label}.end",
            f"{label}.end:",
        ]
        outer.label = f"{label}.end"

    def _operand(self, value: Value) -> str:
        return self.names[value.number]

    def _set(self, value: Value, text: str) -> None:
        name = f"%v{value.number}"
        self.names[value.number] = name
        self._line(f"{name} = {text}")

    def _typed(self, value: Value) -> str:
        return f"{type_of(value.dtype, value.lanes)} {self._operand(value)}"

    def _call(self, out: Value, function: str, args: Sequence[Value], suffix: str) -> None:
        types = ", ".join(type_of(a.dtype, a.lanes) for a in args)
        result = type_of(out.dtype, out.lanes)
        self.module.declare(f"{result} @llvm.{function}.{suffix}({types})")
        self._set(out, f"call {result} @llvm.{function}.{suffix}({', '.join(self._typed(a) for a in args)})")

    def _instr(self, s: Instr) -> None:
        if s.op == "store":
            self._store(s)
            return
        if s.op == "prefetch":
            self.module.declare("void @llvm.prefetch.p0(ptr, i32, i32, i32)")
            buffer, index, soon = s.imm
            write, level = (1, 3) if soon else (0, 2)
            self._line(
                f"call void @llvm.prefetch.p0(ptr {self.address(buffer, index)}, i32 {write}, i32 {level}, i32 1)"
            )
            return
        if s.op == "call":
            emit_call(self, *s.imm[1:])
            return
        out = s.out
        assert out is not None
        type_ = type_of(out.dtype, out.lanes)
        if s.op == "load":
            self._load(s, out)
        elif s.op == "const":
            text = number(s.imm[0], out.dtype)
            if out.lanes > 1:
                text = f"splat ({REGISTER[out.dtype]} {text})"
            self.names[out.number] = text
        elif s.op == "index":
            self._index(s, out)
        elif s.op == "splat" and missing.is_number(self._operand(s.args[0])):
            self.names[out.number] = f"splat ({REGISTER[out.dtype]} {self._operand(s.args[0])})"
        elif s.op == "splat":
            one = self._temp()
            self._line(f"{one} = insertelement {type_} poison, {self._typed(s.args[0])}, i64 0")
            self._set(out, f"shufflevector {type_} {one}, {type_} poison, <{out.lanes} x i32> zeroinitializer")
        elif s.op in _ARITHMETIC:
            name = _ARITHMETIC[s.op][out.dtype not in _FLOATS]
            self._set(out, f"{name} {self._typed(s.args[0])}, {self._operand(s.args[1])}")
        elif s.op in _BITS:
            self._set(out, f"{_BITS[s.op]} {self._typed(s.args[0])}, {self._operand(s.args[1])}")
        elif s.op == "neg":
            a = s.args[0]
            text = (
                f"fneg {self._typed(a)}" if a.dtype in _FLOATS else f"sub {type_} {self._zero(a)}, {self._operand(a)}"
            )
            self._set(out, text)
        elif s.op in _COMPARE:
            a = s.args[0]
            if a.dtype in _FLOATS:
                text = f"fcmp {_COMPARE[s.op][0]}"
            else:
                kind = _COMPARE[s.op][1]
                sign = "" if kind in ("eq", "ne") else ("u" if a.dtype in ("u8", "u32", "bool") else "s")
                text = f"icmp {sign}{kind}"
            self._set(out, f"{text} {self._typed(a)}, {self._operand(s.args[1])}")
        elif s.op == "select":
            self._set(out, f"select {', '.join(self._typed(a) for a in s.args)}")
        elif s.op in _MINMAX:
            left, right = map(self._operand, s.args)
            # x86's instruction returns its second operand when either is NaN: which keeps a NaN beside a constant
            alone = self.module.isa.triple.startswith("x86_64") and missing.is_number(right)
            if out.dtype in _FLOATS and (alone or "max" in self.module.isa.lacks):
                self._set(out, missing.largest(self._new, s.op, left, right, type_, out.lanes))
                return
            real, signed, unsigned = _MINMAX[s.op]
            name = real if out.dtype in _FLOATS else (unsigned if out.dtype in ("u8", "u32", "bool") else signed)
            self._call(out, name, s.args, _suffix(out))
        elif s.op in ("floor", "rint") and "round" in self.module.isa.lacks:
            whole, kind = self._operand(s.args[0]), REGISTER[out.dtype]
            self._set(out, missing.rounded(self._new, self.module.declare, s.op, whole, kind, out.lanes))
        elif s.op == "fma" and "fma" in self.module.isa.lacks:
            self._call(out, "fmuladd", s.args, _suffix(out))
        elif s.op in _INTRINSIC:
            self._call(out, _INTRINSIC[s.op], s.args, _suffix(out))
        elif s.op == "bitcast":
            self._set(out, f"bitcast {self._typed(s.args[0])} to {type_}")
        elif s.op == "cast":
            self._cast(s.args[0], out)
        elif s.op == "libm":
            self._libm(s, out)
        elif s.op == "unpair":
            self._set(out, halves.unpair(self._new, self._operand(s.args[0]), s.imm[0], out.lanes))
        elif s.op == "dot":
            operands = [self._operand(x) for x in s.args]
            self._set(out, halves.dot(self._new, self.module.declare, operands, out.lanes, self.module.isa))
        elif s.op == "shuffle":
            mask = ", ".join(f"i32 {i}" for i in s.imm)
            both = ", ".join(self._typed(x) for x in s.args)
            self._set(out, f"shufflevector {both}, <{out.lanes} x i32> <{mask}>")
        elif s.op == "permute":
            self._permute(s.args[0], s.args[1], out)
        elif s.op == "half":
            a, part = s.args[0], s.imm[0]
            lanes = ", ".join(f"i32 {part * out.lanes + i}" for i in range(out.lanes))
            atype = type_of(a.dtype, a.lanes)
            if out.lanes == 1:
                self._set(out, f"extractelement {self._typed(a)}, i64 {part}")
            else:
                self._set(out, f"shufflevector {self._typed(a)}, {atype} poison, <{out.lanes} x i32> <{lanes}>")
        else:
            raise ValueError(f"unknown operation {s.op}")

    def _permute(self, table: Value, indices: Value, out: Value) -> None:
        """Pick by variable indices, an instruction of AVX-512; both are 16 lanes wide in registers."""
        full = self._in_lanes(table, f"<{table.lanes} x float> zeroinitializer")
        at = self._in_lanes(indices, f"<{indices.lanes} x i32> poison")
        self.module.declare("<16 x float> @llvm.x86.avx512.permvar.sf.512(<16 x float>, <16 x i32>)")
        call = f"call <16 x float> @llvm.x86.avx512.permvar.sf.512(<16 x float> {full}, <16 x i32> {at})"
        if out.lanes == 16:
            self._set(out, call)
            return
        picked, lanes = self._new(call), ", ".join(f"i32 {i}" for i in range(out.lanes))
        first = f"shufflevector <16 x float> {picked}, <16 x float> poison, <{out.lanes} x i32> <{lanes}>"
        self._set(out, f"extractelement <16 x float> {picked}, i64 0" if out.lanes == 1 else first)

    def _in_lanes(self, value: Value, beyond: str) -> str:
        """Return a value in 16 lanes; those beyond its own are of another vector."""
        if value.lanes == 16:
            return self._operand(value)
        if value.lanes == 1:
            return self._new(f"insertelement <16 x i32> poison, {self._typed(value)}, i64 0")
        mask = ", ".join(f"i32 {min(i, value.lanes)}" for i in range(16))
        return self._new(f"shufflevector {self._typed(value)}, {beyond}, <16 x i32> <{mask}>")

    def _zero(self, value: Value) -> str:
        zero = number(0, value.dtype)
        return zero if value.lanes == 1 else f"splat ({REGISTER[value.dtype]} {zero})"

    def _load(self, s: Instr, out: Value) -> None:
        buffer, index, step = s.imm
        memory = MEMORY[out.dtype]
        type_ = memory if out.lanes == 1 else f"<{out.lanes} x {memory}>"
        align = ALIGN[MEMORY[buffer.dtype]]
        if out.lanes == 1 or step == 1:
            text = f"load {type_}, ptr {self.address(buffer, index)}, align {align}"
        else:
            vector = "poison"
            for lane in range(out.lanes):
                element, after = self._temp(), self._temp()
                self._line(f"{element} = load {memory}, ptr {self.address(buffer, index + lane * step)}, align {align}")
                self._line(f"{after} = insertelement {type_} {vector}, {memory} {element}, i64 {lane}")
                vector = after
            text = ""
            self.names[out.number] = vector
        if out.dtype == "bool":
            raw = self.names[out.number] if not text else self._temp()
            if text:
                self._line(f"{raw} = {text}")
            self._set(out, f"trunc {type_} {raw} to {type_of('bool', out.lanes)}")
        elif text:
            self._set(out, text)

    def _store(self, s: Instr) -> None:
        buffer, index, step = s.imm
        value = s.args[0]
        operand, memory = self._operand(value), MEMORY[buffer.dtype]
        align = ALIGN[memory]
        type_ = memory if value.lanes == 1 else f"<{value.lanes} x {memory}>"
        if value.dtype == "bool":
            wide = self._temp()
            self._line(f"{wide} = zext {self._typed(value)} to {type_}")
            operand = wide
        if value.lanes == 1 or step == 1:
            self._line(f"store {type_} {operand}, ptr {self.address(buffer, index)}, align {align}")
            return
        for lane in range(value.lanes):
            element = self._temp()
            self._line(f"{element} = extractelement {type_} {operand}, i64 {lane}")
            self._line(f"store {memory} {element}, ptr {self.address(buffer, index + lane * step)}, align {align}")

    def _index(self, s: Instr, out: Value) -> None:
        index, step = s.imm
        base, type_ = self.integer(index), self.int
        if out.lanes > 1:
            one, all_, sum_ = self._temp(), self._temp(), self._temp()
            type_ = f"<{out.lanes} x {self.int}>"
            ramp = ", ".join(f"{self.int} {i * step}" for i in range(out.lanes))
            self._line(f"{one} = insertelement {type_} poison, {self.int} {base}, i64 0")
            self._line(f"{all_} = shufflevector {type_} {one}, {type_} poison, <{out.lanes} x i32> zeroinitializer")
            self._line(f"{sum_} = add {type_} {all_}, <{ramp}>")
            base = sum_
        to = type_of(out.dtype, out.lanes)
        if to == type_:
            self._set(out, f"add {type_} {base}, {'zeroinitializer' if out.lanes > 1 else 0}")
        elif out.dtype in _FLOATS:
            self._set(out, f"sitofp {type_} {base} to {to}")
        else:
            self._set(out, f"{'sext' if out.dtype == 'i64' else 'trunc'} {type_} {base} to {to}")

    def _cast(self, a: Value, out: Value) -> None:
        source, target, to = a.dtype, out.dtype, type_of(out.dtype, out.lanes)
        bits = {"f32": 32, "f64": 64, "i32": 32, "u32": 32, "i64": 64, "i8": 8, "u8": 8, "bool": 1}
        if source in HALVES:
            self._set(out, halves.widen(self._new, self._operand(a), source, a.lanes))
        elif target in HALVES:
            self._set(out, halves.narrow(self._new, self._operand(a), target, a.lanes, self.module.isa))
        elif target == "bool":
            kind = "fcmp une" if source in _FLOATS else "icmp ne"
            self._set(out, f"{kind} {self._typed(a)}, {self._zero(a)}")
        elif source in _FLOATS and target in _FLOATS:
            self._set(out, f"{'fpext' if bits[target] > bits[source] else 'fptrunc'} {self._typed(a)} to {to}")
        elif source in _FLOATS:
            signed = "ui" if target in ("u8", "u32") else "si"
            atype, suffix = type_of(source, a.lanes), _suffix(a)
            integer = f"v{out.lanes}i{bits[target]}" if out.lanes > 1 else f"i{bits[target]}"
            name = f"@llvm.fpto{signed}.sat.{integer}.{suffix}"
            self.module.declare(f"{to} {name}({atype})")
            self._set(out, f"call {to} {name}({self._typed(a)})")
        elif target in _FLOATS:
            signed = "ui" if source in ("u8", "u32", "bool") else "si"
            self._set(out, f"{signed}tofp {self._typed(a)} to {to}")
        elif bits[source] == bits[target]:
            self._set(out, f"bitcast {self._typed(a)} to {to}")
        elif bits[source] > bits[target]:
            self._set(out, f"trunc {self._typed(a)} to {to}")
        else:
            self._set(out, f"{'zext' if source in ('u8', 'u32', 'bool') else 'sext'} {self._typed(a)} to {to}")

    def _libm(self, s: Instr, out: Value) -> None:
        name = s.imm[0]
        scalar = REGISTER[out.dtype]
        self.module.declare(f"{scalar} @{name}({', '.join([scalar] * len(s.args))})")
        vector = "poison"
        for lane in range(out.lanes):
            parts = []
            for a in s.args:
                operand = self._operand(a)
                if a.lanes > 1:
                    operand = self._temp()
                    self._line(f"{operand} = extractelement {self._typed(a)}, i64 {lane}")
                parts.append(f"{scalar} {operand}")
            result = self._temp()
            self._line(f"{result} = call {scalar} @{name}({', '.join(parts)})")
            if out.lanes == 1:
                self.names[out.number] = result
                return
            after = self._temp()
            type_ = type_of(out.dtype, out.lanes)
            self._line(f"{after} = insertelement {type_} {vector}, {scalar} {result}, i64 {lane}")
            vector = after
        self.names[out.number] = vector


def _suffix(value: Value) -> str:
    kind = {"float": "f32", "double": "f64"}.get(REGISTER[value.dtype], REGISTER[value.dtype])
    return kind if value.lanes == 1 else f"v{value.lanes}{kind}"


class Module:
    """One module: functions of kernels, other text, and the declarations they need.

    With the ``rows`` of the batch, functions take no context: all their loops have constant bounds.
    """

    def __init__(self, isa: Isa, rows: int = 0) -> None:
        self.isa, self.rows = isa, rows
        self.attributes = f"{ATTRIBUTES} " if rows else ""
        self.inbounds = "" if rows else "inbounds "  # windows that reach into padding begin before their buffer
        self._declared: dict[str, str] = {}
        self._parts: list[str] = []
        self._functions: dict[str, str] = {}  # by all of their text but the name
        self.calls: dict[str, tuple[str, tuple[Buffer, ...]]] = {}  # of each kernel: its function and the buffers

    def declare(self, signature: str) -> None:
        """Declare an intrinsic or library function once."""
        self._declared[signature.split("@")[1].split("(")[0]] = signature

    def add(self, kernel: Kernel) -> None:
        """Add a kernel's function, unless there is one with the same text."""
        function = _Function(self, kernel)
        text = function.emit()
        if text not in self._functions:
            self._functions[text] = kernel.name
            self._parts.append(f"define internal void @{kernel.name}{text}")
        self.calls[kernel.name] = self._functions[text], tuple(function.buffers)

    def add_text(self, *functions: str) -> None:
        """Add functions that are written already."""
        self._parts += functions

    def text(self) -> str:
        """Return the whole module."""
        head = [f'target triple = "{self.isa.triple}"']
        return "\n\n".join([*head, *self._parts, *(f"declare {s}" for s in self._declared.values())]) + "\n"
