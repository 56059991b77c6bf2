"""Loops: the second and last intermediate form, one :class:`Kernel` per fused group of graph nodes.

In: a lowering that calls :class:`Builder` methods. Out: structured loops over vector values with affine addresses,
which print as text and which the emitters turn into LLVM or C without knowing any kernel.

A value has a dtype and a number of lanes; a ``pair`` is two 16-bit elements that lie side by side. An address is a
buffer and an :class:`Index`: a sum of loop variables times constants, counted in elements. Loops may carry values
(accumulators) from one round to the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Index:
    """``const + sum(coef * var)`` over loop variables, in elements."""

    const: int = 0
    terms: tuple[tuple[str, int], ...] = ()

    def __add__(self, other: Index | int) -> Index:
        if isinstance(other, int):
            return Index(self.const + other, self.terms) if other else self
        if not other.terms or not self.terms:
            return Index(self.const + other.const, self.terms or other.terms)
        merged = dict(self.terms)
        for var, coef in other.terms:
            merged[var] = merged.get(var, 0) + coef
        return Index(self.const + other.const, tuple((v, c) for v, c in merged.items() if c))

    def __mul__(self, factor: int) -> Index:
        if factor == 1:
            return self
        if factor == 0:
            return Index()
        return Index(self.const * factor, tuple((v, c * factor) for v, c in self.terms))

    def half(self) -> Index:
        """Return the index divided by two, which it must be a multiple of."""
        assert self.const % 2 == 0 and all(c % 2 == 0 for _, c in self.terms)
        return Index(self.const // 2, tuple((v, c // 2) for v, c in self.terms))

    def coef(self, var: str) -> int:
        """Return the factor of ``var``."""
        return dict(self.terms).get(var, 0)

    def __str__(self) -> str:
        parts = [v if c == 1 else f"{v}*{c}" for v, c in self.terms]
        if self.const or not parts:
            parts.append(str(self.const))
        return "+".join(parts).replace("+-", "-")


def var(name: str) -> Index:
    """Return the index that is just the variable ``name``."""
    return Index(0, ((name, 1),))


AnyIndex = Index | int


def dot(coords: Sequence[Index], strides: Sequence[int], offset: int = 0) -> Index:
    """Return ``offset`` plus the sum of the coordinates times their strides."""
    terms: dict[str, int] = {}
    for c, stride in zip(coords, strides, strict=True):
        if stride:
            offset += c.const * stride
            for name, coef in c.terms:
                terms[name] = terms.get(name, 0) + coef * stride
    return Index(offset, tuple((v, c) for v, c in terms.items() if c))


def as_index(value: AnyIndex) -> Index:
    """Return ``value`` as an Index."""
    return Index(value) if isinstance(value, int) else value


@dataclass(eq=False, slots=True)
class Buffer:
    """Memory a kernel reads or writes: ``kind`` is input, output, state, constant or arena.

    ``slot`` numbers inputs, outputs, states and constants in the pointer table; ``offset`` is the byte position of
    an arena buffer, set by the memory plan. One with a ``border`` is zero before the first run, and nobody writes that
    border: its place serves only buffers with the same one.

    With ``turn``, kernels that take turns pass it on, so many rows of the batch at a time, of ``row`` elements each:
    every thread then has a place of its own, for those rows alone, and ``offset`` counts from where its places begin.
    """

    name: str
    dtype: str
    size: int
    kind: str
    slot: int = -1
    offset: int = -1
    border: tuple | None = None
    row: int = 0
    turn: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes, without alignment."""
        return self.size * ITEMSIZE[self.dtype]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of the batch, where each thread has a place of its own."""
        return self.row * ITEMSIZE[self.dtype]

    @property
    def place_bytes(self) -> int:
        """Bytes of its place, or of each thread's."""
        return self.turn * self.row_bytes if self.turn else self.nbytes


ITEMSIZE = {"f32": 4, "bf16": 2, "f16": 2, "pair": 4, "f64": 8}
ITEMSIZE |= {"i32": 4, "i64": 8, "u32": 4, "i8": 1, "u8": 1, "bool": 1}


@dataclass(eq=False, slots=True)
class Value:
    """A vector (or scalar, ``lanes`` 1) in registers."""

    number: int
    dtype: str
    lanes: int

    def __str__(self) -> str:
        return f"v{self.number}"

    @property
    def type(self) -> str:
        """``f32x16``, or ``f32`` for a scalar."""
        return self.dtype if self.lanes == 1 else f"{self.dtype}x{self.lanes}"


