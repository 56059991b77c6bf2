"""A program that checks an exported network where it will run: recorded inputs and outputs in; a ``.c`` file out.

It prints one line and ends with 0 when every output is as recorded: integers exactly, floats to 1e-5 of the largest
finite one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from smelt.compiler.emit.expressions import FLOATS, TYPE, Needs
from smelt.export.c99.header import Form
from smelt.export.c99.network import End, Network
from smelt.export.c99.source import array

TOLERANCE = 1e-5


def selftest(net: Network, form: Form, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> str:
    """Return the program's text. The first axis of every array counts runs; each holds a whole input or output."""
    needs = Needs()
    runs = len(outputs[0])
    arrays = []
    for letter, ends, values in (("given", net.inputs, inputs), ("expected", net.outputs, outputs)):
        for end, value in zip(ends, values, strict=True):
            arrays.append(array(f"static const {TYPE[end.dtype]} {letter}_{end.name}", value, end.dtype, needs))
    arena = bool(net.serial.arenas) and form.arena == "caller"
    head = [f"/* {form.name}_test.c - written by Smelt: runs the network of {form.name}.h on recorded inputs. */"]
    head += [f'#include "{form.name}.h"', *(["#include <math.h>"] if needs.math else []), "#include <stdio.h>", ""]
    memory = [f"static {form.name}_arena arena;"] if arena else []
    if not form.ends:
        memory += [f"static {TYPE[e.dtype]} {e.name}[{form.upper}_{e.name.upper()}_SIZE];" for e in net.outputs]
    compare = [_compare(dtype) for dtype in sorted({e.dtype for e in net.outputs})]
    return "\n".join([*head, *arrays, "", *memory, "", *compare, *_main(net, form, runs, arena)]) + "\n"


def _compare(dtype: str) -> str:
    """Return a function that counts the elements that are not as expected."""
    type_ = TYPE[dtype]
    lines = [
        f"static long wrong_{dtype}(const {type_} *found, const {type_} *expected, long size)",
        "{",
        "  long i, count = 0;",
    ]
    if dtype in FLOATS:
        zero, tolerance = ("0.0f", f"{TOLERANCE}f") if dtype == "f32" else ("0.0", f"{TOLERANCE}")
        lines += [
            f"  {type_} largest = {zero};",
            "  for (i = 0; i < size; ++i) {",
            f"    const {type_} e = expected[i] < {zero} ? -expected[i] : expected[i];",
            f"    largest = e > largest && e - e == {zero} ? e : largest; /* of the finite */",
            "  }",
            "  for (i = 0; i < size; ++i) {",
            f"    const {type_} d = found[i] < expected[i] ? expected[i] - found[i] : found[i] - expected[i];",
            f"    if (!(d <= {tolerance} * largest) && found[i] != expected[i])",
            "      count += found[i] == found[i] || expected[i] == expected[i]; /* not-a-number is what it is */",
            "  }",
        ]
    else:
        lines += ["  for (i = 0; i < size; ++i)", "    count += found[i] != expected[i];"]
    return "\n".join([*lines, "  return count;", "}", ""])


def _main(net: Network, form: Form, runs: int, arena: bool) -> list[str]:
    def size(end: End) -> str:
        return f"{form.upper}_{end.name.upper()}_SIZE"

    given = ["&arena"] if arena else []
    lines = ["int main(void)", "{", "  long run, wrong = 0;", f"  for (run = 0; run < {runs}; ++run) {{"]
    if form.ends:
        where = given[0] if given else ""
        for e in net.inputs:
            lines += [
                f"    {TYPE[e.dtype]} *{e.name} = {form.name}_{e.name}({where});",
                f"    for (long i = 0; i < {size(e)}; ++i)",
                f"      {e.name}[i] = given_{e.name}[run * {size(e)} + i];",
            ]
        lines.append(f"    {form.name}_run({where});")
        found = {e.name: f"{form.name}_{e.name}({where})" for e in net.outputs}
    else:
        arguments = [f"given_{e.name} + run * {size(e)}" for e in net.inputs] + [e.name for e in net.outputs] + given
        lines.append(f"    {form.name}_run({', '.join(arguments)});")
        found = {e.name: e.name for e in net.outputs}
    for e in net.outputs:
        lines.append(f"    wrong += wrong_{e.dtype}({found[e.name]}, expected_{e.name} + run * {size(e)}, {size(e)});")
    lines += [
        "  }",
        f'  printf("{form.name}: %s, %ld numbers wrong in {runs} runs\\n", wrong ? "FAILED" : "passed", wrong);',
    ]
    return [*lines, "  return wrong != 0;", "}"]
