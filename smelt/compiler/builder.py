"""Builder: writes the body of one kernel, statement by statement.

In: calls from a lowering, in the order in which the kernel is to compute. Out: a :class:`~smelt.compiler.loops.Kernel`,
with the buffers it reads and writes, and which of them only at its own rows of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from smelt.compiler.loops import (
    AnyIndex,
    Buffer,
    If,
    Index,
    Instr,
    Kernel,
    Let,
    Loop,
    Operand,
    Range,
    Stmt,
    Value,
    as_index,
    var,
)


class Builder:
    """Builds the body of one kernel. ``lo`` and ``hi`` are the units to do, ``n`` the rows of this batch."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._count = 0
        self._vars = dict.fromkeys(("lo", "hi", "n", "batch", "first_row"), 1)  # names that are taken
        self._stack: list[list[Stmt]] = [[]]
        self._known: list[dict] = [{}]
        self.reads: set[Buffer] = set()
        self.writes: set[Buffer] = set()
        self.unaligned: set[Buffer] = set()
        self.choices: dict[tuple[str, str], None] = {}

    @property
    def body(self) -> list[Stmt]:
        """The statements of the kernel so far."""
        return self._stack[0]

    def choose(self, what: str, text: str) -> None:
        """Note a decision of the lowering for :func:`smelt.explain`: ``what`` is shared, registers or memory."""
        self.choices[what, text] = None

    # --- values ------------------------------------------------------------------------------------------------

    def local(self, name: str, dtype: str, size: int) -> Buffer:
        """Return memory of the kernel's own, on its stack: a few KB that it writes before it reads them."""
        return Buffer(self.fresh(name), dtype, size, "local")

    def value(self, dtype: str, lanes: int) -> Value:
        """Return a fresh value."""
        self._count += 1
        return Value(self._count - 1, dtype, lanes)

    def op(self, op: str, *args: Value, dtype: str = "", lanes: int = 0, imm: tuple = ()) -> Value:
        """Append an operation; equal operations in scope are computed once."""
        key = (op, tuple(a.number for a in args), dtype, lanes, imm)
        for known in reversed(self._known):
            if key in known:
                return known[key]
        out = self.value(dtype or args[0].dtype, lanes or args[0].lanes)
        self._stack[-1].append(Instr(op, out, args, imm))
        self._known[-1][key] = out
        return out

    def const(self, number: float | int | bool, dtype: str, lanes: int = 1) -> Value:
        """Return a constant in every lane."""
        return self.op("const", dtype=dtype, lanes=lanes, imm=(number,))

    def index(self, index: AnyIndex, dtype: str, lanes: int = 1, step: int = 0) -> Value:
        """Return ``index + lane * step`` as a number."""
        return self.op("index", dtype=dtype, lanes=lanes, imm=(as_index(index), step))

    def splat(self, value: Value, lanes: int) -> Value:
        """Return a scalar repeated in every lane."""
        return value if value.lanes == lanes else self.op("splat", value, lanes=lanes)

    def permute(self, table: Value, indices: Value) -> Value:
        """Return for each lane the element of a table, of at most 16, its index modulo 16; 0 beyond a shorter one."""
        return self.op("permute", table, indices, lanes=indices.lanes)

    def transpose(self, rows: Sequence[Value]) -> list[Value]:
        """Return the transpose of a square of values: ``out[i]`` holds lane ``i`` of every row."""
        values, size = list(rows), len(rows)
        distance = 1
        while distance < size:
            low = tuple(i if not i & distance else size + i - distance for i in range(size))
            high = tuple(i + distance if not i & distance else size + i for i in range(size))
            for i in range(size):
                if not i & distance:
                    a, b = values[i], values[i + distance]
                    values[i] = self.op("shuffle", a, b, imm=low)
                    values[i + distance] = self.op("shuffle", a, b, imm=high)
            distance *= 2
        return values

    def load(self, buffer: Buffer, index: AnyIndex, lanes: int = 1, step: int = 1) -> Value:
        """Load ``lanes`` elements ``step`` apart; step 0 loads one and repeats it."""
        if buffer.kind != "local":
            self.reads.add(buffer)
        if lanes > 1 and step == 0:
            return self.splat(self.load(buffer, index), lanes)
        out = self.value(buffer.dtype, lanes)
        self._stack[-1].append(Instr("load", out, (), (buffer, as_index(index), step)))
        return out

    def load_pairs(self, buffer: Buffer, index: AnyIndex, lanes: int = 1) -> Value:
        """Load ``lanes`` pairs of neighbouring 16-bit elements."""
        self.reads.add(buffer)
        out = self.value("pair", lanes)
        self._stack[-1].append(Instr("load", out, (), (buffer, as_index(index), 1)))
        return out

    def store_pairs(self, buffer: Buffer, index: AnyIndex, even: Value, odd: Value) -> None:
        """Store the lanes of two values in turn, next to each other."""
        n = even.lanes
        if n > 1:
            mask = tuple(lane + n * which for lane in range(n) for which in (0, 1))
            self.store(buffer, index, self.op("shuffle", even, odd, lanes=2 * n, imm=mask))
            return
        for i, value in enumerate((even, odd)):
            self.store(buffer, as_index(index) + i, value)

    def store(self, buffer: Buffer, index: AnyIndex, value: Value, step: int = 1) -> None:
        """Store the lanes ``step`` elements apart."""
        if buffer.kind != "local":
            self.writes.add(buffer)
        self._stack[-1].append(Instr("store", None, (value,), (buffer, as_index(index), step)))

    def call(self, name: str, slot: int, python: bool, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> None:
        """Call the user's function in a slot of the pointer table; ``python`` says that it is the interpreter's."""
        self.reads.update(o.buffer for o in inputs)
        self.writes.update(o.buffer for o in outputs)
        imm = (name, slot, python, tuple(inputs), tuple(outputs))
        self._stack[-1].append(Instr("call", None, (), imm))

    def prefetch(self, buffer: Buffer, index: AnyIndex, soon: bool = False) -> None:
        """Ask for what lies at an index, which may be outside, to come to the second-level cache.

        If it is needed ``soon``, and will be written, to the first-level cache of this processor alone.
        """
        self._stack[-1].append(Instr("prefetch", None, (), (buffer, as_index(index), soon)))

    # --- structure ---------------------------------------------------------------------------------------------

    def fresh(self, name: str) -> str:
        """Return a variable name not used before in this kernel."""
        n, own = self._vars.get(name, 0), name
        while n and own in self._vars:  # "i" may follow "i1"
            own, n = f"{name}{n}", n + 1
        self._vars[name] = n or 1
        self._vars.setdefault(own, 1)
        return own

    def let(self, name: str, op: str, *args: AnyIndex) -> Index:
        """Define an integer variable by ``min``, ``max`` or ``muldiv``."""
        name = self.fresh(name)
        self._stack[-1].append(Let(name, op, tuple(as_index(a) for a in args)))
        return var(name)

    @contextmanager
    def loop(self, name: str, start: AnyIndex, stop: AnyIndex, step: int = 1) -> Iterator[Index]:
        """Open a loop without accumulators and yield its variable."""
        node = Loop(self.fresh(name), as_index(start), as_index(stop), step)
        self._stack[-1].append(node)
        self._stack.append(node.body)
        self._known.append({})
        yield var(node.var)
        self._known.pop()
        self._stack.pop()

    @contextmanager
    def carry(
        self, name: str, start: AnyIndex, stop: AnyIndex, first: Sequence[Value], step: int = 1
    ) -> Iterator[tuple[Index, list[Value]]]:
        """Open a loop that carries values; assign the new ones into the yielded list before leaving it.

        After the block the list holds the values the loop leaves behind.
        """
        node = Loop(self.fresh(name), as_index(start), as_index(stop), step)
        phis = [self.value(v.dtype, v.lanes) for v in first]
        self._stack[-1].append(node)
        self._stack.append(node.body)
        self._known.append({})
        values = list(phis)
        yield var(node.var), values
        self._known.pop()
        self._stack.pop()
        node.carried = list(zip(phis, first, values, strict=True))
        values[:] = phis

    @contextmanager
    def when(self, left: AnyIndex, right: AnyIndex) -> Iterator[None]:
        """Run the block when ``left`` < ``right``."""
        node = If(as_index(left), as_index(right))
        self._stack.append(node.body)
        self._known.append({})
        yield
        self._known.pop()
        self._stack.pop()
        if node.body:
            self._stack[-1].append(node)

    def finish(self, range: Range, **facts: object) -> Kernel:
        """Return the kernel."""
        kernel = Kernel(self.name, range, self._stack[0], self.reads, self.writes, **facts)  # type: ignore[arg-type]
        kernel.choices = tuple(self.choices)
        if range.rows or range.slices:
            kernel.aligned = (self.reads | self.writes) - self.unaligned
        return kernel
