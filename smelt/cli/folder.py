"""The folder a run writes to: a recipe and a path in; files that appear all together, or not at all, out.

While a run goes on, its folder holds a checkpoint and the recipe it belongs to. What it ends with is written beside
first and moved into place at the end, so that a full disk, an error or a kill leave what was there as it was.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smelt.cli.recipe import Recipe
from smelt.cli.toml import to_toml
from smelt.errors import RecipeError

RESULTS = ("model.smelt", "history.json", "history.csv", "report.md", "recipe.toml")  # in order of appearance
CHECKPOINT, CHECKPOINT_RECIPE = "checkpoint.smelt", "checkpoint.toml"


class RunFolder:
    """The folder of one run.

    Parameters
    ----------
    path : Path
        Made, with its parents, when it is not there.
    recipe : Recipe
        What is run; its paths are made absolute in the copy.
    force : bool
        Whether another recipe's run may be replaced.

    Raises
    ------
    RecipeError
        When the folder holds the run of another recipe, or files of these names that no run wrote.
    OSError
        When it cannot be made.
    """

    def __init__(self, path: Path, recipe: Recipe, force: bool) -> None:
        self.path = path
        self.recipe_text = to_toml(_without_output(recipe))
        if path.exists() and not path.is_dir():
            raise RecipeError(f"'{path}': not a folder, expected one to write to")
        if not force:
            self._check()

    @property
    def checkpoint(self) -> Path:
        """Path of the checkpoint."""
        return self.path / CHECKPOINT

    def _check(self) -> None:
        finished = _read(self.path / "recipe.toml")
        unfinished = _read(self.path / CHECKPOINT_RECIPE) if self.checkpoint.exists() else None
        for kind, text in (("a finished", finished), ("an unfinished", unfinished)):
            if text is not None and text != self.recipe_text:
                raise RecipeError(
                    f"'{self.path}': holds {kind} run of another recipe or seed, expected another folder (--out), "
                    "or --force to replace it"
                )
        if finished is None:
            for name in RESULTS:
                if (self.path / name).exists():
                    raise RecipeError(
                        f"'{self.path / name}': exists, and no run wrote it, expected another folder (--out), "
                        "or --force to replace it"
                    )

    def begin(self, resume: bool) -> bool:
        """Prepare for training; return whether it goes on from a checkpoint.

        Raises
        ------
        RecipeError
            When there is nothing to resume.
        OSError
            When the folder cannot be written.
        """
        mine = self.checkpoint.exists() and _read(self.path / CHECKPOINT_RECIPE) == self.recipe_text
        if resume and not mine:
            done = _read(self.path / "recipe.toml") == self.recipe_text
            state = "the run is finished" if done else "no checkpoint of this recipe"
            raise RecipeError(f"'{self.path}': {state}, expected one to resume; leave out --resume to start anew")
        self.path.mkdir(parents=True, exist_ok=True)
        if not resume:
            self.checkpoint.unlink(missing_ok=True)
            _write(self.path / CHECKPOINT_RECIPE, self.recipe_text)
        return resume

    @contextmanager
    def results(self) -> Iterator[Path]:
        """Yield a folder to write the results to; when the block ends well, they take their places."""
        staging = self.path / f".results-{os.getpid()}"
        staging.mkdir()
        try:
            yield staging
            _write(staging / "recipe.toml", self.recipe_text)
            for name in RESULTS:
                os.replace(staging / name, self.path / name)
            for name in (CHECKPOINT, CHECKPOINT_RECIPE):
                (self.path / name).unlink(missing_ok=True)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _without_output(recipe: Recipe) -> dict[str, dict[str, object]]:
    """Return the tables that decide the result, with absolute paths."""
    tables = {name: dict(table) for name, table in recipe.tables.items() if name != "output"}
    for key in ("folder", "file", "test_file", "test_folder"):
        if key in tables.get("data", {}):
            path = recipe.path("data", key)
            assert path is not None
            tables["data"][key] = str(path.resolve())
    return tables


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _write(path: Path, text: str) -> None:
    """Write a text under a temporary name, then rename it."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
