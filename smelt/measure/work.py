"""What kernels do: their loops in; the floating-point operations they execute and the bytes they move, out.

Counted by walking the loops, as the processor does, for a whole batch. An ``exp`` is the twenty or so operations it is
made of, a window's padding is multiplied like any pixel, lanes that two vectors share count twice; what a user's own
function executes is not known. Bytes are those of every buffer that is touched, once for reading and once for writing;
from how far they come is told by what else was moved since they were last touched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from smelt.compiler.loops import ITEMSIZE, Buffer, If, Index, Instr, Kernel, Let, Loop, Stmt

FLOATS = ("f32", "f64", "f16", "bf16")
_PAGE = 1024  # bytes that count as touched together
_OPERATIONS = {"fma": 2, "dot": 4} | dict.fromkeys(
    ("add", "sub", "mul", "div", "neg", "abs", "sqrt", "floor", "rint", "max", "min", "eq", "ne", "lt", "le", "libm"), 1
)


@dataclass
class Work:
    """What one call of a kernel executes, over all threads.

    ``flops`` counts a fused multiply-add as two operations; ``paired`` are those of them done by products of pairs of
    bfloat16. ``reads`` and ``writes`` are bytes of each buffer, at most its size.
    """

    flops: int = 0
    paired: int = 0
    reads: dict[Buffer, int] = field(default_factory=dict)
    writes: dict[Buffer, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Bytes read and written."""
        return sum(self.reads.values()) + sum(self.writes.values())

    @property
    def buffers(self) -> set[Buffer]:
        """What is touched."""
        return self.reads.keys() | self.writes.keys()


def work(kernel: Kernel, rows: int) -> Work:
    """Return what a kernel executes for a batch of ``rows``."""
    out = Work()
    _walk(kernel.body, {"lo": 0, "hi": kernel.range.units(rows), "n": rows}, 1, out, {})
    for side in (out.reads, out.writes):
        side |= {b: min(b.nbytes, n) for b, n in side.items()}
    return out


def distances(works: Sequence[Work]) -> list[list[tuple[int, int]]]:
    """Return, for every kernel of a step, pairs of bytes it moves and bytes touched since their place was last touched.

    A cache that holds the second number still holds the first (Mattson and others, "Evaluation techniques for storage
    hierarchies", 1970). Each byte that was touched counts once; buffers that share a place in the arena are one place;
    what a kernel is the first to touch was touched last in the step before.
    """
    places = _places({b for w in works for b in w.buffers})
    masks = []
    for w in works:
        mask = 0
        for buffer in w.buffers:
            mask |= places[buffer]
        masks.append(mask)
    out = []
    for i, w in enumerate(works):
        left = dict.fromkeys(w.buffers, 0)
        found: dict[Buffer, int] = {}
        between = 0
        for back in range(1, len(works) + 1):
            mask = masks[i - back]
            between |= mask
            for buffer in [b for b in left if places[b] & mask]:
                found[buffer] = between.bit_count() * _PAGE
                del left[buffer]
            if not left:
                break
        out.append([(n, found[b]) for side in (w.reads, w.writes) for b, n in side.items()])
    return out


def _places(buffers: set[Buffer]) -> dict[Buffer, int]:
    """Return the pages each buffer takes, as the bits of an integer: first the arena's, then all others' in a row."""
    end = max((b.offset + b.nbytes for b in buffers if b.kind == "arena"), default=0)
    out = {}
    for b in sorted(buffers, key=lambda b: (b.kind, b.slot, b.offset, b.name)):
        start = b.offset if b.kind == "arena" else end
        first, last = start // _PAGE, (start + max(b.nbytes, 1) - 1) // _PAGE
        out[b] = ((1 << (last - first + 1)) - 1) << first
        if b.kind != "arena":
            end = (last + 1) * _PAGE
    return out


def _walk(body: Sequence[Stmt], env: dict[str, int], times: int, c: Work, known: dict[int, set[str]]) -> None:
    for s in body:
        if isinstance(s, Instr) and s.op == "call":
            for side, operands in zip((c.reads, c.writes), s.imm[-2:], strict=True):
                for o in operands:
                    size = math.prod(_value(d, env) for d in o.dims) * ITEMSIZE[o.buffer.dtype]
                    side[o.buffer] = side.get(o.buffer, 0) + times * size
        elif isinstance(s, Instr):
            _count(s, times, c)
        elif isinstance(s, Let):
            a = [_value(i, env) for i in s.args]
            env = {**env, s.var: a[0] * a[1] // a[2] if s.op == "muldiv" else {"min": min, "max": max}[s.op](a)}
        elif isinstance(s, If):
            if _value(s.left, env) < _value(s.right, env):
                _walk(s.body, env, times, c, known)
        else:
            rounds = range(_value(s.start, env), _value(s.stop, env), s.step)
            if s.var in _deciding(s, known):
                for i in rounds:
                    _walk(s.body, {**env, s.var: i}, times, c, known)
            elif rounds:
                _walk(s.body, {**env, s.var: rounds[0]}, times * len(rounds), c, known)


def _count(s: Instr, times: int, c: Work) -> None:
    if s.op in ("load", "store"):
        buffer: Buffer = s.imm[0]
        value = s.out if s.out is not None else s.args[0]
        side = c.reads if s.op == "load" else c.writes
        side[buffer] = side.get(buffer, 0) + times * value.lanes * ITEMSIZE[value.dtype]
    elif s.op in _OPERATIONS and s.out is not None and s.args[0].dtype in FLOATS:
        c.flops += times * s.out.lanes * _OPERATIONS[s.op]
        c.paired += times * s.out.lanes * _OPERATIONS[s.op] * (s.op == "dot")


def _value(index: Index, env: dict[str, int]) -> int:
    return index.const + sum(coef * env[name] for name, coef in index.terms)


def _deciding(loop: Loop, known: dict[int, set[str]]) -> set[str]:
    """Return the variables on which it depends how often something inside of a loop runs."""
    found = known.get(id(loop))
    if found is None:
        found = known[id(loop)] = set()
        lets: list[Let] = []
        for s in _statements(loop.body):
            if isinstance(s, Let):
                lets.append(s)
            elif not isinstance(s, Instr):
                ends = (s.start, s.stop) if isinstance(s, Loop) else (s.left, s.right)
                found |= {name for i in ends for name, _ in i.terms}
        for let in reversed(lets):  # a variable is defined before it is used
            if let.var in found:
                found |= {name for i in let.args for name, _ in i.terms}
    return found


def _statements(body: Sequence[Stmt]) -> Iterator[Stmt]:
    for s in body:
        yield s
        if isinstance(s, (Loop, If)):
            yield from _statements(s.body)
