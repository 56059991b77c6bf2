"""``smelt export`` and ``smelt validate``: a model in; files for other programs, or how far these agree with it, out.

``FORMATS`` is the table of forms: how each is written, and how it is run to be compared.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import smelt
from smelt.cli.build import load_data
from smelt.cli.inspect import find_model, recipe_beside
from smelt.cli.output import Output
from smelt.errors import RecipeError, ShapeError, without_user_line
from smelt.export.agreement import Agreement, Run, compare
from smelt.models import MODELS
from smelt.nn.module import Module

Shape = tuple[int, ...]
DIFFERS = 1  # exit status


@dataclass(frozen=True)
class Built:
    """An exported form that can be run: the function, what runs it in words, and figures about it."""

    run: Run
    runner: str
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """One form of a network for other programs.

    ``write`` is given the model, the shape of one sample, the path and the form's own options, and returns what it
    wrote; ``build`` makes the form in a folder, to be run. ``options`` names the options that mean something to it.
    """

    suffix: str
    write: Callable[..., list[Path]]
    build: Callable[..., Built]
    options: tuple[str, ...] = ()


def _write_onnx(model: Module, shape: Shape, path: Path, **options: Any) -> list[Path]:
    smelt.export.onnx(model, path, shape, **options)
    return [path]


def _build_onnx(model: Module, shape: Shape, folder: Path, **options: Any) -> Built:
    path = folder / "model.onnx"
    _write_onnx(model, shape, path, **options)
    figures = {"bytes": path.stat().st_size}
    try:
        import onnxruntime
    except ImportError:
        again = smelt.onnx.load(path).compile()
        why = "Smelt's own reader, for ONNX Runtime is not installed"
        return Built(lambda x: [again(x).numpy()], why, figures)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return Built(lambda x: session.run(None, {name: x}), f"ONNX Runtime {onnxruntime.__version__}", figures)


FORMATS: dict[str, Format] = {
    "onnx": Format(".onnx", _write_onnx, _build_onnx, ("opset",)),
}


def _format(name: str, given: dict[str, Any]) -> tuple[Format, dict[str, Any]]:
    """Return a form and the options for it, or say which there are."""
    if name not in FORMATS:
        raise RecipeError(f"{name!r}: no such form, expected {', '.join(FORMATS)}")
    chosen = {key: value for key, value in given.items() if value is not None}
    for key in chosen:
        if key not in FORMATS[name].options:
            raise RecipeError(f"--{key}: means nothing to {name}, expected {_listed(FORMATS[name].options)}")
    return FORMATS[name], chosen


def _listed(options: tuple[str, ...]) -> str:
    return ", ".join(f"--{o}" for o in options) or "no options"


def export_model(
    model: str, to: str, out: Path | None, shape: str | None, options: dict[str, Any], as_json: bool, **given: Any
) -> None:
    """Write a model in the form ``to``.

    Raises
    ------
    RecipeError, FileError, ExportError, ShapeError
        When there is no such model or form, or it cannot be written.
    """
    output = Output(as_json)
    form, chosen = _format(to, given)
    network, sizes = find_model(model, shape, options)
    path = out if out is not None else Path(f"{Path(model).stem}{form.suffix}")
    if path.exists() and Path(model).exists() and path.samefile(model):
        raise RecipeError(f"'{path}': is what is to be exported, expected --out, another place to write to")
    with _installed():
        written = form.write(network, sizes, path, **chosen)
    output.result({"model": model, "to": to, "files": {str(p): p.stat().st_size for p in written}})
    for p in written:
        output.say(f"{p}: {p.stat().st_size:,} bytes, for samples of {'×'.join(map(str, sizes))}")


def validate_model(
    model: str,
    form_name: str,
    data: str | None,
    samples: int,
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
    form, chosen = _format(form_name, given)
    x, labels, words = _samples(model, data, samples)
    network, sizes = find_model(model, shape if shape or x is None else _sizes(x), options)
    if x is None:
        x = np.random.default_rng(0).normal(size=(samples, *sizes)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder, _installed():
        try:
            built = form.build(network, sizes, Path(folder), **chosen)
            found = compare(network, built.run, x, labels)
        except ShapeError as error:
            shown = "×".join(map(str, x.shape[1:]))
            raise RecipeError(f"{model!r}: does not take samples of {shown}: {without_user_line(str(error))}") from None
    result = {"model": model, "form": form_name, "runner": built.runner, "data": words, **found.to_dict()}
    output.result({**result, **built.figures})
    output.say(f"{model} as {form_name}, run by {built.runner}, on {words}")
    for line in in_words(found):
        output.say(line)
    output.say(", ".join(f"{key} {value:,}" for key, value in built.figures.items()))
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


def _sizes(x: np.ndarray) -> str:
    return ",".join(map(str, x.shape[1:]))


def _samples(model: str, data: str | None, count: int) -> tuple[np.ndarray | None, np.ndarray | None, str]:
    """Return test samples, their classes, and both in words; nothing where nothing says which."""
    path = Path(model)
    beside = model not in MODELS and (path.parent / "recipe.toml").is_file()
    if data is None and not beside:
        return None, None, f"{count} samples of random numbers"
    recipe, folder = recipe_beside(path, data)
    test = load_data(recipe, folder).test
    count = min(count, len(test))
    x, y = test.batch(range(count))
    classes = y if y is not None and y.ndim == 1 and y.dtype.kind in "iu" else None
    return x, classes, f"{count} samples of {test.name}"


class _installed:
    """Tells the import error of a missing package as an error of the command line."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ImportError):
            raise RecipeError(without_user_line(str(error))) from None