@dataclass(eq=False, slots=True)
class Instr:
    """One operation. ``imm`` holds what is not a value: a constant, a buffer and index, a function's name."""

    op: str
    out: Value | None
    args: tuple[Value, ...] = ()
    imm: tuple = ()


@dataclass(frozen=True, slots=True)
class Operand:
    """What a user's function reads or writes: the place of its first element and its axes, dense in C order."""

    buffer: Buffer
    index: Index
    dims: tuple[Index, ...]

    def __str__(self) -> str:
        return f"{self.buffer.name}[{self.index}] ({', '.join(map(str, self.dims))})"


@dataclass(eq=False, slots=True)
class Let:
    """Define an integer variable: ``min`` (a, b), ``max`` (a, b), or ``muldiv`` a * b // c."""

    var: str
    op: str
    args: tuple[Index, ...]


@dataclass(eq=False, slots=True)
class Loop:
    """``for var in range(start, stop, step)``; ``carried`` holds (value, first, next) accumulators.

    After the loop the carried value is the last ``next``, or ``first`` when no round ran.
    """

    var: str
    start: Index
    stop: Index
    step: int
    body: list[Stmt] = field(default_factory=list)
    carried: list[tuple[Value, Value, Value]] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class If:
    """Run ``body`` when ``left`` < ``right``."""

    left: Index
    right: Index
    body: list[Stmt] = field(default_factory=list)


Stmt = Instr | Let | Loop | If


