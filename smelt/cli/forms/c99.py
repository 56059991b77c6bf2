"""The form ``c``: C99 source in a folder, run by this machine after its C compiler, or by an emulated board."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import smelt
from smelt.cli.forms.emulated import on_board
from smelt.cli.forms.form import Built, Form, Shape, Written
from smelt.cli.forms.machine import on_machine
from smelt.export.c99.export import KEYWORDS, CExport
from smelt.export.c99.host import compiler, object_file
from smelt.export.targets import TARGETS, kind_of_machine
from smelt.nn.module import Module

FLAGS = ("-O3", "-march=native")


def identifier(title: str) -> str:
    """Return a model's name as one for C.

    Examples
    --------
    >>> [identifier(title) for title in ("Best net-2", "7", "while")]
    ['best_net_2', 'n7', 'while_']
    """
    name = re.sub(r"[^a-z0-9_]", "_", title.lower())[:39]
    if not name[:1].isalpha():
        name = f"n{name}"[:39]
    return f"{name}_" if KEYWORDS.fullmatch(name) else name


def write(model: Module, shape: Shape, path: Path, title: str, name: str | None = None, **options: Any) -> Written:
    """Write the files into a folder."""
    options.pop("self_test", None)
    made = smelt.export.c(model, path, shape, name=name or identifier(title), **options)
    return Written([path / file for file in made.files], figures(made))


def figures(made: CExport) -> dict[str, Any]:
    """Return the bytes that a network needs where it runs, as far as the source says."""
    return {"constants": made.constant_bytes, "arena": made.arena_bytes, "stack arrays": made.stack_bytes}


def build(model: Module, shape: Shape, folder: Path, target: str | None = None, **options: Any) -> Built:
    """Compile the files for this machine, or for a board that is emulated."""
    made = smelt.export.c(model, None, shape, **options)
    if target is not None:
        return on_board(made, target)

    def other() -> tuple[CExport, bytes]:
        flags = TARGETS[emulated].flags if (emulated := kind_of_machine()) else ()
        return made, object_file(made._form, made.files, (FLAGS[0], *flags), None)

    return on_machine(made, made.load(FLAGS), f"{Path(str(compiler())).name} {' '.join(FLAGS)}", other)


FORM = Form(write, build, options=("name", "arena", "self_test", "batch"), build_options=("batch", "target"))
