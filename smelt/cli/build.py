"""From tables to objects: a checked recipe in; datasets, a network, a loss, an optimizer and a schedule out.

Options are checked by the constructors they are for, whose errors are given the place in the recipe.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smelt import data as datasets
from smelt import nn, optim
from smelt.cli.recipe import Recipe, check_name
from smelt.data import ArrayDataset, DataError
from smelt.errors import FileError, RecipeError, ShapeError, without_user_line
from smelt.measure.summary import Summary, summary
from smelt.models import MODELS

OPTIMIZERS: dict[str, type[optim.Optimizer]] = {
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "rmsprop": optim.RMSprop,
    "sgd": optim.SGD,
}
SCHEDULES: dict[str, type[optim.Schedule]] = {
    "constant": optim.Constant,
    "cosine": optim.CosineAnnealing,
    "exponential": optim.ExponentialLR,
    "one_cycle": optim.OneCycle,
    "step": optim.StepLR,
}
LOSSES: dict[str, type[nn.Module]] = {
    "bce": nn.BCELoss,
    "bce_with_logits": nn.BCEWithLogitsLoss,
    "cross_entropy": nn.CrossEntropyLoss,
    "huber": nn.HuberLoss,
    "l1": nn.L1Loss,
    "mse": nn.MSELoss,
    "smooth_l1": nn.SmoothL1Loss,
}
NOT_OPTIONS = ("self", "params", "reduction", "weight", "pos_weight")
SCHEDULE_KEYS = ("name", "per", "warmup_steps", "warmup_start")


@dataclass
class Data:
    """The three parts of a dataset; ``validation`` may be the test samples themselves."""

    train: ArrayDataset
    validation: ArrayDataset
    test: ArrayDataset


@contextmanager
def blame(recipe: Recipe, table: str) -> Iterator[None]:
    """Give errors of constructors the place in the recipe: the key they name, or the table."""
    try:
        yield
    except (RecipeError, DataError, FileError):
        raise
    except (ValueError, TypeError) as error:
        text = without_user_line(str(error))
        named = re.match(r"\w+: (\w+): (.*)", text, re.DOTALL)
        if named and named[1] in recipe.tables.get(table, {}):
            raise recipe.error(table, named[1], named[2]) from None
        raise recipe.error(table, "", text) from None


def options_of(make: Callable[..., Any]) -> dict[str, Any]:
    """Return the options of a constructor with their defaults; without one, ``inspect.Parameter.empty``."""
    target = make.__init__ if inspect.isclass(make) else make
    if target is object.__init__:
        return {}
    return {
        name: p.default
        for name, p in inspect.signature(target).parameters.items()
        if name not in NOT_OPTIONS and p.kind is not p.VAR_POSITIONAL
    }


def _construct(recipe: Recipe, table: str, kinds: Mapping[str, Callable[..., Any]], own: tuple[str, ...]) -> Any:
    check_name(recipe, table, tuple(kinds))
    make = kinds[recipe.kind(table)]
    known = options_of(make)
    given = recipe.options(table, *own)
    for key in given:
        if key not in known:
            raise recipe.unknown(table, key, [*own, *known])
    for key, default in known.items():
        if default is inspect.Parameter.empty and key not in given:
            raise recipe.error(table, "", f"{recipe.kind(table)} needs {key!r}")
    with blame(recipe, table):
        return make(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})


# --- data ----------------------------------------------------------------------------------------------------------


def load_data(recipe: Recipe, folder: str | Path | None = None) -> Data:
    """Load what [data] names; ``folder`` is used in place of the one in the recipe.

    Raises
    ------
    RecipeError, DataError
        When something is missing or is not what it should be.
    """
    with blame(recipe, "data"):
        train, test = _SOURCES[recipe.kind("data")](recipe, Path(folder) if folder is not None else None)
        train, test = _first(recipe, "train_samples", train), _first(recipe, "test_samples", test)
        if (mean := recipe.get("data", "mean")) is not None or recipe.get("data", "std") is not None:
            mean = 0.0 if mean is None else mean
            std = recipe.get("data", "std")
            std = 1.0 if std is None else std
            train, test = train.normalized(mean, std), test.normalized(mean, std)
        fraction = recipe.get("data", "validation_fraction")
        if not fraction:
            return Data(train, test, test)
        rest, part = train.split(fraction, recipe.get("train", "seed"))
        return Data(rest, part, test)


def _first(recipe: Recipe, key: str, dataset: ArrayDataset) -> ArrayDataset:
    count = recipe.get("data", key)
    if count is None:
        return dataset
    if count > len(dataset):
        raise recipe.error("data", key, f"received {count}, expected at most {len(dataset)}, the samples there are")
    return dataset.take(count)


def _digits(recipe: Recipe, folder: Path | None) -> tuple[ArrayDataset, ArrayDataset]:
    if folder is not None:
        raise recipe.error("data", "name", f"digits come with scikit-learn, received the folder '{folder}' (--data)")
    return datasets.digits(recipe.get("data", "test_fraction"))


def _idx(load: Callable[..., tuple[ArrayDataset, ArrayDataset]]) -> Callable[..., tuple[ArrayDataset, ArrayDataset]]:
    return lambda recipe, folder: load(folder or recipe.path("data", "folder"))


def _npz(recipe: Recipe, folder: Path | None) -> tuple[ArrayDataset, ArrayDataset]:
    file, test_file = recipe.path("data", "file"), recipe.path("data", "test_file")
    if folder is not None:
        file = folder / file.name if folder.is_dir() and file is not None else folder
        test_file = folder / test_file.name if folder.is_dir() and test_file is not None else test_file
    if file is None:
        raise recipe.error("data", "", "npz needs 'file'")
    x, y = recipe.get("data", "x"), recipe.get("data", "y")
    parts = [_array_file(recipe, path, x, y) for path in (file, test_file) if path is not None]
    return (parts[0], parts[1]) if len(parts) == 2 else parts[0].split(recipe.get("data", "test_fraction"))


def _array_file(recipe: Recipe, path: Path, x: str, y: str) -> ArrayDataset:
    raw = datasets.npz(path, x, y)
    return ArrayDataset(raw.x, raw.y, f"'{path}'", recipe.get("data", "classes"), scale=recipe.get("data", "scale"))


def _images(recipe: Recipe, folder: Path | None) -> tuple[ArrayDataset, ArrayDataset]:
    root, test = folder or recipe.path("data", "folder"), recipe.path("data", "test_folder")
    if root is None:
        raise recipe.error("data", "", "images needs 'folder'")
    size = recipe.get("data", "size")
    size = tuple(size) if isinstance(size, list) else size
    train = datasets.image_folder(root, size)
    if test is None:
        return train.split(recipe.get("data", "test_fraction"))
    other = datasets.image_folder(test, size)
    if other.classes != train.classes:
        raise DataError(f"'{test}': classes {other.classes}, expected {train.classes} as in '{root}'")
    return train, other


_SOURCES: dict[str, Callable[[Recipe, Path | None], tuple[ArrayDataset, ArrayDataset]]] = {
    "digits": _digits,
    "mnist": _idx(datasets.mnist),
    "fashion_mnist": _idx(datasets.fashion_mnist),
    "npz": _npz,
    "images": _images,
}


def augmentation(recipe: Recipe) -> datasets.augment.Compose | None:
    """Return what [data] augment asks for, or None."""
    table = recipe.get("data", "augment")
    if not table:
        return None
    make: dict[str, Callable[[Any], Any]] = {
        "crop": datasets.augment.RandomCrop,
        "shift": datasets.augment.RandomShift,
        "flip": datasets.augment.RandomHorizontalFlip,
    }
    return datasets.augment.Compose(*(make[key](value) for key, value in table.items()))


# --- the network ---------------------------------------------------------------------------------------------------


def build_model(recipe: Recipe) -> nn.Module:
    """Build the network that [model] names, or lists layer by layer.

    Raises
    ------
    RecipeError
        When there is no such network or layer, or an argument is wrong.
    """
    layers = recipe.get("model", "layers")
    if layers is None:
        model: nn.Module = _construct(recipe, "model", MODELS, ("name",))
        return model
    for key in recipe.options("model", "layers"):
        raise recipe.unknown("model", key, ["layers"])
    with blame(recipe, "model"):
        config = {"type": "Sequential", "args": {"layers": [_layer(item) for item in layers]}}
        return nn.from_config(config)


def _layer(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return a layer as :func:`smelt.nn.from_config` reads it: ``type``, and the rest as arguments."""
    args = {k: v for k, v in item.items() if k != "type"}
    for key in ("layers", "branches"):
        if isinstance(args.get(key), list):
            args[key] = [_layer(v) if isinstance(v, Mapping) else v for v in args[key]]
    return {"type": item["type"], "args": args} if "type" in item else dict(item)


