"""The zoo as C at its own sizes: no compiler warns, no sanitizer finds anything, and no arena could be smaller."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

import smelt
from smelt import models
from smelt.export.c99.export import CExport

from .compilers import STRICT, need, run
from .test_c_networks import inputs, settled, write

SANITIZERS = ["-g", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"]
EVERY = [("cc", "strict"), ("clang", "strict"), ("tcc", "strict"), ("cc", "sanitized"), ("clang", "sanitized")]


@functools.lru_cache(1)
def exported(name: str) -> CExport:
    shape = models.INPUT_SHAPES[name]
    return smelt.export.c(settled(models.MODELS[name]), None, shape, name="net", samples=inputs(shape, 1))


@pytest.mark.emulators
@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize(("compiler", "how"), EVERY, scope="module")
def test_the_zoo_compiles_without_a_warning_and_passes(name: str, compiler: str, how: str, tmp_path: Path) -> None:
    folder = write(exported(name), tmp_path)
    flags = [*STRICT, "-O1"] if how == "strict" else SANITIZERS
    run(need(compiler), *flags, folder / "net.c", folder / "net_test.c", "-o", folder / "program", "-lm")
    assert run(folder / "program") == "net: passed, 0 numbers wrong in 1 runs\n"


@pytest.mark.parametrize("name", models.MODELS)
def test_every_arena_is_as_small_as_what_is_in_use_at_once(name: str) -> None:
    plan = smelt.export.c(models.MODELS[name](), None, models.INPUT_SHAPES[name], ends="arena").plan
    assert plan.proven and plan.arena_bytes == plan.least_bytes
