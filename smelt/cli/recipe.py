"""Recipes: one TOML file, or the same as options, in; checked tables, each key with its line, out.

Every table is checked before anything is loaded: a misspelt key, a wrong type or a value out of range is one line that
names the file, the line in it, what was received and what was expected. What the tables mean is in
:mod:`smelt.cli.build`.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smelt.cli.keys import AUGMENT, DATA, MODEL, NAME_DEFAULTS, OUTPUT, TABLES, TRAIN, Key
from smelt.cli.toml import key_lines
from smelt.errors import RecipeError

MAX_BYTES = 1 << 20


@dataclass
class Recipe:
    """Checked tables and where they stand.

    Attributes
    ----------
    source : str
        The file as it was named, or "the command line".
    tables : dict
        Table → key → value, as given.
    lines : dict
        Path of a key → its line in the file.
    folder : Path
        What relative paths in it are relative to.
    """

    source: str
    tables: dict[str, dict[str, Any]]
    lines: dict[tuple[str, ...], int] = field(default_factory=dict)
    folder: Path = field(default_factory=Path)

    @property
    def name(self) -> str:
        """Name of the file without its suffix."""
        return Path(self.source).stem

    def get(self, table: str, key: str) -> Any:
        """Return a value, or its default."""
        value = self.tables.get(table, {}).get(key)
        return self.known(table)[key].default if value is None else value

    def options(self, table: str, *without: str) -> dict[str, Any]:
        """Return the keys of a table that are given, but for some."""
        return {k: v for k, v in self.tables.get(table, {}).items() if k not in without}

    def kind(self, table: str) -> str:
        """Return the ``name`` given in a table, or its default."""
        return self.tables.get(table, {}).get("name", NAME_DEFAULTS.get(table, ""))

    def known(self, table: str) -> dict[str, Key]:
        """Return the keys of a table whose types are known here."""
        if table == "data":
            return {"name": Key("text", None), **DATA[self.kind("data")]}
        return {"train": TRAIN, "output": OUTPUT, "model": MODEL}.get(table, {})

    def path(self, table: str, key: str) -> Path | None:
        """Return a value as a path, relative to the recipe's folder."""
        value = self.get(table, key)
        return None if value is None else self.folder / Path(value).expanduser()

    def error(self, table: str, key: str, text: str) -> RecipeError:
        """Return an error at a key (or, with an empty key, at a table)."""
        path = (table, key) if key else (table,)
        line = self.lines.get(path) or self.lines.get((table,))
        where = f"[{table}] {key}".rstrip() + (f", line {line}" if line else "")
        return RecipeError(f"{self.source}: {where}: {text}")

    def unknown(self, table: str, key: str, known: list[str]) -> RecipeError:
        """Return the error of a key that a table does not have."""
        line = self.lines.get((table, key))
        at = f", line {line}" if line else ""
        return RecipeError(f"{self.source}: unknown key {key!r} in [{table}]{at}; {nearest(key, known)}")


def read_recipe(path: str | Path) -> Recipe:
    r"""Read and check a recipe.

    Raises
    ------
    RecipeError
        When there is no such file, it is not TOML, or a key or value is wrong.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "r.toml")
    ...     _ = file.write_text('[model]\nname = "lenet5"\n[data]\nname = "mnist"\n')
    ...     recipe = read_recipe(file)
    >>> recipe.get("train", "batch_size"), recipe.kind("optimizer")
    (64, 'adam')
    """
    path = Path(path)
    source = str(path)
    try:
        with path.open("rb") as f:
            data = f.read(MAX_BYTES + 1)
    except OSError as e:
        raise RecipeError(f"{source}: cannot be read ({e.strerror}), expected a recipe: a TOML file") from None
    if len(data) > MAX_BYTES:
        raise RecipeError(f"{source}: more than {MAX_BYTES} bytes, expected a recipe: a TOML file")
    try:
        text = data.decode("utf-8")
        tables = tomllib.loads(text)
    except UnicodeDecodeError as e:
        raise RecipeError(f"{source}: not UTF-8 text at byte {e.start}, expected a recipe: a TOML file") from None
    except (tomllib.TOMLDecodeError, RecursionError) as e:
        raise RecipeError(f"{source}: not TOML: {str(e).splitlines()[0]}") from None
    recipe = Recipe(source, tables, key_lines(text), path.resolve().parent)
    check(recipe)
    return recipe


