"""Write kernels as C99: plain loops, no library but ``math.h``, for any compiler and any width of ``int``.

In: :class:`~smelt.compiler.loops.Kernel` objects lowered for :data:`~smelt.compiler.isa.PLAIN_C`, with their buffers
placed. Out: static functions, one for all kernels that differ only in where their buffers lie. A value of several
lanes is computed in a loop over its lanes, together with its neighbours; only what outlives such a loop is an array.
Nothing in the text comes from a model's names: buffers, variables and functions are numbered.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from smelt.compiler.emit.expressions import ATOM, PRODUCT, SUM, TYPE, Needs, Text, expression
from smelt.compiler.isa import PLAIN_C
from smelt.compiler.loops import ITEMSIZE, Buffer, If, Index, Instr, Kernel, Let, Loop, Stmt, Value

_INT = 1 << 15  # what fits in an int everywhere is below
_LONG = 100  # characters from which an expression gets a variable of its own
_SMALL = ("u8", "i8", "bool")


def overlap(a: Buffer, b: Buffer) -> bool:
    """Return whether two buffers share memory."""
    if a is b or a.offset < 0 or b.offset < 0 or a.dtype != b.dtype:  # those of other dtypes have an arena of their own
        return a is b
    return a.offset < b.offset + b.nbytes and b.offset < a.offset + a.nbytes


class _Run:
    """Operations on the same number of lanes, in a row: they become one loop."""

    def __init__(self) -> None:
        self.lanes = 0
        self.instrs: list[Instr] = []
        self.reads: list[tuple[Buffer, Index, int]] = []
        self.writes: list[tuple[Buffer, Index, int]] = []


class _Function:
    """Emits one kernel."""

    def __init__(self, unit: CUnit, kernel: Kernel) -> None:
        self.needs, self.kernel = unit.needs, kernel
        self.buffers: dict[Buffer, str] = {}  # the parameter of each, in the order of first use
        units = kernel.range.units(unit.rows)
        self.known = {"lo": 0, "hi": units, "n": unit.rows, "first_row": 0}  # integer variables that are constants
        self.lines: list[str] = []
        self.depth = 1
        self.texts: dict[int, Text] = {}  # of values: a variable, a constant or an expression
        self.arrays: dict[int, str] = {}  # of values that are kept lane by lane
        self.array_bytes = 0
        self.largest = 0  # integer that occurs
        self.live = _live(kernel.body)
        self.uses = self._count(kernel.body)
        self.inside = [self.uses]  # uses within each of the loops that are open
        self.home: dict[int, int] = {}  # of arrays: how many loops are open where they were made
        self.inline = set(self._inline(kernel.body))
        self.run = _Run()
        self.moves = 0  # assignments to carried values with the same number happen at once

    def emit(self) -> str:
        """Return everything after the function's name; ``buffers`` then holds what a call must pass."""
        self._body(self.kernel.body)
        self._flush()
        parameters = ", ".join(self._parameter(b, name) for b, name in self.buffers.items())
        text = "\n".join([f"({parameters or 'void'})", "{", *self.lines, "}"])
        return text.replace("INTEGER", "int" if self.largest < _INT else "long")

    def _parameter(self, buffer: Buffer, name: str) -> str:
        alone = not any(overlap(buffer, b) for b in self.buffers if b is not buffer)
        const = "" if buffer in self.kernel.writes else "const "
        return f"{const}{TYPE[buffer.dtype]} *{'restrict ' if alone else ''}{name}"

    def _count(self, body: Sequence[Stmt]) -> Counter[int]:
        """Return how often every value is read."""
        return Counter(_reads(body, self.live))

    def _inline(self, body: Sequence[Stmt]) -> Iterator[int]:
        """Yield scalars that may be spelled out where they are read: once, by another scalar of the same body."""
        plain = [s for s in body if isinstance(s, Instr) and _lanes(s) == 1 and s.op != "splat"]
        read = {a.number for s in plain for a in s.args}
        for s in body:
            if isinstance(s, (Loop, If)):
                yield from self._inline(s.body)
        for s in plain:
            if s.out is not None and s.op != "load" and self.uses[s.out.number] == 1 and s.out.number in read:
                yield s.out.number

    def _line(self, text: str) -> None:
        self.lines.append("  " * self.depth + text)

    # --- integers ----------------------------------------------------------------------------------------------

    def _fold(self, index: Index) -> Index:
        """Return an index without the variables that are constants here."""
        out = Index(index.const)
        for name, coef in index.terms:
            out = out + (self.known[name] * coef if name in self.known else Index(0, ((name, coef),)))
        return out

    def _integer(self, index: Index) -> Text:
        index = self._fold(index)
        self.largest = max(self.largest, abs(index.const), *(abs(c) for _, c in index.terms), 0)
        terms = [(c, v if abs(c) == 1 else f"{v} * {abs(c)}") for v, c in index.terms]
        if index.const or not terms:
            terms.append((index.const, str(abs(index.const))))
        terms.sort(key=lambda t: t[0] < 0)  # what is subtracted comes last
        text = "".join(f" {'-' if c < 0 else '+'} {part}" for c, part in terms)
        text = text[3:] if terms[0][0] >= 0 else f"-{text[3:]}"
        return Text(text, SUM if len(terms) > 1 or terms[0][0] < 0 else (PRODUCT if "*" in text else ATOM))

    def _let(self, s: Let) -> None:
        args = [self._fold(a) for a in s.args]
        if not any(a.terms for a in args):
            values = [a.const for a in args]
            self.known[s.var] = values[0] * values[1] // values[2] if s.op == "muldiv" else _CHOOSE[s.op](values)
            return
        if s.op == "muldiv":
            a, b, c = (self._integer(x).at(PRODUCT) for x in args)
            self._line(f"const INTEGER {s.var} = {a if b == '1' else f'{a} * {b}'} / {c};")
            return
        a, b = (self._integer(x).at(SUM) for x in args)
        self._line(f"const INTEGER {s.var} = {a} {'<' if s.op == 'min' else '>'} {b} ? {a} : {b};")

    # --- structure ---------------------------------------------------------------------------------------------

    def _body(self, body: Sequence[Stmt]) -> None:
        for s in body:
            if isinstance(s, Instr):
                self._instr(s)
            elif isinstance(s, Let):
                self._let(s)
            elif isinstance(s, Loop):
                self._loop(s)
            else:
                self._if(s)

    def _nested(self, head: str, body: Sequence[Stmt], carried: Sequence[tuple[Value, Value, Value]] = ()) -> None:
        self._line(f"{head} {{")
        self.depth += 1
        self.inside.append(self._count(body))
        for value, _, _ in carried:
            self.home[value.number] = len(self.inside)
        self._body(body)
        self._carry_on(carried)
        self._flush()
        self.inside.pop()
        for value, _, _ in carried:
            self.home[value.number] = len(self.inside)
        self.depth -= 1
        self._line("}")

    def _loop(self, s: Loop) -> None:
        start, stop = self._fold(s.start), self._fold(s.stop)
        self._carry_in(s.carried)
        if not start.terms and not stop.terms and stop.const <= start.const + s.step:
            if start.const < stop.const:  # a single round
                self.known[s.var] = start.const
                self._body(s.body)
                self._carry_on(s.carried)
            return
        self._flush()
        self.largest = max(self.largest, stop.const + s.step)
        last = self._integer(stop).at(SUM)
        step = f"++{s.var}" if s.step == 1 else f"{s.var} += {s.step}"
        head = f"for (INTEGER {s.var} = {self._integer(start).text}; {s.var} < {last}; {step})"
        self._nested(head, s.body, s.carried)

    def _if(self, s: If) -> None:
        left, right = self._fold(s.left), self._fold(s.right)
        if left.terms or right.terms:
            self._flush()
            self._nested(f"if ({self._integer(left).at(SUM)} < {self._integer(right).at(SUM)})", s.body)
        elif left.const < right.const:
            self._body(s.body)

    def _carry_in(self, carried: Sequence[tuple[Value, Value, Value]]) -> None:
        """Give carried values a variable or an array: that of the first value where nothing else reads it."""
        self.moves += 1
        for value, first, _ in carried:
            if value.lanes == 1:
                self._line(f"{TYPE[value.dtype]} v{value.number} = {self._texts(first).text};")
                self.texts[value.number] = Text(f"v{value.number}")
            elif self.home.get(first.number) == len(self.inside) and self.inside[-1][first.number] == 1:
                self.arrays[value.number] = self.arrays[first.number]
                self.home[value.number] = len(self.inside)
            else:
                self._array(value)
                self._add(Instr("assign", None, (value, first), (self.moves,)))

    def _carry_on(self, carried: Sequence[tuple[Value, Value, Value]]) -> None:
        """Assign the values for the next round: all together, as if at once."""
        scalars = [(f"v{v.number}", TYPE[v.dtype], self._texts(after).text) for v, _, after in carried if v.lanes == 1]
        for line in _at_once(scalars):
            self._line(line)
        self.moves += 1
        for value, _, after in carried:
            if value.lanes > 1 and self.arrays.get(after.number) != self.arrays[value.number]:
                self._add(Instr("assign", None, (value, after), (self.moves,)))

    def _array(self, value: Value) -> None:
        self.arrays[value.number] = f"v{value.number}"
        self.home[value.number] = len(self.inside)
        self.array_bytes += value.lanes * ITEMSIZE[value.dtype]
        self._line(f"{TYPE[value.dtype]} v{value.number}[{value.lanes}];")

    # --- one at a time -----------------------------------------------------------------------------------------

    def _instr(self, s: Instr) -> None:
        if s.out is not None and s.out.number not in self.live:
            return
        if s.op == "const":
            assert s.out is not None
            self.texts[s.out.number] = self.needs.number(s.imm[0], s.out.dtype)
        elif s.op == "splat":
            assert s.out is not None
            self.texts[s.out.number] = self._texts(s.args[0])
        elif _lanes(s) > 1:
            self._add(s)
        elif s.op == "store":
            self._keep_order(s)
            self._line(f"{self._place(s)} = {self._stored(s)};")
        else:
            assert s.out is not None
            if s.op == "load":
                self._keep_order(s)
            self._define(s.out, self._expression(s), s.out.number in self.inline, self._line)

    def _keep_order(self, s: Instr) -> None:
        """End the run when a scalar access must not pass in front of what is in it."""
        others = self.run.writes if s.op == "load" else [*self.run.writes, *self.run.reads]
        if any(overlap(s.imm[0], b) for b, _, _ in others):
            self._flush()

    def _define(self, out: Value, text: Text, inline: bool, line) -> None:  # type: ignore[no-untyped-def]
        """Give a value a variable, or let its only reader spell it out."""
        if inline and len(text.text) < _LONG:
            self.texts[out.number] = text
            return
        line(f"const {TYPE[out.dtype]} v{out.number} = {_narrow(text, out.dtype)};")
        self.texts[out.number] = Text(f"v{out.number}")

    def _texts(self, value: Value) -> Text:
        found = self.texts.get(value.number)
        return Text(f"{self.arrays[value.number]}[l]") if found is None else found

    def _place(self, s: Instr) -> str:
        buffer, index, step = s.imm
        name = self.buffers.setdefault(buffer, f"p{len(self.buffers)}")
        self.largest = max(self.largest, buffer.size)
        if _lanes(s) > 1:
            index = index + Index(0, (("l", step),) if step else ())
        return f"{name}[{self._integer(index).text}]"

    def _stored(self, s: Instr) -> str:
        return _narrow(self._texts(s.args[0]), s.args[0].dtype)

    def _expression(self, s: Instr) -> Text:
        if s.op == "load":
            return Text(self._place(s))
        if s.op == "index":
            index, step = s.imm
            assert s.out is not None
            at = index + Index(0, (("l", step),) if step and s.out.lanes > 1 else ())
            return Text(f"({TYPE[s.out.dtype]}){self._integer(at).at(ATOM)}", PRODUCT)
        return expression(s, [self._texts(a) for a in s.args], self.needs)

    # --- lane by lane ------------------------------------------------------------------------------------------

    def _add(self, s: Instr) -> None:
        """Put an operation into the run of its lanes, or begin a new run."""
        if self.run.instrs and (self.run.lanes != _lanes(s) or self._clash(s)):
            self._flush()
        self.run.lanes = _lanes(s)
        self.run.instrs.append(s)
        if s.op in ("load", "store"):
            (self.run.reads if s.op == "load" else self.run.writes).append(s.imm)

    def _clash(self, s: Instr) -> bool:
        """Return whether an access could meet an element of another lane that the run has not yet written, or read."""
        if s.op not in ("load", "store"):
            return False
        buffer, index, step = s.imm
        for other, i, t in [*self.run.writes, *(self.run.reads if s.op == "store" else ())]:
            if not overlap(buffer, other):
                continue
            apart = self._fold(index + i * -1)
            same = buffer is other or buffer.offset == other.offset
            if not same or apart.terms or step != t or 0 < abs(apart.const) < _lanes(s) * abs(step):
                return True
        return False

    def _flush(self) -> None:
        """Write the run as one loop over its lanes."""
        run, self.run = self.run, _Run()
        if not run.instrs:
            return
        inside = Counter(a.number for s in run.instrs for a in s.args)
        for s in run.instrs:
            if s.out is not None and inside[s.out.number] < self.uses[s.out.number]:
                self._array(s.out)
        body: list[str] = []
        moves: list[tuple[str, str, str]] = []
        at_once: tuple = ()
        for s in run.instrs:
            if s.op != "assign" or s.imm != at_once:
                body += _at_once(moves)
                moves, at_once = [], s.imm
            if s.op == "assign":
                target, source = s.args
                moves.append((f"{self.arrays[target.number]}[l]", TYPE[target.dtype], self._texts(source).text))
                continue
            if s.op == "store":
                body.append(f"{self._place(s)} = {self._stored(s)};")
                continue
            assert s.out is not None
            text, n = self._expression(s), s.out.number
            if n in self.arrays:
                body.append(f"{self.arrays[n]}[l] = {_narrow(text, s.out.dtype)};")
            else:
                self._define(s.out, text, s.op != "load" and inside[n] == 1, body.append)
        body += _at_once(moves)
        one = len(body) == 1
        self._line(f"for (INTEGER l = 0; l < {run.lanes}; ++l)" + ("" if one else " {"))
        self.lines += ["  " * (self.depth + 1) + line for line in body]
        if not one:
            self._line("}")
        for s in run.instrs:
            if s.out is not None:
                self.texts.pop(s.out.number, None)


