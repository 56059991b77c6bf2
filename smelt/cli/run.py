"""``smelt run`` and ``smelt train``: a checked recipe in; a trained network, its history and a report in one folder out."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path
from typing import Any

import smelt
from smelt.cli.build import (
    augmentation,
    blame,
    build_loss,
    build_model,
    build_optimizer,
    build_schedule,
    check_fit,
    load_data,
)
from smelt.cli.folder import RESULTS, RunFolder
from smelt.cli.inspect import describe
from smelt.cli.output import Output, plain
from smelt.cli.recipe import Recipe


def run_recipe(
    recipe: Recipe,
    data: Path | None,
    *,
    out: Path | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    resume: bool = False,
    force: bool = False,
    as_json: bool = False,
) -> dict[str, Any]:
    """Train what a recipe says and write the results; return what ``--json`` prints.

    Everything that can be checked is checked before the first step; nothing that was in the folder is changed before
    the last.
    """
    output = Output(as_json)
    for key, value in (("seed", seed), ("epochs", epochs)):
        if value is not None:
            recipe.tables["train"] = {**recipe.tables.get("train", {}), key: value}
    setting = {key: recipe.get("train", key) for key in ("epochs", "batch_size", "seed")}
    loss, optimizer = build_loss(recipe), build_optimizer(recipe)
    parts = load_data(recipe, data)
    smelt.seed(setting["seed"])
    model = build_model(recipe)
    counted = check_fit(recipe, model, parts)
    schedule, per = build_schedule(recipe, len(parts.train))
    with blame(recipe, "train"):
        trainer = smelt.Trainer(
            model, loss, optimizer, schedule, compile=recipe.get("train", "compile"), schedule_per=per
        )
    folder = RunFolder(_destination(recipe, out), recipe, force)
    resumed = folder.begin(resume)
    facts: dict[str, Any] = {
        "recipe": recipe.tables,
        "model": {
            "name": recipe.kind("model") or "layers",
            "input_shape": list(parts.train.sample_shape),
            "parameters": counted.parameters,
            "macs": counted.macs,
        },
        "data": {
            "name": recipe.kind("data"),
            "train": len(parts.train),
            "validation": len(parts.validation),
            "test": len(parts.test),
        },
        "threads": smelt.get_threads(),
        "resumed": resumed,
    }
    for line in _intentions(facts, optimizer, schedule, per, folder):
        output.say(line)
