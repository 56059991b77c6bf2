"""Primitives as objects: cases of the shared matrix in; their objects, and their outputs in an emulator, out."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ops.matrix import NAMES, Case, cases, special_cases

from smelt.autograd import no_grad
from smelt.compiler.emit.expressions import TYPE
from smelt.export.c99.header import Form
from smelt.export.c99.host import NUMPY
from smelt.export.c99.network import End, of_graph
from smelt.export.elf.machine import compile_object
from smelt.export.elf.module import ObjectUnit, module_text
from smelt.export.emulate.boards import BOARDS
from smelt.export.targets import Target
from smelt.graph.trace import Tracer
from smelt.ops import Spec
from smelt.ops.primitive import short_dtype
from smelt.tensor import Tensor

from .test_c_primitives import STATE

_SEMIHOSTED = """\
#include <stdint.h>
#include <semihost.h>
extern uintptr_t sys_semihost(uintptr_t, uintptr_t);
static int in, out;
static void get(void *p, unsigned n) { (void)sys_semihost_read(in, p, n); }
static void put(void *p, unsigned n) { (void)sys_semihost_write(out, p, n); }
static void begin(void) { in = sys_semihost_open("in", SH_OPEN_R_B), out = sys_semihost_open("out", SH_OPEN_W_B); }
static void finish(void) { (void)sys_semihost(0x18, ADP_Stopped_ApplicationExit); }
"""
_LINUX = """\
#include <stdio.h>
static FILE *in, *out;
static void get(void *p, unsigned n) { (void)!fread(p, n, 1, in); }
static void put(void *p, unsigned n) { fwrite(p, n, 1, out); }
static void begin(void) { in = fopen("in", "rb"), out = fopen("out", "wb"); }
static void finish(void) { fclose(out); }
"""


class Made(NamedTuple):
    """A case, its inputs, its output, and its object, whose function is ``run``."""

    case: Case
    given: list[np.ndarray]
    end: End
    run: str
    data: bytes


def primitives(dtype: str, most: int, special: bool = True) -> list[tuple[Case, Any]]:
    """Return cases and their graphs: the first ``most`` samples of every primitive, and special values."""
    names, seen, out = [n for n in NAMES if n not in STATE], dict.fromkeys(NAMES, 0), []
    found = [(case, False) for case in cases(names, dtype, ("contiguous",))]
    found += [(case, True) for case in special_cases(names, dtype)] if special else []
    for case, always in found:
        tracer = Tracer(case.primitive.name)
        with no_grad(), tracer:
            given = [Tensor(tracer.input(f"x{i}", Spec(a.shape, a.dtype))) for i, a in enumerate(case.arrays)]
            graph = tracer.finish([tracer.lift(case.primitive(*given, **case.attrs))])
        written = all(short_dtype(n.dtype) in TYPE for n in graph.nodes())
        if not written or not all(n.spec.size for n in (*graph.inputs, *graph.outputs)):
            continue
        seen[case.primitive.name] += 1
        if always or seen[case.primitive.name] <= most:
            out.append((case, graph))
    return out


def object_of(case: Case, graph: Any, target: Target, name: str = "net") -> Made:
    """Return the object of a graph."""
    net = of_graph(graph, [], [""] * len(graph.inputs), False, ObjectUnit(target.isa))
    data = compile_object(module_text(net, Form(name, "static", False)), target)
    return Made(case, [np.ascontiguousarray(a) for a in case.arrays], net.outputs[0], f"{name}_run", data)


def run_all(objects: Sequence[Made], target: Target, folder: Path) -> list[np.ndarray]:
    """Link objects into one program, run it in an emulator, and return the output of each."""
    board = BOARDS.get(target.name)
    lines, body = [_SEMIHOSTED if board else _LINUX], []
    sizes = [max(int(np.prod(m.end.shape)), 1) * NUMPY[m.end.dtype].itemsize for m in objects]
    for i, (m, size) in enumerate(zip(objects, sizes, strict=True)):
        (folder / f"{i}.o").write_bytes(m.data)
        lines.append(f"void {m.run}({', '.join(['void *'] * (len(m.given) + 1))});")
        lines += [f"static double i{i}_{j}[{a.nbytes // 8 + 1}];" for j, a in enumerate(m.given)]
        lines.append(f"static double o{i}[{size // 8 + 1}];")
        body += [f"  get(i{i}_{j}, {a.nbytes});" for j, a in enumerate(m.given)]
        body.append(f"  {m.run}({', '.join([*(f'i{i}_{j}' for j in range(len(m.given))), f'o{i}'])});")
        body.append(f"  put(o{i}, {size});")
    text = "\n".join([*lines, "int main(void)", "{", "  begin();", *body, "  finish();", "  return 0;", "}", ""])
    (folder / "main.c").write_text(text)
    (folder / "in").write_bytes(b"".join(a.tobytes() for m in objects for a in m.given))
    files, link = board.link(board.ram_size, 1 << 16) if board else ({}, ["-static"])
    for file, content in files.items():
        (folder / file).write_text(content)
    compiler = [target.compiler, *target.flags, *target.library, "-std=gnu99"]
    sources = ["main.c", *(f"{i}.o" for i in range(len(objects)))]
    emulator = board.command(Path("program")) if board else [target.emulator, "program"]
    for command in ([*compiler, *sources, *link, "-lm", "-o", "program"], emulator):
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
    raw, out, at = (folder / "out").read_bytes(), [], 0
    assert len(raw) == sum(sizes)
    for m, size in zip(objects, sizes, strict=True):
        out.append(np.frombuffer(raw[at : at + size], NUMPY[m.end.dtype]).reshape(m.end.shape))
        at += size
    return out