def check(recipe: Recipe) -> None:
    """Check the tables and the keys whose types are known here.

    Raises
    ------
    RecipeError
        At the first that is wrong.
    """
    for name, value in recipe.tables.items():
        line = recipe.lines.get((name,))
        at = f", line {line}" if line else ""
        if name not in TABLES:
            what = f"table [{name}]" if isinstance(value, dict) else f"key {name!r} outside of a table"
            raise RecipeError(f"{recipe.source}: unknown {what}{at}; {nearest(name, TABLES)}")
        if not isinstance(value, dict):
            raise RecipeError(f"{recipe.source}: {name!r}{at}: received {_shown(value)}, expected a table [{name}]")
    for name in ("model", "data"):
        if name not in recipe.tables:
            raise RecipeError(f"{recipe.source}: no table [{name}], expected one that says which")
    check_name(recipe, "data", tuple(DATA))
    for table in ("data", "train", "output"):
        _check_keys(recipe, table, recipe.known(table), recipe.tables.get(table, {}))
    if (augment := recipe.get("data", "augment")) is not None:
        for key, value in augment.items():
            if key not in AUGMENT:
                raise recipe.error("data", "augment", f"unknown key {key!r}; {nearest(key, AUGMENT)}")
            if not AUGMENT[key].holds(value):
                text = f"{key}: received {_shown(value)}, expected {AUGMENT[key].expected()}"
                raise recipe.error("data", "augment", text)
    for key in ("name", "layers"):
        given = recipe.options("model").get(key)
        if given is not None and not MODEL[key].holds(given):
            raise recipe.error("model", key, f"received {_shown(given)}, expected {MODEL[key].expected()}")
    if ("name" in recipe.tables["model"]) == ("layers" in recipe.tables["model"]):
        raise recipe.error("model", "", f"keys {_keys(recipe.tables['model'])}, expected either 'name' or 'layers'")


def check_name(recipe: Recipe, table: str, names: Sequence[str]) -> None:
    """Check that the ``name`` of a table is one of these.

    Raises
    ------
    RecipeError
        When it is not.
    """
    value = recipe.tables.get(table, {}).get("name", NAME_DEFAULTS.get(table))
    if value not in names:
        received = "no 'name'" if value is None else f"received {_shown(value)}"
        raise recipe.error(table, "name" if value is not None else "", f"{received}; {nearest(value, names)}")


def _check_keys(recipe: Recipe, table: str, known: Mapping[str, Key], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if key not in known:
            raise recipe.unknown(table, key, list(known))
        if not known[key].holds(value):
            raise recipe.error(table, key, f"received {_shown(value)}, expected {known[key].expected()}")


def nearest(word: Any, known: Collection[str]) -> str:
    """Return a question with the known word nearest to a wrong one, or all that are known.

    Examples
    --------
    >>> nearest("epoch", ["epochs", "seed"])
    "did you mean 'epochs'?"
    >>> nearest("x", ["epochs", "seed"])
    'expected one of epochs, seed'
    """
    near = difflib.get_close_matches(word, known, 1, 0.6) if isinstance(word, str) else []
    return f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"


def _keys(table: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, table)) or "none"


def _shown(value: Any) -> str:
    """Return a received value and its type, as TOML names it."""
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "text", list: "a list", dict: "a table"}
    text = json.dumps(value, default=str)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({names.get(type(value), type(value).__name__)})"
