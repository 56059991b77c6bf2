"""What ``profile`` and ``explain`` look at: a recipe, a model file or a network of the zoo in; a compiled step out.

A recipe gives its training step and its data. A model is run on random numbers of the right shape, as inference or,
when asked for, as a training step with Adam.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smelt import nn, optim
from smelt.cli.build import augmentation
from smelt.cli.inspect import find_model
from smelt.cli.recipe import Recipe, read_recipe
from smelt.cli.run import make_plan, make_trainer
from smelt.data import ArrayDataset
from smelt.data.augment import Augmentation
from smelt.errors import RecipeError
from smelt.measure.summary import summary
from smelt.runtime.inference import Inference
from smelt.runtime.step import Compiled
from smelt.train import Trainer

BATCH = 64  # of a training step, unless something else is said
BATCHES, BYTES = 50, 1 << 26  # of random numbers, to train on: at most


@dataclass
class Target:
    """A step to look at: one of training, with its trainer, or inference."""

    words: str
    data: ArrayDataset
    batch: int
    trainer: Trainer | None = None
    inference: Inference | None = None
    seed: int = 0
    augment: Augmentation | None = None

    @property
    def step(self) -> Compiled | Inference:
        """What runs."""
        if self.inference is not None:
            return self.inference
        assert self.trainer is not None
        step = self.trainer.steps.train
        if not isinstance(step, Compiled):
            raise RecipeError("[train] compile: received false, expected a recipe that is compiled")
        self.trainer.model.train()
        return step

    def arguments(self) -> tuple[Any, ...]:
        """Return a batch as the step takes it."""
        x, y = self.data.batch(slice(0, self.batch))
        return (x,) if self.inference is not None else (x, y)


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
    size = batch or (BATCH if training else 1)
    batches = max(1, min(BATCHES, BYTES // (4 * size * math.prod(sizes)))) if training else 1
    x = np.random.default_rng(0).standard_normal((size * batches, *sizes), np.float32)
    words = f"{name}, batch {size}, random numbers"
    if not training:
        return Target(f"inference of {words}", ArrayDataset(x), size, inference=model.compile())
    loss, y = _task(name, model, sizes, len(x))
    trainer = Trainer(model, loss, optim.Adam(lr=1e-3))
    return Target(f"training step with Adam of {words}", ArrayDataset(x, y), size, trainer)


def _task(name: str, model: nn.Module, sizes: tuple[int, ...], count: int) -> tuple[nn.Module, np.ndarray | None]:
    """Return a loss and targets to train a model with: classes, or its own input."""
    outputs = summary(model, sizes, plan=False).output_shape
    if outputs[1:] == tuple(sizes):
        return nn.MSELoss(), None
    if len(outputs) == 2:
        return nn.CrossEntropyLoss(), np.arange(count) % outputs[1]
    raise RecipeError(f"{name}: results of shape {outputs[1:]}: expected one row of logits to train with")


def _from_recipe(recipe: Recipe, data: Path | None, training: bool, batch: int | None) -> Target:
    plan = make_plan(recipe, data)
    size, train, seed = batch or recipe.get("train", "batch_size"), plan.data.train, recipe.get("train", "seed")
    if size > len(train):
        raise RecipeError(f"--batch {size}: expected at most {len(train)}, the samples to train with")
    words = f"{recipe.source}, batch {size}, {train.name}"
    if training:
        step = f"training step of {words}"
        return Target(step, train, size, make_trainer(plan), seed=seed, augment=augmentation(recipe))
    return Target(f"inference of {words}", train, size, inference=plan.model.compile())