def check_fit(recipe: Recipe, model: nn.Module, parts: Data) -> Summary:
    """Check that network, data, batch and loss fit together; return the network's summary.

    Raises
    ------
    RecipeError, DataError
        When a batch is larger than the data, samples have another shape than the network takes, or labels go beyond
        the network's outputs.
    """
    train = parts.train
    batch = recipe.get("train", "batch_size")
    if batch > len(train):
        raise recipe.error(
            "train", "batch_size", f"received {batch}, expected at most {len(train)}, the samples to train with"
        )
    for part in (parts.test, parts.validation):
        if part.sample_shape != train.sample_shape:
            raise DataError(
                f"{part.name}: samples of {part.sample_shape}, expected {train.sample_shape} as in {train.name}"
            )
    try:
        counted = summary(model, train.sample_shape, plan=False)
    except ShapeError as error:
        shape = "×".join(map(str, train.sample_shape))
        raise recipe.error("model", "", f"does not take samples of {shape}: {without_user_line(str(error))}") from None
    if recipe.kind("loss") == "cross_entropy":
        for part in (train, parts.validation, parts.test):
            _check_labels(recipe, part, counted.output_shape)
    return counted


def _check_labels(recipe: Recipe, part: ArrayDataset, outputs: tuple[int, ...]) -> None:
    if part.y is None or part.y.dtype.kind not in "iu" or part.y.ndim != 1:
        have = "no labels" if part.y is None else f"labels of type {part.y.dtype} and shape {part.y.shape}"
        raise DataError(f"{part.name}: {have}, expected one integer per sample: the loss is cross_entropy")
    if len(outputs) != 2:
        raise recipe.error(
            "model", "", f"gives {outputs[1:]} per sample, expected one row of logits: the loss is cross_entropy"
        )
    wrong = np.flatnonzero((part.y < 0) | (part.y >= outputs[1]))
    if len(wrong):
        raise DataError(
            f"{part.name}: label {part.y[wrong[0]]} at index {wrong[0]}, expected 0 to {outputs[1] - 1}: "
            f"the network has {outputs[1]} outputs"
        )


