"""The form ``object``: an object file and its header in a folder, run in this program or by an emulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import smelt
from smelt.cli.forms.c99 import identifier
from smelt.cli.forms.emulated import on_board
from smelt.cli.forms.form import Built, Form, Shape, Written
from smelt.cli.forms.machine import on_linux, on_machine
from smelt.errors import RecipeError
from smelt.export.elf.export import OBJECTS, ObjectExport
from smelt.export.emulate.boards import BOARDS
from smelt.export.targets import NATIVE, TARGETS, kind_of_machine
from smelt.nn.module import Module


def write(
    model: Module,
    shape: Shape,
    path: Path,
    title: str,
    target: str | None = None,
    name: str | None = None,
    **options: Any,
) -> Written:
    """Write the files into a folder."""
    if target is None:
        raise RecipeError(f"--to object: expected --target, one of {', '.join(OBJECTS)}, {NATIVE}")
    options.pop("self_test", None)
    made = smelt.export.object(model, path, shape, target=target, name=name or identifier(title), **options)
    return Written([path / file for file in made.files], figures(made))


def figures(made: ObjectExport) -> dict[str, Any]:
    """Return the bytes that a network needs where it runs, and what else it needs there."""
    flash = {"constants": made.constant_bytes, "code": made.code_bytes}
    needs = {"calls": ", ".join(made.calls)} if made.calls else {}
    return {**flash, "arena": made.arena_bytes, "stack": made.stack_bytes, **needs}


def build(model: Module, shape: Shape, folder: Path, target: str = NATIVE, **options: Any) -> Built:
    """Link the object into this program, or into one for another processor that is emulated."""
    made = smelt.export.object(model, None, shape, target=target, **options)
    if made.runs_here:

        def other() -> tuple[ObjectExport, bytes]:
            again = smelt.export.object(model, None, shape, target=kind_of_machine() or NATIVE, **options)
            return again, again.files["network.o"]

        return on_machine(made, made.load(), "this program", other)
    if target in BOARDS:
        return on_board(made, target)
    return on_linux(made, TARGETS[target])


FORM = Form(
    write,
    build,
    options=("target", "name", "arena", "self_test", "batch"),
    build_options=("target", "batch"),
)
