"""Write kernels as LLVM text, already vectorized: no optimizer pass is needed to make them fast.

In: :class:`~smelt.compiler.loops.Kernel` objects and the schedule. Out: one module with a function per kernel and
``step(ctx, thread, threads)``, which runs each phase and waits at a barrier between two.

``ctx`` points to: the rows of this batch (i64), the arena, the team's barrier, the profile's time stamps (or null),
then the table of pointers to inputs, outputs, states and constants.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from smelt.compiler.isa import Isa
from smelt.compiler.loops import Buffer, If, Index, Instr, Kernel, Let, Loop, Range, Stmt, Value

CTX_ROWS, CTX_ARENA, CTX_TEAM, CTX_STAMPS, CTX_TABLE = 0, 8, 16, 24, 32  # byte offsets of the context's fields

MEMORY = {"f32": "float", "f64": "double", "i32": "i32", "u32": "i32", "i64": "i64", "u8": "i8", "bool": "i8"}
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


class _Function:
    """Emits one kernel."""

    def __init__(self, module: Module, kernel: Kernel) -> None:
        self.module, self.kernel = module, kernel
        self.scopes = [_Scope(vars={"lo", "hi", "n"})]
        self.names: dict[int, str] = {}
        self.temps = 0
        self.labels = 0

    def emit(self) -> str:
        self._body(self.kernel.body)
        lines = self.scopes[0].lines
        head = f"define internal void @{self.kernel.name}(ptr noalias %ctx, i64 %lo, i64 %hi) {{\nentry:"
        return "\n".join([head, *lines, "  ret void", "}"])

    # --- integers and addresses --------------------------------------------------------------------------------

    def _temp(self) -> str:
        self.temps += 1
        return f"%t{self.temps}"

    def _line(self, text: str) -> None:
        self.scopes[-1].lines.append("  " + text)

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
        if name == "n":
            return self._once(0, ("n",), "load i64, ptr %ctx, align 8")
        return f"%{name}"

    def _sorted_terms(self, index: Index) -> list[tuple[int, str, int]]:
        return sorted(((self._scope_of(v), v, c) for v, c in index.terms), key=lambda t: t[0])

    def integer(self, index: Index) -> str:
        """Return the operand of an integer index; partial sums are computed in the outermost scope they can be."""
        if not index.terms:
            return str(index.const)
        total = ""
        for depth, name, coef in self._sorted_terms(index):
            term = self._var(name)
            if coef != 1:
                term = self._once(depth, ("mul", name, coef), f"mul nsw i64 {term}, {coef}")
            total = term if not total else self._once(depth, ("add", total, term), f"add nsw i64 {total}, {term}")
        if index.const:
            depth = max(d for d, _, _ in self._sorted_terms(index))
            total = self._once(depth, ("add", total, index.const), f"add nsw i64 {total}, {index.const}")
        return total

    def _base(self, buffer: Buffer) -> str:
        key = ("base", id(buffer))
        if key in self.scopes[0].known:
            return self.scopes[0].known[key]
        if buffer.kind == "arena":
            arena = self._pointer_at(CTX_ARENA)
            return self._once(0, key, f"getelementptr i8, ptr {arena}, i64 {buffer.offset}")
        pointer = self._pointer_at(CTX_TABLE + 8 * buffer.slot)
        self.scopes[0].known[key] = pointer
        return pointer

    def _pointer_at(self, offset: int) -> str:
        slot = self._once(0, ("slot", offset), f"getelementptr i8, ptr %ctx, i64 {offset}")
        return self._once(0, ("pointer", offset), f"load ptr, ptr {slot}, align 8")

    def address(self, buffer: Buffer, index: Index) -> str:
        """Return a pointer; everything that does not vary in the inner loops is added outside of them."""
        element = MEMORY[buffer.dtype]
        pointer = self._base(buffer)
        for depth, name, coef in self._sorted_terms(index):
            offset = self._var(name)
            if coef != 1:
                offset = self._once(depth, ("mul", name, coef), f"mul nsw i64 {offset}, {coef}")
            pointer = self._once(
                depth,
                ("gep", pointer, offset),
                f"getelementptr inbounds {element}, ptr {pointer}, i64 {offset}",
            )
        if index.const:
            depth = len(self.scopes) - 1
            pointer = self._once(
                depth,
                ("gep", pointer, index.const),
                f"getelementptr {element}, ptr {pointer}, i64 {index.const}",
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
        if s.op == "min":
            self.module.declare("i64 @llvm.smin.i64(i64, i64)")
            self._line(f"%{s.var} = call i64 @llvm.smin.i64(i64 {a[0]}, i64 {a[1]})")
        elif s.op == "muldiv":
            product = self._temp()
            self._line(f"{product} = mul nsw i64 {a[0]}, {a[1]}")
            self._line(f"%{s.var} = sdiv i64 {product}, {a[2]}")
        else:
            raise ValueError(f"unknown let {s.op}")

    def _open(self, kind: str, var: str = "") -> str:
        self.labels += 1
        label = f"{kind}{self.labels}"
        self.scopes.append(_Scope(vars={var} if var else set(), label=f"{label}.body"))
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
        lines = [f"  br label %{label}", f"{label}:"]
        lines.append(f"  %{s.var} = phi i64 [{start}, %{outer.label}], [%{s.var}.next, %{inner.label}]")
        for (value, _, after), first in zip(s.carried, firsts, strict=True):
            type_ = type_of(value.dtype, value.lanes)
            lines.append(
                f"  %v{value.number} = phi {type_} [{first}, %{outer.label}], [{self._operand(after)}, %{inner.label}]"
            )
        lines.append(f"  %{s.var}.more = icmp slt i64 %{s.var}, {stop}")
        lines.append(f"  br i1 %{s.var}.more, label %{label}.body, label %{label}.end")
        lines.append(f"{label}.body:")
        lines += inner.lines
        lines.append(f"  %{s.var}.next = add nsw i64 %{s.var}, {s.step}")
        lines += [f"  br label %{label}", f"{label}.end:"]
        outer.lines += lines
        outer.label = f"{label}.end"

    def _if(self, s: If) -> None:
        left, right = self.integer(s.left), self.integer(s.right)
        label = self._open("if")
        self._body(s.body)
        inner = self.scopes.pop()
        outer = self.scopes[-1]
        outer.lines += [
            f"  %{label} = icmp slt i64 {left}, {right}",
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
            real, signed, unsigned = _MINMAX[s.op]
            name = real if out.dtype in _FLOATS else (unsigned if out.dtype in ("u8", "u32") else signed)
            self._call(out, name, s.args, _suffix(out))
        elif s.op in _INTRINSIC:
            self._call(out, _INTRINSIC[s.op], s.args, _suffix(out))
        elif s.op == "bitcast":
            self._set(out, f"bitcast {self._typed(s.args[0])} to {type_}")
        elif s.op == "cast":
            self._cast(s.args[0], out)
        elif s.op == "libm":
            self._libm(s, out)
        elif s.op == "shuffle":
            mask = ", ".join(f"i32 {i}" for i in s.imm)
            both = ", ".join(self._typed(x) for x in s.args)
            self._set(out, f"shufflevector {both}, <{out.lanes} x i32> <{mask}>")
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

    def _zero(self, value: Value) -> str:
        zero = number(0, value.dtype)
        return zero if value.lanes == 1 else f"splat ({REGISTER[value.dtype]} {zero})"

    def _load(self, s: Instr, out: Value) -> None:
        buffer, index, step = s.imm
        memory = MEMORY[buffer.dtype]
        type_ = memory if out.lanes == 1 else f"<{out.lanes} x {memory}>"
        align = {"float": 4, "double": 8, "i64": 8, "i32": 4, "i8": 1}[memory]
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
        align = {"float": 4, "double": 8, "i64": 8, "i32": 4, "i8": 1}[memory]
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
        base = self.integer(index)
        if out.lanes > 1:
            one, all_, sum_ = self._temp(), self._temp(), self._temp()
            type64 = f"<{out.lanes} x i64>"
            ramp = ", ".join(f"i64 {i * step}" for i in range(out.lanes))
            self._line(f"{one} = insertelement {type64} poison, i64 {base}, i64 0")
            self._line(f"{all_} = shufflevector {type64} {one}, {type64} poison, <{out.lanes} x i32> zeroinitializer")
            self._line(f"{sum_} = add {type64} {all_}, <{ramp}>")
            base, type_ = sum_, type64
        else:
            type_ = "i64"
        if out.dtype == "i64":
            self._set(out, f"add {type_} {base}, {'zeroinitializer' if out.lanes > 1 else 0}")
        elif out.dtype in _FLOATS:
            self._set(out, f"sitofp {type_} {base} to {type_of(out.dtype, out.lanes)}")
        else:
            self._set(out, f"trunc {type_} {base} to {type_of(out.dtype, out.lanes)}")

    def _cast(self, a: Value, out: Value) -> None:
        source, target, to = a.dtype, out.dtype, type_of(out.dtype, out.lanes)
        bits = {"f32": 32, "f64": 64, "i32": 32, "u32": 32, "i64": 64, "u8": 8, "bool": 1}
        if target == "bool":
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
    """One module of kernels and their ``step`` function."""

    def __init__(self, isa: Isa) -> None:
        self.isa = isa
        self._declared: dict[str, str] = {}
        self._parts: list[str] = []

    def declare(self, signature: str) -> None:
        """Declare an intrinsic or library function once."""
        self._declared[signature.split("@")[1].split("(")[0]] = signature

    def add(self, kernel: Kernel) -> None:
        """Add a kernel's function."""
        self._parts.append(_Function(self, kernel).emit())

    def add_step(self, phases: Sequence[Sequence[Kernel]], stamps: bool = False) -> None:
        """Add ``step``: each thread does its share of every kernel; a barrier ends every phase but the last.

        With ``stamps``, each thread writes the cycle counter at the start, after every kernel and after every barrier.
        """
        lines = ["define void @step(ptr %ctx, i64 %thread, i64 %threads) {", "entry:"]
        lines += ["  %next = add i64 %thread, 1", "  %rows = load i64, ptr %ctx, align 8"]
        lines += [f"  %teamslot = getelementptr i8, ptr %ctx, i64 {CTX_TEAM}"]
        lines += ["  %team = load ptr, ptr %teamslot, align 8"]
        before, after = self._flush_denormals()
        lines += before
        shares: dict[Range, int] = {}
        calls = 0
        count = 1 + sum(len(p) for p in phases) + max(len(phases) - 1, 0)
        stamp = self._stamper(count) if stamps else list
        lines += stamp()
        for i, phase in enumerate(phases):
            if i:
                lines.append("  call void @barrier(ptr %team, i64 %threads)")
                lines += stamp()
            for kernel in phase:
                if kernel.range not in shares:
                    shares[kernel.range] = len(shares)
                    lines += _share(kernel.range, shares[kernel.range])
                s = shares[kernel.range]
                calls += 1
                lines += [
                    f"  %some{calls} = icmp slt i64 %lo{s}, %hi{s}",
                    f"  br i1 %some{calls}, label %do{calls}, label %done{calls}",
                    f"do{calls}:",
                    f"  call void @{kernel.name}(ptr %ctx, i64 %lo{s}, i64 %hi{s})",
                    f"  br label %done{calls}",
                    f"done{calls}:",
                    *stamp(),
                ]
        lines += [*after, "  ret void", "}"]
        self._parts.append("\n".join(lines))
        self._parts.append(BARRIER.replace("PAUSE", self._pause()))
        self.declare("i32 @sched_yield()")

    def _stamper(self, count: int) -> Callable[[], list[str]]:
        """Return a function that gives the lines of the next of ``count`` time stamps."""
        counter = "readcyclecounter" if self.isa.triple.startswith("x86_64") else "readsteadycounter"
        self.declare(f"i64 @llvm.{counter}()")
        done = 0

        def lines() -> list[str]:
            nonlocal done
            first = [
                f"  %stampslot = getelementptr i8, ptr %ctx, i64 {CTX_STAMPS}",
                "  %stamps = load ptr, ptr %stampslot, align 8",
                f"  %stamprow = mul i64 %thread, {count}",
                "  %mystamps = getelementptr i64, ptr %stamps, i64 %stamprow",
            ]
            out = [
                *(first if done == 0 else []),
                f"  %now{done} = call i64 @llvm.{counter}()",
                f"  %stamp{done} = getelementptr i64, ptr %mystamps, i64 {done}",
                f"  store i64 %now{done}, ptr %stamp{done}, align 8",
            ]
            done += 1
            return out

        return lines

    def _pause(self) -> str:
        if self.isa.triple.startswith("x86_64"):
            self.declare("void @llvm.x86.sse2.pause()")
            return "call void @llvm.x86.sse2.pause()"
        if self.isa.triple.startswith(("aarch64", "arm64")):
            self.declare("void @llvm.aarch64.hint(i32)")
            return "call void @llvm.aarch64.hint(i32 1)"
        return ""

    def _flush_denormals(self) -> tuple[list[str], list[str]]:
        """Return the lines that make denormals zero in this thread, and those that put the old mode back."""
        if self.isa.triple.startswith("x86_64"):
            self.declare("void @llvm.x86.sse.stmxcsr(ptr)")
            self.declare("void @llvm.x86.sse.ldmxcsr(ptr)")
            return [
                "  %oldmode = alloca i32, align 4",
                "  %newmode = alloca i32, align 4",
                "  call void @llvm.x86.sse.stmxcsr(ptr %oldmode)",
                "  %mode = load i32, ptr %oldmode, align 4",
                "  %flushed = or i32 %mode, 32832",  # FTZ 0x8000 | DAZ 0x0040
                "  store i32 %flushed, ptr %newmode, align 4",
                "  call void @llvm.x86.sse.ldmxcsr(ptr %newmode)",
            ], ["  call void @llvm.x86.sse.ldmxcsr(ptr %oldmode)"]
        if self.isa.triple.startswith(("aarch64", "arm64")):
            self.declare("i64 @llvm.aarch64.get.fpcr()")
            self.declare("void @llvm.aarch64.set.fpcr(i64)")
            return [
                "  %oldmode = call i64 @llvm.aarch64.get.fpcr()",
                "  %newmode = or i64 %oldmode, 16777216",  # FZ, bit 24
                "  call void @llvm.aarch64.set.fpcr(i64 %newmode)",
            ], ["  call void @llvm.aarch64.set.fpcr(i64 %oldmode)"]
        return [], []

    def text(self) -> str:
        """Return the whole module."""
        head = [f'target triple = "{self.isa.triple}"']
        return "\n\n".join([*head, *self._parts, *(f"declare {s}" for s in self._declared.values())]) + "\n"


