"""``smelt summary --target``: a model and a target in; bytes of flash, arena and stack out, with nothing linked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import smelt
from smelt.cli.inspect import find_model, sample_shapes, sample_types
from smelt.cli.output import Output
from smelt.cli.picture import check_picture
from smelt.errors import RecipeError
from smelt.export.c99.code import compiled, planned
from smelt.export.c99.export import CExport
from smelt.export.c99.plan import MemoryPlan
from smelt.export.targets import NATIVE, TARGETS, find_target
from smelt.export.tools import missing

ANY = "c"
"""C for any processor: nothing is known of its code."""


def plan_memory(
    model: str,
    target: str,
    shape: str | None,
    batch: int,
    options: dict[str, Any],
    picture: Path | None,
    as_json: bool,
) -> None:
    """Print what a network needs on a target, call by call, and draw its arena over time on request.

    Raises
    ------
    RecipeError, FileError, ExportError, ShapeError
        When there is no such model or target, or it cannot be written for it.
    """
    if target not in (ANY, NATIVE, *TARGETS):
        raise RecipeError(f"--target {target}: expected one of {', '.join((ANY, NATIVE, *TARGETS))}")
    check_picture("plan", picture)
    output = Output(as_json)
    network, sizes = find_model(model, shape, options)
    made = smelt.export.c(
        network, None, sample_shapes(model, network, sizes, shape), batch=batch, **sample_types(network)
    )
    plan, told, words = (made.plan, {}, []) if target == ANY else _on(target, made)
    output.result({"model": model, "target": target, "batch": batch, **plan.to_dict(), **told})
    if output.fancy:
        output.table(*plan.table(), left=3)
        for line in plan.footer():
            output.say(line)
    else:
        output.say(str(plan))
    for line in words:
        output.say(line)
    if picture is not None:
        plan.draw(picture)
        output.say(f"wrote {picture}")


def _on(name: str, made: CExport) -> tuple[MemoryPlan, dict[str, Any], list[str]]:
    """Return the plan for a processor, with the code where its compiler is installed; figures beside it, and lines."""
    target = find_target(name)
    plan, packages = made.plan, missing(target.compiler)
    if packages:
        words = [f"code: not known without {target.compiler} of the package {', '.join(packages)}"]
    else:
        plan = planned(plan, compiled(made.files, target))
        words = [f"code: of {target.compiler} -O2, without what it takes from its own library"]
    constants = plan.flash_bytes if target.constants_in_ram else 0
    parts = {"arena": plan.arena_bytes, "ends": plan.input_bytes + plan.output_bytes, "stack": plan.stack_bytes}
    told = {"title": target.title, "compiler": None if packages else target.compiler}
    ram = sum(parts.values()) + constants
    copied = f", of which {constants:,} for constants, which this processor reads from there" if constants else ""
    words.append(f"RAM: {ram:,} bytes for arena, inputs, outputs and stack{copied}; no scratch beside these")
    return plan, {**told, "ram_bytes": ram}, [f"{name}: {target.title}", *words]
