"""``smelt summary`` and ``smelt eval``: a model file, or a network of the zoo, in; figures out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import smelt
from smelt import optim
from smelt.cli.build import blame, build_loss, build_model, check_fit, load_data
from smelt.cli.output import Output
from smelt.cli.recipe import Recipe, nearest, read_recipe
from smelt.cli.source import data_table
from smelt.errors import RecipeError, without_user_line
from smelt.files import describe
from smelt.measure.summary import Summary, summary
from smelt.models import INPUT_SHAPES, MODELS
from smelt.onnx.reader.model import OnnxModel
from smelt.train import Trainer

_SPARE = ("bytes", "FLOPs", "field")  # columns of a summary that may be left out, in this order


def summarize_model(
    model: str, shape: str | None, batch: int, options: dict[str, Any], folded: bool, as_json: bool
) -> None:
    """Print the summary of a model file or of a network of the zoo."""
    network, sizes = find_model(model, shape, options)
    shapes = sample_shapes(model, network, sizes, shape)
    show(summary(network, shapes, batch, folded=folded, **sample_types(network)), Output(as_json))


def find_model(model: str, shape: str | None, options: dict[str, Any]) -> tuple[smelt.nn.Module, tuple[int, ...]]:
    """Return a model file or a network of the zoo, and the shape of one sample it reads.

    Raises
    ------
    RecipeError, FileError
        When it is neither, or does not say what it reads.
    """
    if model in MODELS:
        recipe = Recipe("command line", {"model": {"name": model, **options}})
        network, sizes = build_model(recipe), INPUT_SHAPES[model]
    elif Path(model).exists():
        network, sizes = load_model(Path(model))
    else:
        raise RecipeError(f"{model!r}: no such file, and no network of the zoo; {nearest(model, MODELS)}")
    if shape is not None:
        sizes = parse_shape(shape)
    if isinstance(network, OnnxModel) and len(network.inputs) > 1:
        if not network.input_shapes:
            raise RecipeError(f"'{model}': it has {len(network.inputs)} inputs, expected their shapes in it")
    elif not sizes:
        raise RecipeError(f"'{model}': it does not say what it reads, expected --input, such as --input 1,28,28")
    return network, sizes


def load_model(path: Path) -> tuple[smelt.nn.Module, tuple[int, ...]]:
    """Return the network of a ``.smelt`` or ``.onnx`` file, and the shape of a sample where the file says it.

    Raises
    ------
    FileError, RecipeError
        When it cannot be read, or the package for it is not installed.
    """
    if path.suffix != ".onnx":
        return smelt.load(path), known_shape(path)
    try:
        network = smelt.onnx.load(path)
    except ImportError as error:
        raise RecipeError(f"'{path}': {without_user_line(str(error))}") from None
    return network, next(iter(network.input_shapes.values()), ())


def sample_shapes(
    model: str, network: smelt.nn.Module, sizes: tuple[int, ...], given: str | None
) -> tuple[int, ...] | dict[str, tuple[int, ...]]:
    """Return the shape of a sample; of the network of an ONNX file by the names of its inputs."""
    if not isinstance(network, OnnxModel):
        return sizes
    if len(network.inputs) == 1:
        return {network.inputs[0]: sizes}
    if given is not None:
        raise RecipeError(f"--input {given}: '{model}' has {len(network.inputs)} inputs, expected their shapes in it")
    return network.input_shapes


def sample_types(network: smelt.nn.Module) -> dict[str, Any]:
    """Return the types of inputs, as the option of forms, where a file says them."""
    return {"dtype": tuple(d.name for d in network.input_dtypes)} if isinstance(network, OnnxModel) else {}


def show(counted: Summary, output: Output) -> None:
    """Print a summary as JSON, as a table on a terminal, or as plain text."""
    output.result(counted.to_dict())
    if not output.fancy:
        output.say(str(counted))
        return
    (head, body, total), without = fitting(counted, shutil.get_terminal_size().columns)
    output.table(head, body, total, left=3)
    for line in counted.footer():
        output.say(line)
    if without:
        output.say(f"without {' and '.join(without)}, for which the terminal is too narrow")


def fitting(counted: Summary, width: int) -> tuple[tuple[list[str], list[list[str]], list[str]], list[str]]:
    """Return the cells of a summary that fit on a terminal, and the columns that were left out for it."""
    head, body, total = counted.table()
    without: list[str] = []
    for name in (n for n in _SPARE if n in head):
        longest = [max(map(len, column)) for column in zip(head, *body, total, strict=True)]
        if sum(longest) + 3 * len(head) + 1 <= width:
            break
        at = head.index(name)
        head, total = head[:at] + head[at + 1 :], total[:at] + total[at + 1 :]
        body = [row[:at] + row[at + 1 :] for row in body]
        without.append(name)
    return (head, body, total), without


def parse_shape(text: str) -> tuple[int, ...]:
    """Return ``1,28,28`` as sizes.

    Raises
    ------
    RecipeError
        When it is something else.

    Examples
    --------
    >>> parse_shape("1,28,28")
    (1, 28, 28)
    """
    parts = text.replace("x", ",").replace("×", ",").split(",")
    if not all(p.strip().isdecimal() and int(p) > 0 for p in parts):
        raise RecipeError(f"--input {text}: expected sizes of at least 1, such as 1,28,28")
    return tuple(int(p) for p in parts)


def known_shape(path: Path) -> tuple[int, ...]:
    """Return the shape of a sample that is noted in a model file, or ()."""
    noted = describe(path)["extra"].get("input_shape", [])
    good = isinstance(noted, list) and all(type(n) is int and n > 0 for n in noted)
    return tuple(noted) if good else ()


def evaluate_file(path: Path, data: str | None, batch_size: int, as_json: bool) -> None:
    """Print loss and accuracy of a model file on test samples."""
    output = Output(as_json)
    model, _ = load_model(path)
    recipe, folder = recipe_beside(path, data)
    parts = load_data(recipe, folder)
    recipe.tables["train"] = {**recipe.tables.get("train", {}), "batch_size": 1}
    check_fit(recipe, model, parts)
    with blame(recipe, "loss"):
        trainer = Trainer(model, loss=build_loss(recipe), optimizer=optim.SGD(lr=0.0))
        result = trainer.evaluate(parts.test, batch_size=min(batch_size, len(parts.test)))
    output.result({"model": str(path), "data": parts.test.name, **result})
    output.say(f"{path}: {in_words(result)} on {parts.test.name}")


def in_words(result: dict[str, Any]) -> str:
    """Return the result of an evaluation in words.

    Examples
    --------
    >>> in_words({"loss": 0.0412, "accuracy": 0.9868, "correct": 9868, "count": 10000})
    '9868/10000 right (98.68 %), loss 0.0412'
    """
    loss = f"loss {result['loss']:.4f}"
    if result.get("correct") is None:
        return loss
    return f"{result['correct']}/{result['count']} right ({100 * result['accuracy']:.2f} %), {loss}"


def recipe_beside(path: Path, data: str | None) -> tuple[Recipe, Path | None]:
    """Return what to evaluate on: --data, or the recipe in the model's folder with --data as its folder."""
    beside = path.parent / "recipe.toml"
    recipe = read_recipe(beside) if beside.is_file() else None
    if data is None:
        if recipe is None:
            raise RecipeError(f"'{beside}': no recipe beside the model, expected --data")
        return recipe, None
    table = data_table(data)
    if recipe is not None and recipe.kind("data") == table["name"]:
        return recipe, Path(data) if Path(data).exists() else None
    tables: dict[str, dict[str, Any]] = {"model": {"name": "lenet5"}, "data": table}
    if recipe is not None and "loss" in recipe.tables:
        tables["loss"] = recipe.tables["loss"]
    return Recipe("command line", tables), None


__all__ = [
    "evaluate_file",
    "find_model",
    "in_words",
    "known_shape",
    "load_model",
    "parse_shape",
    "recipe_beside",
    "sample_shapes",
    "sample_types",
    "show",
    "summarize_model",
]
