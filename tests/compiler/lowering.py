"""Lower functions and training steps for a processor by name, and read what becomes of them.

In: a function or a network of the zoo, a name of ``isas.COUNTED``. Out: kernels in phases, and their assembly.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

import smelt
from smelt import models
from smelt.compiler import jit, program
from smelt.compiler.loops import If, Instr, Loop, Stmt
from smelt.compiler.passes.freeze import freeze
from smelt.compiler.program import Lowered

from .assembly import functions
from .isas import COUNTED
from .zoo import CASES, Case, Training, trace, unbound

NETWORKS = {**CASES, "resnet8_wide": Case(models.resnet8, (3, 32, 32))}  # as in the zoo; that of CASES is half as wide


def lower(
    function: Callable[..., object], arrays: list[np.ndarray], isa: str, rows: bool = True, rounds: bool = False
) -> Lowered:
    graph = trace(function, arrays, rows)
    return program.lower(graph, unbound(graph), COUNTED[isa], rounds=rounds)


def assemble(lowered: Lowered, isa: str) -> dict[str, list[str]]:
    return functions(jit.compile_assembly(program.module_text(lowered, COUNTED[isa]), COUNTED[isa]))


@functools.cache
def training(name: str, isa: str, rows: int, rounds: bool = False) -> Lowered:
    case = Training(NETWORKS[name])
    return lower(case.step, list(case.case.data(rows)), isa, rounds=rounds)


@functools.cache
def inference(name: str, isa: str) -> Lowered:
    """Return a network of the zoo's kernels for one sample."""
    model, x = models.MODELS[name]().eval(), np.zeros((1, *models.INPUT_SHAPES[name]), np.float32)
    with smelt.no_grad():
        graph = freeze(trace(lambda x: model(x), [x], rows=False), isa=COUNTED[isa]).graph
    return program.lower(graph, None, COUNTED[isa])


def vector_fmas(body: Sequence[Stmt]) -> int:
    """Return the most multiply-adds of vectors that one loop without loops in it holds."""
    inner = [s for s in body if isinstance(s, (Loop, If))]
    nested = max((vector_fmas(s.body) for s in inner), default=0)
    here = sum(isinstance(s, Instr) and s.op == "fma" and s.out is not None and s.out.lanes > 1 for s in body)
    return max(nested, here if not inner else 0)