# --- training ------------------------------------------------------------------------------------------------------


def build_loss(recipe: Recipe) -> nn.Module:
    """Return the loss that [loss] names, cross-entropy by default."""
    loss: nn.Module = _construct(recipe, "loss", LOSSES, ("name",))
    return loss


def build_optimizer(recipe: Recipe) -> optim.Optimizer:
    """Return the optimizer that [optimizer] names, Adam by default."""
    optimizer: optim.Optimizer = _construct(recipe, "optimizer", OPTIMIZERS, ("name",))
    return optimizer


def build_schedule(recipe: Recipe, samples: int) -> tuple[optim.Schedule | None, str]:
    """Return the schedule that [schedule] names, and whether it moves per "epoch" or per "step".

    ``samples`` is how many there are to train with: a one-cycle schedule covers the whole run unless it says otherwise.
    """
    table = recipe.tables.get("schedule", {})
    if not table:
        return None, "epoch"
    check_name(recipe, "schedule", tuple(SCHEDULES))
    per = table.get("per", "step" if recipe.kind("schedule") == "one_cycle" else "epoch")
    if per not in ("epoch", "step"):
        raise recipe.error("schedule", "per", f"received {per!r}, expected 'epoch' or 'step'")
    if recipe.kind("schedule") == "one_cycle" and "total_steps" not in table:
        rounds = recipe.get("train", "epochs")
        if per == "step":
            size = recipe.get("train", "batch_size")
            rounds *= samples // size if recipe.get("train", "drop_last") else math.ceil(samples / size)
        recipe = Recipe(
            recipe.source,
            {**recipe.tables, "schedule": {**table, "total_steps": max(rounds, 2)}},
            recipe.lines,
            recipe.folder,
        )
    schedule: optim.Schedule = _construct(recipe, "schedule", SCHEDULES, SCHEDULE_KEYS)
    if "warmup_steps" in table or "warmup_start" in table:
        with blame(recipe, "schedule"):
            start = table.get("warmup_start", 1 / 3)
            schedule = optim.LinearWarmup(table.get("warmup_steps", 1), then=schedule, start_factor=start)
    return schedule, per