_CHOOSE = {"min": min, "max": max}


def _lanes(s: Instr) -> int:
    return s.out.lanes if s.out is not None else s.args[0].lanes


def _narrow(text: Text, dtype: str) -> str:
    """Return what may be assigned to a variable: C computes small integers as ``int``."""
    return text.text if dtype not in _SMALL or text.level == ATOM else f"({TYPE[dtype]})({text.text})"


def _at_once(moves: list[tuple[str, str, str]]) -> list[str]:
    """Return assignments (target, type, expression) that all see the targets as they were before."""
    moves = [m for m in moves if m[0] != m[2]]
    first, then = [], []
    for i, (target, type_, text) in enumerate(moves):
        if any(_mentions(text, before) for before, _, _ in moves[:i]):
            name = "n" + re.sub(r"\W", "", target)
            first.append(f"const {type_} {name} = {text};")
            text = name
        then.append(f"{target} = {text};")
    return first + then


def _mentions(text: str, target: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(target)}(?!\w)", text) is not None


def _reads(body: Sequence[Stmt], live: set[int]) -> Iterator[int]:
    """Yield the number of every value each time something that is done reads it."""
    for s in body:
        if isinstance(s, Instr):
            if s.out is None or s.out.number in live:
                yield from (a.number for a in s.args)
        elif isinstance(s, (Loop, If)):
            yield from _reads(s.body, live)
            if isinstance(s, Loop):
                yield from (v.number for _, first, after in s.carried for v in (first, after))


