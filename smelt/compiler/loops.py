"""Loops: the second and last intermediate form, one :class:`Kernel` per fused group of graph nodes.

In: a lowering that calls methods of a :class:`~smelt.compiler.builder.Builder`. Out: structured loops over vectors with
affine addresses, which print as text and which the emitters turn into LLVM or C without knowing any kernel.

A value has a dtype and a number of lanes; a ``pair`` is two 16-bit elements that lie side by side. An address is a
buffer and an :class:`Index`: a sum of loop variables times constants, counted in elements. Loops may carry values
(accumulators) from one round to the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    """Memory a kernel reads or writes: ``kind`` is input, output, state, constant, arena, or local to one kernel.

    ``slot`` numbers inputs, outputs, states and constants in the pointer table; ``offset`` is the byte position of
    an arena buffer, set by the memory plan. One with a ``border`` is zero before the first run, and nobody writes that
    border: its place serves only buffers with the same one. One that is local lies on the stack of whichever thread
    runs the kernel; it is in no kernel's ``reads`` or ``writes``.

    With ``turn``, kernels that take turns pass it on, so many rows of the batch at a time, of ``row`` elements each:
    every thread then has a place of its own, for those rows alone, and ``offset`` counts from where its places begin.
    What is ``kept`` holds from the first phase on, and through so many at least: from round to round of a batch.
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
    kept: int = 0

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
            yield f"{pad}prefetch {s.imm[0].name}[{s.imm[1]}]{' to write' if s.imm[2] else ''}"
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
