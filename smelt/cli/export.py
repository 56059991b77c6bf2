"""``smelt export`` and ``smelt validate``: a model in; files for other programs, or how far these agree with it, out.

``smelt.cli.forms.FORMS`` says which forms there are.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from smelt import nn
from smelt.autograd import no_grad
from smelt.cli.build import load_data
from smelt.cli.forms import FORMS
from smelt.cli.forms.emulated import SAMPLES
from smelt.cli.forms.form import Form, Shape
from smelt.cli.inspect import find_model, recipe_beside, sample_shapes, sample_types
from smelt.cli.output import Output
from smelt.errors import RecipeError, ShapeError, without_user_line
from smelt.export.agreement import Agreement, compare
from smelt.models import MODELS
from smelt.nn.module import Module
from smelt.onnx.reader.model import OnnxModel
from smelt.tensor import Tensor

DIFFERS = 1  # exit status
RANDOM = "random numbers"
MANY = 1000  # samples, where this machine runs what was exported


def export_model(
    model: str,
    to: str,
    out: Path | None,
    data: str | None,
    shape: str | None,
    options: dict[str, Any],
    as_json: bool,
    **given: Any,
) -> None:
    """Write a model in the form ``to``.

    Raises
    ------
    RecipeError, DataError, FileError, ExportError, ShapeError
        When there is no such model, form or data, or it cannot be written.
    """
    output = Output(as_json)
    form = _form(to)
    chosen = _meant(given, form.options, f"export --to {to}")
    title = Path(model).stem
    path = out if out is not None else Path(f"{title}{form.suffix}" if form.suffix else ".")
    if path.exists() and Path(model).exists() and path.samefile(model):
        raise RecipeError(f"'{path}': is what is to be exported, expected --out, another place to write to")
    if "self_test" in chosen:
        network, shapes, inputs, _, source = _subject(model, data, chosen["self_test"], shape, options)
        chosen["samples"] = _whole(inputs, _batch(network, chosen, form.options) or 1)
        words = f"{len(chosen['samples'][0])} samples of {source}"
    elif data is not None:
        raise RecipeError("--data: its samples are recorded, expected --self-test, how many of them")
    else:
        network, sizes = find_model(model, shape, options)
        shapes = sample_shapes(model, network, sizes, shape)
        _batch(network, chosen, form.options)
        words = ""
    with _installed(), _fitting(model, shapes):
        written = form.write(network, shapes, path, title, **sample_types(network), **chosen)
    files = {str(p): p.stat().st_size for p in written.files}
    output.result({"model": model, "to": to, "files": files, "data": words or None, **written.figures})
    recorded = f"; recorded: {words}" if words else ""
    output.say(f"{model} as {to}, for samples of {_shown(shapes)}{recorded}")
    for name, size in files.items():
        output.say(f"{name}: {size:,} bytes")
    _say_figures(output, written.figures)


def validate_model(
    model: str,
    form_name: str,
    data: str | None,
    samples: int | None,
    shape: str | None,
    options: dict[str, Any],
    as_json: bool,
    **given: Any,
) -> int:
    """Build the exported form of a model, run it beside the model, and print how far they agree.

    Returns
    -------
    int
        0, or 1 when they do not agree.

    Raises
    ------
    RecipeError, DataError, FileError, ExportError, ShapeError
        When there is no such model, form or data, or it cannot be built.
    """
    output = Output(as_json)
    form = _form(form_name)
    chosen = _meant(given, form.build_options, f"validate --as {form_name}")
    count = samples or (SAMPLES if "target" in chosen else MANY)
    network, shapes, inputs, labels, source = _subject(model, data, count, shape, options)
    batch = _batch(network, chosen, form.build_options)
    inputs = _whole(inputs, batch or 1)
    words = f"{len(inputs[0])} samples of {source}"
    with tempfile.TemporaryDirectory() as folder, _installed(), _fitting(model, shapes):
        built = form.build(network, shapes, Path(folder), **sample_types(network), **chosen)
        found = compare(network, built.run, *inputs, labels=labels, batch=batch or 64)
    result = {"model": model, "form": form_name, "runner": built.runner, "data": words, **found.to_dict()}
    output.result({**result, **built.figures})
    output.say(f"{model} as {form_name}, run by {built.runner}, on {words}")
    for line in in_words(found):
        output.say(line)
    _say_figures(output, built.figures)
    return 0 if found.agrees else DIFFERS


def in_words(found: Agreement) -> list[str]:
    """Return lines for people.

    Examples
    --------
    >>> in_words(Agreement(10, 1e-7, 2e-8, same_class=10))
    ['agrees: largest difference 1e-07, 2e-08 of the largest output', 'same class for 10 of 10 samples']
    """
    verdict = "agrees" if found.agrees else "differs"
    lines = [f"{verdict}: largest difference {found.difference:.3g}, {found.relative:.3g} of the largest output"]
    if found.same_class is not None:
        right = "" if found.right is None else f"; {found.right} right, here {found.right_here}"
        lines.append(f"same class for {found.same_class} of {found.samples} samples{right}")
    return lines


def _say_figures(output: Output, figures: dict[str, Any]) -> None:
    if figures:
        output.say(", ".join(f"{key} {_figure(value)}" for key, value in figures.items()))


def _figure(value: Any) -> str:
    """Return a figure as people read it.

    Examples
    --------
    >>> _figure(1234), _figure(None), _figure("sqrtf")
    ('1,234', 'not known', 'sqrtf')
    """
    return "not known" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _form(name: str) -> Form:
    """Return a form, or say which there are."""
    if name not in FORMS:
        raise RecipeError(f"{name!r}: no such form, expected {', '.join(FORMS)}")
    return FORMS[name]


def _meant(given: dict[str, Any], options: tuple[str, ...], words: str) -> dict[str, Any]:
    """Return the options that were given; all must be among those that mean something."""
    chosen = {key: value for key, value in given.items() if value is not None}
    for key in chosen:
        if key not in options:
            raise RecipeError(f"{_dashed(key)}: means nothing to {words}, expected {_listed(options)}")
    return chosen


def _batch(network: Module, chosen: dict[str, Any], options: tuple[str, ...]) -> int | None:
    """Return the batch size that is asked for, or that an ONNX file is tied to; it becomes one of the options."""
    tied: int | None = network.batch if isinstance(network, OnnxModel) else None
    if tied is not None and chosen.get("batch", tied) != tied:
        raise RecipeError(f"--batch {chosen['batch']}: the file works for no other batch size than {tied}")
    if tied is not None and "batch" in options:
        chosen["batch"] = tied
    return chosen.get("batch", tied)


def _whole(inputs: list[np.ndarray], batch: int) -> list[np.ndarray]:
    """Return as many samples as fill batches."""
    count = len(inputs[0])
    if count < batch:
        raise RecipeError(f"{count} samples: expected at least {batch}, which are run at once")
    return [x[: count // batch * batch] for x in inputs]


def _dashed(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _listed(options: tuple[str, ...]) -> str:
    return ", ".join(map(_dashed, options)) or "no such options"


def _times(sizes: tuple[int, ...]) -> str:
    return "×".join(map(str, sizes))


def _shown(shapes: Shape) -> str:
    return " and ".join(_times(s) or "1" for s in (shapes.values() if isinstance(shapes, dict) else [shapes]))


def _subject(
    model: str, data: str | None, count: int, shape: str | None, options: dict[str, Any]
) -> tuple[Module, Shape, list[np.ndarray], np.ndarray | None, str]:
    """Return a network, the shapes of a sample, samples of every input, their classes if known, and their source."""
    x, labels, words = _samples(model, data, count)
    given = shape if shape or x is None else ",".join(map(str, x.shape[1:]))
    network, sizes = find_model(model, given, options)
    shapes = sample_shapes(model, network, sizes, shape)
    several = isinstance(shapes, dict) and len(shapes) > 1
    if several and data is not None:
        raise RecipeError(f"--data {data}: '{model}' has {len(shapes)} inputs, expected one that samples are given to")
    if x is None or several:
        inputs, labels, words = random_samples(network, shapes, count), None, RANDOM
    elif x.shape[1:] != sizes:
        raise RecipeError(f"--input {shape}: expected the shape of the samples, {_times(x.shape[1:])}")
    else:
        inputs = [x]
    if model in MODELS:
        with _fitting(model, shapes):
            _settle(network, inputs[0][:8])
    return network, shapes, inputs, labels, words


def random_samples(network: Module, shapes: Shape, count: int) -> list[np.ndarray]:
    """Return samples for every input: normal numbers, of integers 0 to 9, where there are only two 0 and 1."""
    rng = np.random.default_rng(0)
    each = list(shapes.values()) if isinstance(shapes, dict) else [shapes]
    dtypes = network.input_dtypes if isinstance(network, OnnxModel) else [np.dtype(np.float32)] * len(each)
    out = []
    for shape, dtype in zip(each, dtypes, strict=True):
        if dtype.kind == "f":
            out.append(rng.normal(size=(count, *shape)).astype(dtype))
        else:
            out.append(rng.integers(0, 2 if dtype.kind == "b" else 10, (count, *shape)).astype(dtype))
    return out


def _settle(network: Module, x: np.ndarray) -> None:
    """Let batch normalization take its statistics from samples.

    A network that was never trained would else shrink what it reads until its outputs are its last biases, and any
    two programs would agree.
    """
    normalizing = [m for _, m in network.named_modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    momenta = [m.momentum for m in normalizing]
    with no_grad():
        for m in normalizing:
            m.momentum = 1.0
        network.train()(Tensor(x))
    for m, momentum in zip(normalizing, momenta, strict=True):
        m.momentum = momentum
    network.eval()


def _samples(model: str, data: str | None, count: int) -> tuple[np.ndarray | None, np.ndarray | None, str]:
    """Return test samples, their classes, and where they come from; no samples where nothing says which."""
    path = Path(model)
    beside = model not in MODELS and (path.parent / "recipe.toml").is_file()
    if data is None and not beside:
        return None, None, RANDOM
    recipe, folder = recipe_beside(path, data)
    test = load_data(recipe, folder).test
    count = min(count, len(test))
    x, y = test.batch(range(count))
    classes = y if y is not None and y.ndim == 1 and y.dtype.kind in "iu" else None
    return x, classes, test.name


class _installed:
    """Tells the import error of a missing package as an error of the command line."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ImportError):
            raise RecipeError(without_user_line(str(error))) from None


class _fitting:
    """Tells a shape that does not fit the model with the model's name."""

    def __init__(self, model: str, shapes: Shape) -> None:
        self.model, self.shapes = model, shapes

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ShapeError):
            shown = f"does not take samples of {_shown(self.shapes)}"
            raise RecipeError(f"{self.model!r}: {shown}: {without_user_line(str(error))}") from None
