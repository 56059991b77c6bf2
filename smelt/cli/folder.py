"""The folder a run writes to: a recipe and a path in; files that appear all together, or not at all, out.

While a run goes on, its folder holds checkpoints and the recipe they belong to. What it ends with is written beside
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
from smelt.errors import FileError, RecipeError
from smelt.files import write_atomic

RESULTS = ("model.smelt", "history.json", "history.csv", "report.md", "recipe.toml")  # in order of appearance
CHECKPOINTS, UNFINISHED = "checkpoints", "unfinished.toml"


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
        self.path, self.force = path, force
        self.recipe_text = to_toml(_without_output(recipe))
        if path.exists() and not path.is_dir():
            raise RecipeError(f"'{path}': not a folder, expected one to write to")
        if not force:
            self._check()

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / CHECKPOINTS

    @property
    def can_resume(self) -> bool:
        """Whether there is a checkpoint."""
        return self.checkpoints.is_dir() and any(self.checkpoints.iterdir())

    def _check(self) -> None:
        finished = _read(self.path / "recipe.toml")
        unfinished = _read(self.path / UNFINISHED) if self.can_resume else None
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
            When there is nothing to resume, or something that would be lost.
        OSError
            When the folder cannot be written.
        """
        mine = self.can_resume and _read(self.path / UNFINISHED) == self.recipe_text
        if resume and not mine:
            done = _read(self.path / "recipe.toml") == self.recipe_text
            state = "the run is finished" if done else "no checkpoint of this recipe"
            raise RecipeError(f"'{self.path}': {state}, expected one to resume; leave out --resume to start anew")
        if mine and not resume and not self.force:
            raise RecipeError(
                f"'{self.path}': holds an unfinished run of this recipe, expected --resume to go on with it, "
                "or --force to start anew"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        if not resume:
            self._forget()
            write_atomic(self.path / UNFINISHED, self.recipe_text.encode())
        return resume

    @contextmanager
    def results(self) -> Iterator[Path]:
        """Yield a folder to write the results to; when the block ends well, they take their places."""
        staging = self.path / f".results-{os.getpid()}"
        staging.mkdir()
        try:
            try:
                yield staging
                write_atomic(staging / "recipe.toml", self.recipe_text.encode())
            except FileError as error:
                text = str(error).replace(str(staging), str(self.path))
                raise FileError(f"{text}; what was in the folder is unchanged") from None
            for name in RESULTS:
                os.replace(staging / name, self.path / name)
            self._forget()
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _forget(self) -> None:
        """Remove the checkpoints, then what they belonged to."""
        if self.checkpoints.is_dir():
            shutil.rmtree(self.checkpoints)
        (self.path / UNFINISHED).unlink(missing_ok=True)


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
