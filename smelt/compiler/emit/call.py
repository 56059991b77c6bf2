"""Write the call of a user's function: pointers, sizes and shapes of its operands on the stack, and its verdict.

In: a ``call`` of the loops. Out: lines of the kernel. A function that did not return 1 leaves a status that is not 0
in the slot of the pointer table after its own; the step ends at the next barrier. What ctypes returns for a Python
function that was interrupted is anything, so such a one says that it is done in the word after its output pointers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from smelt.compiler.emit.denormals import denormals
from smelt.compiler.loops import Index, Operand
from smelt.ops.custom import DONE

if TYPE_CHECKING:
    from smelt.compiler.emit.llvm import _Function


def emit_call(f: _Function, slot: int, python: bool, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> None:
    """Add a call of the function in ``slot``; the interpreter's functions run with denormals as Python has them."""
    operands = (*inputs, *outputs)

    def room(what: str, size: int) -> str:
        return f._once(0, (what, slot), f"alloca [{max(size, 1)} x i64], align 8")

    def put(base: str, at: int, value: str) -> None:
        place = f._temp()
        f._line(f"{place} = getelementptr i64, ptr {base}, i64 {at}")
        f._line(f"store {value}, ptr {place}, align 8")

    ins, outs = room("inputs", len(inputs)), room("outputs", len(outputs) + 1)
    sizes, shapes = room("sizes", len(operands)), room("shapes", len(operands))
    dims = room("dims", sum(len(o.dims) for o in operands))
    at = 0
    for k, o in enumerate(operands):
        base, i = (ins, k) if k < len(inputs) else (outs, k - len(inputs))
        put(base, i, f"ptr {f.address(o.buffer, o.index)}")
        start, size = f._temp(), Index(1)
        f._line(f"{start} = getelementptr i64, ptr {dims}, i64 {at}")
        put(shapes, k, f"ptr {start}")
        for d in o.dims:  # all but one are constants
            put(dims, at, f"i64 {f.integer(d)}")
            size, at = (size * d.const if not d.terms else d * size.const), at + 1
        put(sizes, k, f"i64 {f.integer(size)}")
    put(outs, len(outputs), "i64 0")
    function = f.pointer_in(slot)
    before, after = denormals(f.module.isa.triple, f.module.declare, flush=False) if python else ([], [])
    result, other, code = f._temp(), f._temp(), f._temp()
    f.lines(before)
    f._line(f"{result} = call i32 {function}(ptr {ins}, ptr {outs}, ptr {sizes}, ptr {shapes})")
    f.lines(after)
    if python:
        verdict, word, result = f._temp(), f._temp(), f._temp()
        f._line(f"{verdict} = getelementptr i64, ptr {outs}, i64 {len(outputs)}")
        f._line(f"{word} = load i64, ptr {verdict}, align 8")
        f._line(f"{result} = trunc i64 {word} to i32")
    f._line(f"{other} = xor i32 {result}, {DONE}")
    f._line(f"{code} = zext i32 {other} to i64")
    f._line(f"{f._temp()} = atomicrmw umax ptr {f.slot(slot + 1)}, i64 {code} monotonic, align 8")
