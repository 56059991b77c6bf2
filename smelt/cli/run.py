"""``smelt run`` and ``smelt train``: a checked recipe in; a network, its history and a report in one folder out."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import smelt
from smelt import nn, optim
from smelt.cli.build import (
    Data,
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
from smelt.cli.inspect import in_words
from smelt.cli.output import Output, plain
from smelt.cli.recipe import Recipe
from smelt.files import write_atomic
from smelt.measure.summary import Summary
from smelt.train import Callback, CSVLog, EarlyStopping, History, Trainer


@dataclass
class Plan:
    """What a recipe comes to: everything that can be made, and checked, before the first step."""

    recipe: Recipe
    data: Data
    model: nn.Module
    counted: Summary
    loss: nn.Module
    optimizer: optim.Optimizer
    schedule: optim.Schedule | None
    per: str

    @property
    def facts(self) -> dict[str, Any]:
        """The same as figures, for JSON."""
        parts = (("train", self.data.train), ("validation", self.data.validation), ("test", self.data.test))
        return {
            "smelt": smelt.__version__,
            "model": {
                "name": self.recipe.kind("model") or "layers",
                "input_shape": list(self.data.train.sample_shape),
                "parameters": self.counted.parameters,
                "macs": self.counted.macs,
            },
            "data": {"name": self.recipe.kind("data"), **{name: len(part) for name, part in parts}},
            "train": {key: self.recipe.get("train", key) for key in ("epochs", "batch_size", "seed", "precision")},
            "threads": smelt.get_threads(),
        }


def make_plan(recipe: Recipe, data: Path | None) -> Plan:
    """Make and check everything a recipe names.

    Raises
    ------
    RecipeError, DataError
        When something is wrong with it.
    """
    loss, optimizer = build_loss(recipe), build_optimizer(recipe)
    parts = load_data(recipe, data)
    schedule, per = build_schedule(recipe, len(parts.train))
    smelt.seed(recipe.get("train", "seed"))
    model = build_model(recipe)
    return Plan(recipe, parts, model, check_fit(recipe, model, parts), loss, optimizer, schedule, per)


def run_recipe(
    recipe: Recipe,
    data: Path | None,
    *,
    out: Path | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    precision: str | None = None,
    resume: bool = False,
    force: bool = False,
    as_json: bool = False,
) -> None:
    """Train what a recipe says and write the results.

    Everything that can be checked is checked before the first step, and nothing that was in the folder is replaced
    before the last.
    """
    output = Output(as_json)
    for key, value in (("seed", seed), ("epochs", epochs), ("precision", precision)):
        if value is not None:
            recipe.tables["train"] = {**recipe.tables.get("train", {}), key: value}
    plan = make_plan(recipe, data)
    folder = RunFolder(out or Path(recipe.get("output", "folder") or f"runs/{recipe.name}"), recipe, force)
    resumed = folder.begin(resume)
    plans = intentions(plan, resumed)
    for name, text in [*plans, ("results", str(folder.path))]:
        output.say(f"{name:<10} {text}")
    start = time.perf_counter()
    trainer, history = _train(plan, folder, resumed, output)
    with blame(recipe, "train"):
        # No larger a batch than validation had: the compiled evaluation serves both.
        test = trainer.evaluate(plan.data.test, batch_size=min(256, len(plan.data.validation)))
    result = plain(
        {
            **plan.facts,
            "resumed": resumed,
            "epochs": history.to_dicts(),
            "test": test,
            "seconds": time.perf_counter() - start,
            "files": [str(folder.path / name) for name in RESULTS],
        }
    )
    with folder.results() as staging:
        smelt.save(plan.model, staging / "model.smelt", {"input_shape": list(plan.data.train.sample_shape)})
        write_atomic(staging / "history.json", (json.dumps(result, indent=2) + "\n").encode())
        CSVLog(staging / "history.csv").on_fit_start(trainer)
        write_atomic(staging / "report.md", report(recipe.name, plans, history, result).encode())
    output.result(result)
    output.say(f"test: {in_words(test)}")
    output.say(f"wrote {', '.join(RESULTS)} to {folder.path}")


def make_trainer(plan: Plan) -> Trainer:
    """Return the trainer of a plan."""
    return Trainer(
        plan.model,
        plan.loss,
        plan.optimizer,
        plan.schedule,
        compile=plan.recipe.get("train", "compile"),
        precision=plan.recipe.get("train", "precision"),
        schedule_per=plan.per,
    )


def _train(plan: Plan, folder: RunFolder, resumed: bool, output: Output) -> tuple[Trainer, History]:
    recipe, options = plan.recipe, plan.recipe.options("train")
    callbacks: list[Callback] = []
    if "early_stopping" in options:
        callbacks.append(EarlyStopping("validation_loss", patience=options["early_stopping"]))
    with blame(recipe, "train"):
        trainer = make_trainer(plan)
        try:
            history = trainer.fit(
                plan.data.train,
                epochs=recipe.get("train", "epochs"),
                batch_size=recipe.get("train", "batch_size"),
                validation=plan.data.validation,
                seed=recipe.get("train", "seed"),
                augment=augmentation(recipe),
                drop_last=recipe.get("train", "drop_last"),
                checkpoint=folder.checkpoints,
                checkpoint_every=options.get("checkpoint_every"),
                resume=resumed,
                callbacks=callbacks,
                progress=not output.as_json,
            )
        except KeyboardInterrupt:
            kept = f"; {folder.path} holds a checkpoint: go on with --resume" if folder.can_resume else ""
            raise KeyboardInterrupt(kept) from None
    return trainer, history


def intentions(plan: Plan, resumed: bool) -> list[tuple[str, str]]:
    """Return what a run is about to do: pairs of a word and what it stands for."""
    recipe, data, counted = plan.recipe, plan.data, plan.counted
    shape = "×".join(map(str, data.train.sample_shape))
    held_out = "" if data.validation is data.test else f"{len(data.validation)} to validate, "
    schedule = f", {plan.schedule!r} per {plan.per}" if plan.schedule is not None else ""
    options = {"lr": plan.optimizer.lr, **recipe.options("optimizer", "name")}
    given = ", ".join(f"{key}={value}" for key, value in options.items())
    epochs, batch, seed, precision = (recipe.get("train", key) for key in ("epochs", "batch_size", "seed", "precision"))
    return [
        ("recipe", recipe.source),
        (
            "data",
            f"{recipe.kind('data')}: {len(data.train)} to train, {held_out}{len(data.test)} to test, {shape} each",
        ),
        ("model", f"{recipe.kind('model') or 'layers'}: {counted.parameters:,} parameters, {counted.macs:,} MACs"),
        ("optimizer", f"{type(plan.optimizer).__name__}({given}){schedule}"),
        (
            "training",
            f"{epochs} epochs, batches of {batch}, seed {seed}, {smelt.get_threads()} threads"
            + (f", {precision}" if precision != "f32" else "")
            + (", resumed from a checkpoint" if resumed else ""),
        ),
    ]


def report(name: str, plans: list[tuple[str, str]], history: History, result: dict[str, Any]) -> str:
    """Return the report of a run as Markdown."""
    rows = ["| | |", "|---|---|", *(f"| {word} | {text} |" for word, text in plans)]
    rows.append(f"| time | {result['seconds']:.1f} s |")
    table = ["", "| epoch | loss | accuracy | validation | validation loss | lr | seconds |", "|--:" * 7 + "|"]
    for e in history:
        right = "" if e.validation_correct is None else f"{e.validation_correct}/{e.validation_count}"
        accuracy = "" if e.accuracy is None else f"{100 * e.accuracy:.2f} %"
        loss = "" if e.validation_loss is None else f"{e.validation_loss:.4f}"
        cells = (str(e.epoch), f"{e.loss:.4f}", accuracy, right, loss, f"{e.lr:.4g}", f"{e.seconds:.2f}")
        table.append(f"| {' | '.join(cells)} |")
    return "\n".join([f"# {name}", "", f"Test: {in_words(result['test'])}.", "", *rows, *table]) + "\n"
