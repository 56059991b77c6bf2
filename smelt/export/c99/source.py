"""The source of an exported network: a network and how it is to be written in; text out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from smelt.compiler.emit.c import CUnit
from smelt.compiler.emit.expressions import FLOATS, TYPE, Needs
from smelt.compiler.loops import ITEMSIZE, Buffer
from smelt.export.c99.header import Form, accessor, parameters
from smelt.export.c99.network import Network

WIDTH = 110  # characters of a line of numbers


def array(head: str, values: np.ndarray, dtype: str, needs: Needs) -> str:
    """Return the definition of an array, ``head[size] = {...};``."""
    flat = values.reshape(-1)
    if dtype == "f32" and np.isfinite(flat).all():
        texts = [f" {v}f," for v in map(str, flat)]  # the shortest that reads back the same; never without . or e
    else:
        texts = [f" {_element(v, dtype, needs)}," for v in flat.tolist()]
    texts[-1] = texts[-1][:-1]
    lines, line, length = [], [" "], 1
    for text in texts:
        if length + len(text) > WIDTH:
            lines.append("".join(line))
            line, length = [" "], 1
        line.append(text)
        length += len(text)
    return "\n".join([f"{head}[{flat.size}] = {{", *lines, "".join(line), "};"])


def _element(value: float, dtype: str, needs: Needs) -> str:
    """Return an element of a constant array; to tcc, infinities and NaN of ``math.h`` are no constants."""
    if dtype not in FLOATS or np.isfinite(value):
        return needs.number(value, dtype).text
    f = "f" if dtype == "f32" else ""
    return f"{0.0 if np.isnan(value) else np.copysign(1.0, value)}{f} / 0.0{f}"


def source(net: Network, form: Form) -> str:
    """Return the text of the ``.c`` file."""
    assert isinstance(net.unit, CUnit)
    needs = net.unit.needs
    names = {buffer: f"c{i}" for i, (buffer, _) in enumerate(net.constants)}
    constants = [
        array(f"static const {TYPE[b.dtype]} {names[b]}", values, b.dtype, needs) for b, values in net.constants
    ]
    body = "\n\n".join([*constants, *net.unit.text(), *_accessors(net, form), _run(net, form, names)])
    top = [f"/* {form.name}.c - written by Smelt; {form.name}.h is the manual. */", f'#include "{form.name}.h"']
    top += ["#include <math.h>"] if needs.math else []
    checks = list(_checks(net, form))
    return "\n".join([*top, "", *checks, *([""] if checks else []), body]) + "\n"


def _checks(net: Network, form: Form) -> Iterator[str]:
    """Yield declarations that do not compile where a type is of another size."""
    arenas = net.serial.arenas
    if arenas:
        fits = f"sizeof({form.name}_arena) <= {form.upper}_ARENA_BYTES"
        yield f"typedef char {form.name}_arena_has_its_size[{fits} ? 1 : -1];"
    for dtype in ("f32", "f64"):
        if any(b.dtype == dtype for b, _ in net.constants) or dtype in arenas:
            yield f"typedef char {form.name}_{dtype}_has_its_size[sizeof({TYPE[dtype]}) == {ITEMSIZE[dtype]} ? 1 : -1];"


def _in_arena(form: Form, buffer: Buffer) -> str:
    member = f"arena{'->' if form.arena == 'caller' else '.'}{buffer.dtype}"
    offset = buffer.offset // ITEMSIZE[buffer.dtype]
    return f"{member} + {offset}" if offset else member


def _accessors(net: Network, form: Form) -> Iterator[str]:
    if form.arena == "static" and net.serial.arenas:
        yield f"static {form.name}_arena arena;"
    if form.ends:
        for end in (*net.inputs, *net.outputs):
            yield f"{accessor(net, form, end)}\n{{\n  return {_in_arena(form, end.buffer)};\n}}"


def _run(net: Network, form: Form, names: dict[Buffer, str]) -> str:
    ends = {} if form.ends else {e.buffer: e.name for e in (*net.inputs, *net.outputs)}
    given = {**names, **ends}
    lines = [f"void {form.name}_run({parameters(net, form)})", "{"]
    used = {b for call in net.calls for b in call.buffers}
    lines += [f"  (void){name};" for buffer, name in ends.items() if buffer not in used]
    for call in net.calls:
        arguments = ", ".join(given.get(b) or _in_arena(form, b) for b in call.buffers)
        note = " - ".join(t for t in (call.what, call.layers) if t)
        lines.append(f"  {call.function}({arguments});" + (f" /* {note} */" if note else ""))
    return "\n".join([*lines, "}"])
