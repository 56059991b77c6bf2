"""The LLVM text of an exported network: kernels and a network in; one module with its entry points and weights out.

It has the functions and the memory that the ``.c`` file of the same network has: the same header describes both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from smelt.compiler.emit.llvm import ATTRIBUTES, Module
from smelt.compiler.isa import Isa
from smelt.compiler.loops import Buffer, Kernel
from smelt.export.c99.header import Form
from smelt.export.c99.network import Network

_HEX = np.array([list(f"\\{byte:02X}".encode()) for byte in range(256)], np.uint8)


class ObjectUnit:
    """The functions of one object."""

    what, suffix = "object", "o"
    math = False
    stack_bytes = 0

    def __init__(self, isa: Isa) -> None:
        self.isa = isa
        self.module = Module(isa, rows=1)

    def add(self, kernel: Kernel) -> tuple[str, Sequence[Buffer], int]:
        """Add a kernel's function, unless there is one with the same text; its stack is known when it is compiled."""
        self.module.add(kernel)
        return (*self.module.calls[kernel.name], 0)


def module_text(net: Network, form: Form, weights: bool = True) -> str:
    """Return the text; without ``weights`` they are only declared, and every function can be unwound."""
    assert isinstance(net.unit, ObjectUnit)
    names = {buffer: f"@c{i}" for i, (buffer, _) in enumerate(net.constants)}
    isa = net.unit.isa
    align = max(isa.vector_bytes, 8)
    parts = [net.unit.module.text(), *_arena(net, form, align)]
    for buffer, array in net.constants:
        kind = f"[{array.nbytes} x i8]"
        if weights:
            parts.append(f"{names[buffer]} = internal constant {kind} {_bytes(array)}, align {align}")
        else:
            parts.append(f"{names[buffer]} = external hidden constant {kind}, align {align}")
    parts += [*_accessors(net, form), _run(net, form, names)]
    text = "\n\n".join(parts) + "\n"
    return text if weights else text.replace(f" {ATTRIBUTES} {{", " noredzone uwtable {")


def _bytes(array: np.ndarray) -> str:
    """Return an array's bytes as LLVM writes them."""
    flat = np.frombuffer(array.astype(array.dtype.newbyteorder("<")).tobytes(), np.uint8)
    return f'c"{_HEX[flat].tobytes().decode()}"'


def _arena(net: Network, form: Form, align: int) -> Iterator[str]:
    if form.arena == "static" and net.serial.arenas:
        yield f"@arena = internal global [{net.serial.arena_bytes} x i8] zeroinitializer, align {align}"


def _parameter(net: Network, form: Form) -> list[str]:
    return ["ptr %arena"] if net.serial.arenas and form.arena == "caller" else []


def _place(net: Network, form: Form, buffer: Buffer) -> int:
    """Return at which byte of the arena a buffer lies."""
    before = 0
    for arena in net.serial.arenas.values():
        if arena.dtype == buffer.dtype:
            return before + buffer.offset
        before += arena.nbytes
    raise KeyError(f"{buffer.name} is not in the arena")


def _in_arena(net: Network, form: Form, buffer: Buffer) -> str:
    arena = "@arena" if form.arena == "static" else "%arena"
    return f"getelementptr i8, ptr {arena}, i32 {_place(net, form, buffer)}"


def _accessors(net: Network, form: Form) -> Iterator[str]:
    for end in (*net.inputs, *net.outputs) if form.ends else ():
        yield "\n".join(
            [
                f"define ptr @{form.name}_{end.name}({', '.join(_parameter(net, form))}) {ATTRIBUTES} {{",
                f"  %p = {_in_arena(net, form, end.buffer)}",
                "  ret ptr %p",
                "}",
            ]
        )


def _run(net: Network, form: Form, names: dict[Buffer, str]) -> str:
    ends = () if form.ends else (*net.inputs, *net.outputs)
    given = {**names, **{e.buffer: f"%{e.name}" for e in ends}}
    parameters = [f"ptr %{e.name}" for e in ends] + _parameter(net, form)
    lines = [f"define void @{form.name}_run({', '.join(parameters)}) {ATTRIBUTES} {{"]
    for call in net.calls:
        for b in call.buffers:
            if b not in given:
                given[b] = f"%a{len(given)}"
                lines.append(f"  {given[b]} = {_in_arena(net, form, b)}")
        lines.append(f"  call void @{call.function}({', '.join(f'ptr {given[b]}' for b in call.buffers)})")
    return "\n".join([*lines, "  ret void", "}"])
