"""Recipes: what is read, and that everything wrong is one line with its place."""

from __future__ import annotations

import inspect
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from smelt import nn, optim
from smelt.cli import build, keys, toml
from smelt.cli.recipe import Recipe, check, read_recipe
from smelt.data import DataError
from smelt.errors import RecipeError
from smelt.models import MODELS

ROOT = Path(__file__).resolve().parents[2]
GOOD = """\
[model]
name = "lenet5"

[data]
name = "digits"

[train]
epochs = 3
batch_size = 32

[optimizer]
name = "sgd"
lr = 0.1
momentum = 0.9

[schedule]
name = "step"
step_size = 2
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "r.toml"
    path.write_text(text, encoding="utf-8")
    return path


def build_all(recipe: Recipe) -> None:
    build.build_model(recipe)
    build.build_loss(recipe)
    build.build_optimizer(recipe)
    build.build_schedule(recipe, 100)
    build.augmentation(recipe)


@pytest.mark.parametrize("path", sorted(ROOT.glob("recipes/*.toml")), ids=lambda p: p.name)
def test_every_recipe_of_the_repository_is_good(path: Path) -> None:
    build_all(read_recipe(path))


def test_values_and_defaults(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, GOOD))
    assert [recipe.get("train", k) for k in ("epochs", "batch_size", "seed")] == [3, 32, 0]
    optimizer = build.build_optimizer(recipe)
    assert isinstance(optimizer, optim.SGD) and (optimizer.lr, optimizer.momentum) == (0.1, 0.9)
    schedule, per = build.build_schedule(recipe, 100)
    assert isinstance(schedule, optim.StepLR) and per == "epoch"
    assert isinstance(build.build_loss(recipe), nn.CrossEntropyLoss)


WRONG = {  # what is replaced, by what, what the line says
    "misspelt key": ("epochs = 3", "epoch = 3", r"unknown key 'epoch' in \[train\], line 8; did you mean 'epochs'\?"),
    "misspelt table": (
        "[optimizer]",
        "[optimiser]",
        r"unknown table \[optimiser\], line 11; did you mean 'optimizer'\?",
    ),
    "key without table": (
        "[model]",
        "seed = 1\n[model]",
        "unknown key 'seed' outside of a table, line 1; expected one of",
    ),
    "misspelt option": (
        "momentum",
        "momentun",
        r"unknown key 'momentun' in \[optimizer\], line 14; did you mean 'momentum'",
    ),
    "text for an integer": (
        "= 3",
        '= "3"',
        r'\[train\] epochs, line 8: received "3" \(text\), expected an integer ≥ 1',
    ),
    "a number for an integer": ("= 3", "= 3.5", r"\[train\] epochs, line 8: received 3.5 \(a number\)"),
    "a boolean for an integer": ("= 3", "= true", r"line 8: received true \(a boolean\)"),
    "zero epochs": ("= 3", "= 0", "line 8: received 0"),
    "text for a number": ("0.1", '"fast"', r"\[optimizer\] lr, line 13: expected a finite number ≥ 0, received 'fast'"),
    "a negative rate": ("0.1", "-0.1", r"\[optimizer\] lr, line 13: expected a finite number ≥ 0, received -0.1"),
    "an infinite rate": ("0.1", "inf", r"\[optimizer\] lr, line 13"),
    "an unknown network": (
        "lenet5",
        "lenet6",
        r"\[model\] name, line 2: received \"lenet6\" \(text\); did you mean 'lenet5'",
    ),
    "an unknown dataset": (
        '"digits"',
        '"digit"',
        r"\[data\] name, line 5: received \"digit\" \(text\); did you mean 'digits'",
    ),
    "an unknown optimizer": ('"sgd"', '"sdg"', r"\[optimizer\] name, line 12: .*; did you mean 'sgd'"),
    "an unknown schedule": ('"step"', '"steps"', r"\[schedule\] name, line 17: .*; did you mean 'step'"),
    "a schedule without its key": ("step_size = 2\n", "", r"\[schedule\], line 16: step needs 'step_size'"),
    "a value for a table": ("[model]\nname", "model", r"'model', line 1: received .*, expected a table \[model\]"),
    "no data": ('[data]\nname = "digits"', "", r"no table \[data\]"),
    "a key of other data": ('"digits"', '"digits"\nfolder = "x"', r"unknown key 'folder' in \[data\], line 6"),
    "not TOML": ("epochs = 3", "epochs =", r"not TOML: .*line 8"),
    "a key twice": ("epochs = 3", "epochs = 3\nepochs = 4", r"not TOML: .*line 9"),
    "model and layers": ('"lenet5"', '"lenet5"\nlayers = []', "keys 'name', 'layers', expected either"),
    "augment": (
        '"digits"',
        '"digits"\naugment = { shft = 1 }',
        r"augment, line 6: unknown key 'shft'; did you mean 'shift'",
    ),
    "augment by text": ('"digits"', '"digits"\naugment = { shift = "a" }', r"augment, line 6: shift: received \"a\""),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line_with_its_place(tmp_path: Path, case: str) -> None:
    old, new, says = WRONG[case]
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(RecipeError) as error:
        build_all(read_recipe(path))
    text = str(error.value)
    assert text.startswith(f"{path}: ") and len(text.splitlines()) == 1
    assert re.search(says, text), text
    assert ".py:" not in text


@pytest.mark.parametrize(
    "layer, says",
    [
        ('{ type = "Conv3d" }', "expected one of"),
        ('{ type = "Linear", in_features = 4 }', "Linear needs out_features"),
        ('{ type = "Linear", in_features = 4, out_features = 2, bais = true }', "received 'bais'"),
        ('{ type = "Linear", in_features = 4, out_features = 0 }', "out_features: expected an integer ≥ 1"),
        ('{ name = "Linear" }', "expected {'type'"),
        ('{ type = "Linear", in_features = 100000, out_features = 100000 }', "100,000,000"),
    ],
)
def test_layers_are_checked(tmp_path: Path, layer: str, says: str) -> None:
    path = write(tmp_path, f'[model]\nlayers = [{layer}]\n[data]\nname = "digits"\n')
    with pytest.raises(RecipeError, match=re.escape(says)) as error:
        build.build_model(read_recipe(path))
    assert str(error.value).startswith(f"{path}: [model]") and len(str(error.value).splitlines()) == 1


def test_nested_layers(tmp_path: Path) -> None:
    text = """
        [model]
        layers = [
          { type = "Add", branches = [{ type = "Identity" }, { type = "Sequential", layers = [{ type = "ReLU" }] }] },
        ]
        [data]
        name = "digits"
        """
    model = build.build_model(read_recipe(write(tmp_path, text)))
    add = next(model.children())
    assert isinstance(add, nn.Add) and isinstance(list(add)[1], nn.Sequential)


@pytest.mark.parametrize("data", [b"\xff\xfe", b"[" * 5000, b"x" * (1 << 21)])
def test_files_that_are_no_recipe(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(data)
    with pytest.raises(RecipeError, match=r"r\.toml: "):
        read_recipe(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot be read .*expected a recipe"):
        read_recipe(tmp_path / "none.toml")


def test_what_is_written_reads_the_same() -> None:
    for path in ROOT.glob("recipes/*.toml"):
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        assert tomllib.loads(toml.to_toml(tables)) == tables
    odd = {"data": {"name": 'a"\\\n\t\x7fé', "mean": [0.5, 1e-9], "augment": {"a b": True}}}
    assert tomllib.loads(toml.to_toml(odd)) == odd


def test_one_cycle_covers_the_run() -> None:
    tables = {"schedule": {"name": "one_cycle", "max_lr": 0.1}, "train": {"epochs": 3, "batch_size": 8}}
    schedule, per = build.build_schedule(Recipe("r", tables), 100)
    assert isinstance(schedule, optim.OneCycle) and (schedule.total_steps, per) == (39, "step")


def test_warmup() -> None:
    tables = {"schedule": {"name": "cosine", "t_max": 5, "warmup_steps": 2, "warmup_start": 0.0}}
    schedule, _ = build.build_schedule(Recipe("r", tables), 100)
    assert schedule is not None
    assert [round(schedule.lr_at(i, base_lr=1.0), 3) for i in (0, 1, 2, 7)] == [0.0, 0.5, 1.0, 0.0]


def arrays(folder: Path, n: int = 20, classes: int = 3) -> Path:
    rng = np.random.default_rng(0)
    np.savez(folder / "a.npz", x=rng.random((n, 4), np.float32), y=rng.integers(0, classes, n))
    return folder / "a.npz"


def npz_recipe(folder: Path, outputs: int = 3, **data: object) -> Recipe:
    layers = [{"type": "Linear", "in_features": 4, "out_features": outputs}]
    data_table = {"name": "npz", "file": "a.npz", **data}
    recipe = Recipe("r", {"model": {"layers": layers}, "data": data_table}, {}, folder)
    check(recipe)
    return recipe


def test_parts_of_the_data(tmp_path: Path) -> None:
    arrays(tmp_path)
    parts = build.load_data(npz_recipe(tmp_path, test_fraction=0.25))
    assert (len(parts.train), len(parts.test)) == (15, 5) and parts.validation is parts.test
    parts = build.load_data(npz_recipe(tmp_path, test_fraction=0.25, validation_fraction=0.2, train_samples=10))
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (8, 2, 5)
    parts = build.load_data(npz_recipe(tmp_path, scale=2.0, mean=1.0, std=0.5))
    x = parts.train.x[:1]
    assert np.allclose(parts.train.batch([0])[0], (2 * x - 1) / 0.5)


def test_data_and_network_must_fit(tmp_path: Path) -> None:
    arrays(tmp_path)

    def says(recipe: Recipe, text: str) -> None:
        with pytest.raises((RecipeError, DataError), match=text):
            build.check_fit(recipe, build.build_model(recipe), build.load_data(recipe))

    says(npz_recipe(tmp_path), r"batch_size: received 64, expected at most 16")
    says(npz_recipe(tmp_path, train_samples=17), "train_samples: received 17, expected at most 16")
    recipe = npz_recipe(tmp_path, outputs=2)
    recipe.tables["train"] = {"batch_size": 4}
    says(recipe, r"label 2 at index \d+, expected 0 to 1: the network has 2 outputs")
    recipe.tables["model"] = {"name": "lenet5"}
    says(recipe, r"\[model\]: does not take samples of 4: layer 0 \(Conv2d\)")


def row(key: str, rule: keys.Key) -> str:
    default = "" if rule.default is None else f"`{toml._toml(rule.default, 0)}`"
    return f"| `{key}` | {rule.expected()} | {default} | {rule.note} |"


def shown(default: object) -> str:
    if default is inspect.Parameter.empty:
        return "(required)"
    return f"`{toml._toml(list(default) if isinstance(default, tuple) else default, 0)}`"


def test_every_key_is_documented_as_it_is() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    tables = [keys.TRAIN, keys.MODEL, keys.OUTPUT, keys.AUGMENT, *keys.DATA.values()]
    rows = {row(key, rule) for table in tables for key, rule in table.items()}
    for kinds in (build.OPTIMIZERS, build.SCHEDULES, build.LOSSES, MODELS):
        for name, make in kinds.items():
            options = ", ".join(f"`{k}` {shown(d)}" for k, d in build.options_of(make).items())
            rows.add(f"| `{name}` | {options or 'none'} |")
    assert [r for r in sorted(rows) if r not in text] == []
