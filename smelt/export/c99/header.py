"""The header of an exported network, which is also its manual: a network and how it is to be written in; text out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from smelt._version import __version__
from smelt.compiler.emit.expressions import TYPE
from smelt.export.c99.network import End, Network

Where = Literal["caller", "static"]


@dataclass(frozen=True)
class Code:
    """What the manual says of the code behind the header.

    ``title`` is what it is, ``calls`` what it calls beside itself, ``flash`` and ``stack`` what it takes, ``advice``
    what its users should know.
    """

    title: str
    calls: str
    flash: str
    stack: str
    advice: str


def c_code(net: Network) -> Code:
    """Return what is said of a ``.c`` file."""
    return Code(
        f"a neural network in C99, written by Smelt {__version__}",
        "No library" + (" but math.h" if net.unit.math else ""),
        f"{net.constant_bytes:,} bytes of constants, and the code",
        f"{net.unit.stack_bytes:,} bytes of arrays, and what the compiler adds for three nested calls",
        "Loops are written to be vectorized: compile with -O3, and for the processor that runs them.",
    )


@dataclass(frozen=True)
class Form:
    """How a network appears in C: the prefix of its names, who keeps the arena, and whether it holds the ends."""

    name: str
    arena: Where
    ends: bool

    @property
    def upper(self) -> str:
        """The prefix of macros."""
        return self.name.upper()


def parameters(net: Network, form: Form) -> str:
    """Return the parameters of the function that runs the network."""
    out = [] if form.ends else [f"const {TYPE[e.dtype]} *{e.name}" for e in net.inputs]
    out += [] if form.ends else [f"{TYPE[e.dtype]} *{e.name}" for e in net.outputs]
    return ", ".join(out + _arena_parameter(net, form)) or "void"


def accessor(net: Network, form: Form, end: End) -> str:
    """Return the head of the function that says where an input or output lies in the arena."""
    return f"{TYPE[end.dtype]} *{form.name}_{end.name}({', '.join(_arena_parameter(net, form)) or 'void'})"


def _arena_parameter(net: Network, form: Form) -> list[str]:
    return [f"{form.name}_arena *arena"] if net.serial.arenas and form.arena == "caller" else []


def _end(form: Form, end: End) -> str:
    shape = " x ".join(map(str, end.shape)) or "a single number"
    title = f" ({end.title})" if end.title else ""
    return f"{end.name}{title}: {TYPE[end.dtype]}[{form.upper}_{end.name.upper()}_SIZE], shape {shape}"


def _example(net: Network, form: Form) -> list[str]:
    given = ["&arena"] if net.serial.arenas and form.arena == "caller" else []
    out = [f"static {form.name}_arena arena;"] if given else []
    if form.ends:
        argument = given[0] if given else ""
        out += [f"{TYPE[e.dtype]} *{e.name} = {form.name}_{e.name}({argument});" for e in (*net.inputs, *net.outputs)]
        out += [f"... write {', '.join(e.name for e in net.inputs)} ...", f"{form.name}_run({argument});"]
    else:
        out += [f"{TYPE[e.dtype]} {e.name}[{form.upper}_{e.name.upper()}_SIZE];" for e in (*net.inputs, *net.outputs)]
        arguments = ", ".join([e.name for e in (*net.inputs, *net.outputs)] + given)
        out += [f"... write {', '.join(e.name for e in net.inputs)} ...", f"{form.name}_run({arguments});"]
    return [*out, f"... read {', '.join(e.name for e in net.outputs)} ..."]


def manual(net: Network, form: Form, code: Code) -> list[str]:
    """Return what the header says about the network."""
    serial = net.serial
    proven = all(a.proven for a in serial.arenas.values())
    arena = f"{serial.arena_bytes:,} bytes" + (": proven the least for these loops in this order" if proven else "")
    held = ", inputs and outputs included" if form.ends else ""
    who = {"caller": "which the caller provides", "static": f"kept by the .{net.unit.suffix} file"}[form.arena]
    lines = [
        f"{form.name}.h - {code.title}.",
        "",
        f"A {net.model} with {net.macs:,} multiply-accumulates. {code.calls}, no allocation, "
        "no state from call to call.",
        "",
        "Arrays are dense, the last axis fastest, the first one the batch. They must not overlap.",
        *(f"  in   {_end(form, e)}" for e in net.inputs),
        *(f"  out  {_end(form, e)}" for e in net.outputs),
        "",
        "Memory:",
        f"  flash  {code.flash}",
        f"  arena  {arena}{held}" + (f", {who}" if serial.arenas else ""),
        f"  stack  {code.stack}",
        "",
        "Example:",
        *(f"  {line}" for line in _example(net, form)),
        "",
    ]
    if form.arena == "static" and serial.arenas:
        lines.append(f"{form.name}_run must not be called while it runs: there is one arena.")
    else:
        lines.append(f"{form.name}_run may run several times at once, each time with memory of its own.")
    return [*lines, code.advice]


def header(net: Network, form: Form, code: Code | None = None) -> str:
    """Return the text of the ``.h`` file, of C where nothing else is said of the code."""
    code = code or c_code(net)
    guard = f"{form.upper}_H"
    lines = ["/*", *(f" * {line}".rstrip() for line in manual(net, form, code)), " */"]
    lines += [f"#ifndef {guard}", f"#define {guard}", "", "#include <stdint.h>", ""]
    lines += [f"#define {form.upper}_{e.name.upper()}_SIZE {e.size}" for e in (*net.inputs, *net.outputs)]
    lines += [f"#define {form.upper}_CONSTANT_BYTES {net.constant_bytes}"]
    lines += [f"#define {form.upper}_ARENA_BYTES {net.serial.arena_bytes}", ""]
    lines += ["#ifdef __cplusplus", 'extern "C" {', "#endif", ""]
    if net.serial.arenas:
        members = [f"  {TYPE[a.dtype]} {a.dtype}[{a.size}];" for a in net.serial.arenas.values()]
        lines += ["typedef struct {", *members, f"}} {form.name}_arena;", ""]
    if form.ends:
        lines += [f"{accessor(net, form, e)};" for e in (*net.inputs, *net.outputs)]
    lines += [f"void {form.name}_run({parameters(net, form)});", ""]
    lines += ["#ifdef __cplusplus", "}", "#endif", "", f"#endif /* {guard} */"]
    return "\n".join(lines) + "\n"
