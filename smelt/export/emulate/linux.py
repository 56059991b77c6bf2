"""An exported object run as a program of Linux on another processor: the object and samples in; outputs out.

The program reads samples from a file and writes outputs to another; QEMU translates its instructions one process at a
time, without a board, so that nothing is counted: :func:`smelt.export.here.measure_emulated` does that.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np

from smelt.compiler.emit.expressions import TYPE
from smelt.errors import ExportError, at_user_line
from smelt.export.c99.host import NUMPY
from smelt.export.elf.export import ObjectExport
from smelt.export.emulate.samples import in_runs, interleaved
from smelt.export.targets import find_target
from smelt.export.tools import require, run

SECONDS = 300.0


def run_program(made: ObjectExport, *inputs: np.ndarray) -> list[np.ndarray]:
    """Return the outputs for samples: one array per input, whose first axis counts them.

    Raises
    ------
    ExportError
        When a tool is missing, or the program fails.
    ShapeError
        When an input has another shape.
    """
    target = find_target(made.target)
    require(f"target {target.name}", target.compiler, target.emulator)
    samples = in_runs(made._network, inputs, "run")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in {**made.files, "main.c": _program(made).encode()}.items():
            (folder / file).write_bytes(content)
        (folder / "in.bin").write_bytes(interleaved(samples))
        files = ["main.c", f"{made._form.name}.o"]
        _checked([target.compiler, "-static", "-O1", *target.flags, *files, "-lm", "-o", "program"], folder)
        _checked([target.emulator, "program"], folder)
        raw = np.frombuffer((folder / "out.bin").read_bytes(), np.uint8)
    ends = made._network.outputs
    sizes = [e.size * NUMPY[e.dtype].itemsize for e in ends]
    table = raw.reshape(-1, sum(sizes))
    parts = np.split(table, np.cumsum(sizes)[:-1], axis=1)
    return [
        np.ascontiguousarray(part).view(NUMPY[e.dtype]).reshape(len(table) * e.shape[0], *e.shape[1:])
        for e, part in zip(ends, parts, strict=True)
    ]


def _checked(command: list[str], folder: Path) -> None:
    done = run(command, folder, SECONDS)
    if done.returncode:
        lines = done.stderr.splitlines() or ["nothing"]
        said = next((line for line in lines if re.search("error|undefined", line)), lines[0])[:200]
        raise ExportError(at_user_line(f"{command[0]} ended with {done.returncode} and said: {said}"))


def _program(made: ObjectExport) -> str:
    net, form = made._network, made._form
    ends = (*net.inputs, *net.outputs)
    arena = ["&arena"] if net.serial.arenas else []
    lines = [f'#include "{form.name}.h"', "#include <stdio.h>", ""]
    lines += [f"static {TYPE[e.dtype]} {e.name}[{form.upper}_{e.name.upper()}_SIZE];" for e in ends]
    lines += [f"static {form.name}_arena arena;"] if arena else []
    reads = " && ".join(f"fread({x.name}, sizeof {x.name}, 1, in) == 1" for x in net.inputs)
    lines += ["", "int main(void)", "{", '  FILE *in = fopen("in.bin", "rb"), *out = fopen("out.bin", "wb");']
    lines += ["  if (!in || !out)", "    return 1;", f"  while ({reads}) {{"]
    lines.append(f"    {form.name}_run({', '.join([e.name for e in ends] + arena)});")
    lines += [f"    if (fwrite({e.name}, sizeof {e.name}, 1, out) != 1)\n      return 1;" for e in net.outputs]
    return "\n".join([*lines, "  }", "  return fclose(out) != 0;", "}"]) + "\n"
