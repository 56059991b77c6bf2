"""``smelt profile`` and ``smelt explain``: a recipe or a model in; where its time goes, or what was made of it, out."""

from __future__ import annotations

from pathlib import Path

import smelt
from smelt.cli.output import Output
from smelt.cli.picture import check_folder, check_picture
from smelt.cli.target import Target
from smelt.measure.explain import explain
from smelt.measure.profile import profile, profile_training
from smelt.measure.times import Profile


def profile_target(
    target: Target,
    steps: int,
    threads: int | None,
    files: dict[str, Path | None],
    perf_map: bool,
    as_json: bool,
) -> None:
    """Measure, print and write what was asked for."""
    output = Output(as_json)
    _check(files)
    output.say(target.words)
    smelt.set_threads(threads)
    try:
        found = _measured(target, steps)
    finally:
        smelt.set_threads(None)
    written = []
    savers = {"trace": found.save_trace, "stacks": found.save_stacks, "roofline": found.save_roofline}
    for kind, path in files.items():
        if path is not None:
            savers[kind](path)
            written.append(str(path))
    if perf_map:
        written.append(str(found.save_perf_map()))
    output.result({"target": target.words, **found.to_dict(), "files": written})
    output.say(str(found))
    if written:
        output.say(f"wrote {', '.join(written)}")


def _measured(target: Target, steps: int) -> Profile:
    step = target.step
    if target.trainer is None:
        return profile(step, *target.arguments(), steps=steps)
    return profile_training(target.trainer, target.data, target.batch, steps, seed=target.seed, augment=target.augment)


def explain_target(target: Target, graph: bool, loops: bool, as_json: bool) -> None:
    """Run the step once, and print what the compiler made of it."""
    output = Output(as_json)
    output.say(target.words)
    step = target.step
    step(*target.arguments())
    found = explain(step, graph, loops)
    output.result({"target": target.words, **found.to_dict()})
    output.say(str(found))


def _check(files: dict[str, Path | None]) -> None:
    """Refuse files that could not be written, before anything is measured."""
    for kind, path in files.items():
        if path is not None:
            check_folder(kind, path)
    check_picture("roofline", files["roofline"])