@dataclass(frozen=True, slots=True)
class Range:
    """How many units a kernel's parallel axis has: ``const``, or ``per`` for every row of the batch.

    ``rows`` says that unit ``i`` is row ``i`` of the batch, so that two such kernels cut the batch alike. With
    ``slices``, equally many units belong to each of so many slices of the batch, a power of two: slice ``i`` begins
    with row ``n * i // slices``. With ``caller`` all units belong to thread 0, which is the thread that called.
    """

    const: int = 0
    per: int = 0
    grain: int = 1
    caller: bool = False
    slices: int = 0

    @property
    def rows(self) -> bool:
        """Whether the units are the rows of the batch."""
        return self.per == 1 and self.grain == 1

    def units(self, rows: int) -> int:
        """Return how many units there are for a batch of ``rows``."""
        return -(-(rows * self.per if self.per else self.const) // self.grain)

    def __str__(self) -> str:
        n = str(self.const) if not self.per else ("n" if self.per == 1 else f"n*{self.per}")
        n = n if self.grain == 1 else f"{n}/{self.grain}"
        return f"{n} by the caller" if self.caller else n


@dataclass(frozen=True)
class Sweep:
    """How a kernel's units walk down one image: every ``units`` of them make the next ``pixels`` of its ``total``.

    ``width`` is that of a line of results. To make line ``i``, it reads lines ``i * stride + first`` to
    ``i * stride + reach``, exclusive, of a buffer in ``reads``: (stride, first, reach).
    """

    total: int
    width: int
    pixels: int
    units: int
    reads: dict[Buffer, tuple[int, int, int]]

    @property
    def steps(self) -> int:
        """How often so many units come."""
        return -(-self.total // self.pixels)


def short_name(kernel: str) -> str:
    """Return the number in a kernel's name; slices that another kernel adds up end in s.

    Examples
    --------
    >>> short_name("k3_conv2d_add"), short_name("k15_sum_slices")
    ('k3', 'k15s')
    """
    return kernel.partition("_")[0] + "s" * kernel.endswith("_slices")


@dataclass(eq=False, repr=False)
class Kernel:
    """A function over units ``lo`` to ``hi`` of a parallel axis."""

    name: str
    range: Range
    body: list[Stmt]
    reads: set[Buffer] = field(default_factory=set)
    writes: set[Buffer] = field(default_factory=set)
    aligned: set[Buffer] = field(default_factory=set)  # touched only at the kernel's own rows (or slices) of the batch
    note: str = ""
    lines: tuple[str, ...] = ()  # of the user's code
    layers: tuple[str, ...] = ()
    choices: tuple[tuple[str, str], ...] = ()  # what the lowering decided, and why
    barrier: tuple[Kernel, Buffer] | None = None  # the kernel, and its buffer, for which threads wait before this one
    macs: int = 0
    sweep: Sweep | None = None  # of a convolution that is shared by tiles of the result
    status: int = -1  # slot of the pointer table that is not 0 after a user's function failed

    def __str__(self) -> str:
        head = f"kernel {self.name}(lo..hi of {self.range})"
        if self.note:
            head += f"  # {self.note}"
        return "\n".join([head, *_format(self.body, "  ")])


class Builder:
    """Builds the body of one kernel. ``lo`` and ``hi`` are the units to do, ``n`` the rows of this batch."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._count = 0
        self._vars = {"lo": 1, "hi": 1, "n": 1}  # names that are taken
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
        self.writes.add(buffer)
        self._stack[-1].append(Instr("store", None, (value,), (buffer, as_index(index), step)))

    def call(self, name: str, slot: int, python: bool, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> None:
        """Call the user's function in a slot of the pointer table; ``python`` says that it is the interpreter's."""
        self.reads.update(o.buffer for o in inputs)
        self.writes.update(o.buffer for o in outputs)
        imm = (name, slot, python, tuple(inputs), tuple(outputs))
        self._stack[-1].append(Instr("call", None, (), imm))

    def prefetch(self, buffer: Buffer, index: AnyIndex) -> None:
        """Ask for what lies at an index, which may be outside, to come to the second-level cache."""
        self._stack[-1].append(Instr("prefetch", None, (), (buffer, as_index(index))))

    # --- structure ---------------------------------------------------------------------------------------------

    def fresh(self, name: str) -> str:
        """Return a variable name not used before in this kernel."""
        n = self._vars.get(name, 0)
        self._vars[name] = n + 1
        return name if n == 0 else f"{name}{n}"

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
        self._stack[-1].append(node)
        self._stack.append(node.body)
        self._known.append({})
        yield
        self._known.pop()
        self._stack.pop()

    def finish(self, range: Range, **facts: object) -> Kernel:
        """Return the kernel."""
        kernel = Kernel(self.name, range, self._stack[0], self.reads, self.writes, **facts)  # type: ignore[arg-type]
        kernel.choices = tuple(self.choices)
        if range.rows or range.slices:
            kernel.aligned = (self.reads | self.writes) - self.unaligned
        return kernel


def _format(body: list[Stmt], pad: str) -> Iterator[str]:
    for s in body:
        if isinstance(s, Let):
            a = [str(x) for x in s.args]
            text = f"{a[0]}*{a[1]}//{a[2]}" if s.op == "muldiv" else f"{s.op}({a[0]}, {a[1]})"
            yield f"{pad}{s.var} = {text}"
        elif isinstance(s, If):
            yield f"{pad}if {s.left} < {s.right}:"
            yield from _format(s.body, pad + "  ")
        elif isinstance(s, Loop):
            step = "" if s.step == 1 else f" step {s.step}"
            carried = ", ".join(f"{v}={first}" for v, first, _ in s.carried)
            yield f"{pad}for {s.var} in {s.start}..{s.stop}{step}:" + (f"  carry {carried}" if carried else "")
            yield from _format(s.body, pad + "  ")
            if s.carried:
                yield f"{pad}  next {', '.join(str(n) for _, _, n in s.carried)}"
        elif s.op == "prefetch":
            yield f"{pad}prefetch {s.imm[0].name}[{s.imm[1]}]"
        elif s.op == "store":
            buffer, index, step = s.imm
            yield f"{pad}{buffer.name}[{index}{_step(s.args[0].lanes, step)}] = {s.args[0]}"
        elif s.op == "call":
            name, _, _, inputs, outputs = s.imm
            yield f"{pad}call {name}: {', '.join(map(str, inputs))} -> {', '.join(map(str, outputs))}"
        else:
            assert s.out is not None
            yield f"{pad}{s.out} = {_expression(s)} : {s.out.type}"


def _step(lanes: int, step: int) -> str:
    return "" if lanes == 1 else (f" : {lanes}" if step == 1 else f" : {lanes} by {step}")


def _expression(s: Instr) -> str:
    if s.op == "load":
        buffer, index, step = s.imm
        assert s.out is not None
        return f"{buffer.name}[{index}{_step(s.out.lanes, step)}]"
    if s.op == "const":
        return repr(s.imm[0])
    if s.op == "shuffle":
        return f"shuffle {s.args[0]}, {s.args[1]} <{' '.join(map(str, s.imm))}>"
    if s.op == "index":
        index, step = s.imm
        return f"{index}" + (f" + lane*{step}" if step else "")
    return " ".join([s.op, ", ".join(str(a) for a in s.args), *(str(i) for i in s.imm)]).strip()