def _live(body: Sequence[Stmt]) -> set[int]:
    """Return the values on which something that is stored or carried depends."""
    made: dict[int, Instr] = {}
    waiting: list[int] = []

    def visit(body: Sequence[Stmt]) -> None:
        for s in body:
            if isinstance(s, Instr) and s.out is not None:
                made[s.out.number] = s
            elif isinstance(s, Instr):
                waiting.extend(a.number for a in s.args)
            elif isinstance(s, (Loop, If)):
                visit(s.body)
                if isinstance(s, Loop):
                    waiting.extend(v.number for carried in s.carried for v in carried)

    visit(body)
    live: set[int] = set()
    while waiting:
        n = waiting.pop()
        if n not in live:
            live.add(n)
            if n in made:
                waiting.extend(a.number for a in made[n].args)
    return live


class CUnit:
    """The functions of one C file, and what they need."""

    what = suffix = "c"
    isa = PLAIN_C

    def __init__(self, rows: int = 1) -> None:
        self.rows = rows
        self.needs = Needs()
        self.functions: dict[str, str] = {}  # names by all of a function's text but the name
        self.stack_bytes = 0  # of the largest arrays in one function

    @property
    def math(self) -> bool:
        """Whether functions of ``math.h`` are called."""
        return self.needs.math

    def add(self, kernel: Kernel) -> tuple[str, list[Buffer], int]:
        """Add a kernel's function, unless there is one with the same text.

        Returns
        -------
        (str, list of Buffer, int)
            Its name, what to pass, and the bytes of its arrays.
        """
        function = _Function(self, kernel)
        text = function.emit()
        self.stack_bytes = max(self.stack_bytes, function.array_bytes)
        name = self.functions.setdefault(text, f"k{len(self.functions)}")
        return name, list(function.buffers), function.array_bytes

    def text(self) -> Iterable[str]:
        """Return the small functions and the kernels."""
        return [*self.needs.functions.values(), *(f"static void {name}{t}" for t, name in self.functions.items())]
