"""``smelt summary --target``: a model and a target in; bytes of flash, arena and stack out, with nothing built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import smelt
from smelt.cli.inspect import find_model
from smelt.cli.output import Output
from smelt.cli.picture import check_picture
from smelt.errors import RecipeError

TARGETS = ("c",)


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
    if target not in TARGETS:
        raise RecipeError(f"--target {target}: expected one of {', '.join(TARGETS)}")
    check_picture("plan", picture)
    output = Output(as_json)
    network, sizes = find_model(model, shape, options)
    plan = smelt.export.c(network, None, sizes, batch=batch).plan
    output.result({"model": model, "target": target, "batch": batch, **plan.to_dict()})
    if output.fancy:
        output.table(*plan.table(), left=3)
        for line in plan.footer():
            output.say(line)
    else:
        output.say(str(plan))
    if picture is not None:
        plan.draw(picture)
        output.say(f"wrote {picture}")
