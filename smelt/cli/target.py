"""What ``profile`` and ``explain`` look at: a recipe, a model file or a network of the zoo in; a compiled step out.

A recipe gives its training step and its data. A model is run on random numbers of the right shape, as inference or,
when asked for, as a training step with Adam.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smelt import nn, optim
from smelt.cli.inspect import find_model
from smelt.cli.recipe import Recipe, read_recipe
from smelt.cli.run import make_plan, make_trainer
from smelt.data import Loader
from smelt.errors import RecipeError
from smelt.measure.profile import Batch
from smelt.measure.summary import summary
from smelt.runtime.inference import Inference
from smelt.runtime.step import Compiled
from smelt.train import Trainer

BATCH = 64  # of a training step, unless something else is said


@dataclass
class Target:
    """A compiled step, endless batches for it, and both in words."""

    step: Compiled | Inference
    batches: Iterator[Batch]
    words: str


def find_target(
    name: str,
    *,
    training: bool | None,
    batch: int | None,
    data: Path | None,
    shape: str | None,
    options: dict[str, Any],
) -> Target:
    """Return what a name on the command line stands for.

    ``training`` is None for the usual: training for a recipe, inference for a model.

    Raises
    ------
    RecipeError, DataError, FileError
        When there is no such thing, or it does not fit together.
    """
    if name.endswith(".toml"):
        recipe = read_recipe(name)
        if shape or options:
            raise RecipeError(f"{name}: a recipe says what its model is: expected no --input and no --option")
        return _from_recipe(recipe, data, training is not False, batch)
    model, sizes = find_model(name, shape, options)
    if data is not None:
        raise RecipeError(f"{name}: --data belongs to a recipe; a model runs on random numbers")
    x = np.random.default_rng(0).normal(size=(batch or (BATCH if training else 1), *sizes)).astype(np.float32)
    words = f"{name}, batch {len(x)}, random numbers"
    if not training:
        return _inference(model, _endless(x, None), words)
    outputs = summary(model, sizes, plan=False).output_shape
    if outputs[1:] == tuple(sizes):
        loss: nn.Module = nn.MSELoss()
        y = None
    elif len(outputs) == 2:
        loss, y = nn.CrossEntropyLoss(), np.arange(len(x)) % outputs[1]
    else:
        raise RecipeError(f"{name}: results of shape {outputs[1:]}: expected one row of logits to train with")
    trainer = Trainer(model, loss, optim.Adam(lr=1e-3))
    return _training(trainer, _endless(x, y), f"training step with Adam of {words}")


def _endless(x: np.ndarray, y: np.ndarray | None) -> Iterator[Batch]:
    while True:
        yield (x, y), {}


def _training(trainer: Trainer, batches: Iterator[Batch], words: str) -> Target:
    trainer.model.train()
    if not isinstance(trainer.steps.train, Compiled):
        raise RecipeError("[train] compile: received false, expected a recipe that is compiled")
    return Target(trainer.steps.train, batches, words)


def _inference(model: nn.Module, batches: Iterator[Batch], words: str) -> Target:
    return Target(model.compile(), (((x,), {}) for (x, _), _ in batches), f"inference of {words}")


def _from_recipe(recipe: Recipe, data: Path | None, training: bool, batch: int | None) -> Target:
    plan = make_plan(recipe, data)
    size = batch or recipe.get("train", "batch_size")
    if size > len(plan.data.train):
        raise RecipeError(f"--batch {size}: expected at most {len(plan.data.train)}, the samples to train with")
    words = f"{recipe.source}, batch {size}, {plan.data.train.name}"
    loader = Loader(plan.data.train, size, seed=recipe.get("train", "seed"), drop_last=True)
    if training:
        return _training(make_trainer(plan), _passes(loader), f"training step of {words}")
    return _inference(plan.model, _passes(loader), words)


def _passes(loader: Loader) -> Iterator[Batch]:
    while True:
        with closing(iter(loader)) as batches:  # type: ignore[type-var]
            for x, y in batches:
                yield (x, y), {}