def _share(range: Range, s: int) -> list[str]:
    """Return the lines that compute this thread's [lo, hi) of a range."""
    total = f"mul i64 %rows, {range.per}" if range.per else f"add i64 0, {range.const}"
    lines = [f"  %size{s} = {total}"]
    units = f"%size{s}"
    if range.grain != 1:
        lines += [
            f"  %up{s} = add i64 %size{s}, {range.grain - 1}",
            f"  %units{s} = sdiv i64 %up{s}, {range.grain}",
        ]
        units = f"%units{s}"
    return [
        *lines,
        f"  %lop{s} = mul i64 {units}, %thread",
        f"  %lo{s} = sdiv i64 %lop{s}, %threads",
        f"  %hip{s} = mul i64 {units}, %next",
        f"  %hi{s} = sdiv i64 %hip{s}, %threads",
    ]


# Arrivals at +0, generation at +64 (a cache line of its own). A waiting thread spins 4096 times, then yields the
# processor between looks, so that more threads than processors cannot stall each other.
BARRIER = """define internal void @barrier(ptr %team, i64 %threads) {
entry:
  %single = icmp eq i64 %threads, 1
  br i1 %single, label %done, label %arrive
arrive:
  %turn = getelementptr i8, ptr %team, i64 64
  %before = load atomic i64, ptr %turn acquire, align 8
  %arrived = atomicrmw add ptr %team, i64 1 acq_rel
  %others = sub i64 %threads, 1
  %last = icmp eq i64 %arrived, %others
  br i1 %last, label %open, label %spin
open:
  store atomic i64 0, ptr %team monotonic, align 8
  %after = add i64 %before, 1
  store atomic i64 %after, ptr %turn release, align 8
  br label %done
spin:
  %round = phi i64 [0, %arrive], [%round.next, %again]
  PAUSE
  %now = load atomic i64, ptr %turn acquire, align 8
  %same = icmp eq i64 %now, %before
  br i1 %same, label %wait, label %done
wait:
  %round.next = add i64 %round, 1
  %long = icmp ugt i64 %round, 4096
  br i1 %long, label %yield, label %again
yield:
  %ignored = call i32 @sched_yield()
  br label %again
again:
  br label %spin
done:
  ret void
}"""
