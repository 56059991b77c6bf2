"""Checkpoints: numbered files in a folder. What a run is made of in; the newest complete one back out.

Each file is written whole or not at all, holds everything a run depends on, and outlives a ``kill -9`` at any moment.
The newest few are kept; files left half-written by a killed run are removed; damaged ones are passed over.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from smelt import files
from smelt.errors import FileError

_NAME = re.compile(r"step-(\d{9,})\.checkpoint")
_TEMPORARY = re.compile(r"\.step-\d{9,}\.checkpoint\.(\d+)-[0-9a-f]{8}\.tmp")


class Checkpoints:
    """The checkpoints of one run, in a folder of their own.

    Parameters
    ----------
    folder : path
        Made if it is missing (not its parents).
    keep : int, default 2
        How many complete ones to keep.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from smelt.train.checkpoint import Checkpoints
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoints = Checkpoints(folder)
    ...     for step in (10, 20, 30):
    ...         checkpoints.save(step, {"step": step}, {"w": np.ones(2)})
    ...     [path.name for path in checkpoints.paths()], checkpoints.load()[0]
    (['step-000000020.checkpoint', 'step-000000030.checkpoint'], {'step': 30})
    """

    def __init__(self, folder: files.PathLike, keep: int = 2) -> None:
        self.folder = Path(folder)
        self.keep = keep
        self._bad: set[Path] = set()
        try:
            self.folder.mkdir(exist_ok=True)
            self._remove_temporaries()
        except OSError as e:
            raise FileError(f"{os.fspath(folder)!r}: no folder for checkpoints: {e.strerror or e}") from e

    def paths(self) -> list[Path]:
        """Return the checkpoints, oldest first, those known to be damaged left out."""
        found = [(int(m[1]), p) for p in self.folder.iterdir() if (m := _NAME.fullmatch(p.name))]
        return [p for _, p in sorted(found) if p not in self._bad]

    def save(self, step: int, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Write a checkpoint, then remove those it makes superfluous.

        Raises
        ------
        FileError
            When it cannot be written; the earlier ones are still there.
        """
        path = self.folder / f"step-{step:09d}.checkpoint"
        files.write(path, "checkpoint", meta, arrays)
        self._bad.discard(path)
        self._remove_superfluous()

    def load(self) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """Return the newest complete checkpoint, or None when there are none at all.

        Damaged ones are left where they are and named on stderr.

        Raises
        ------
        FileError
            When all of them are damaged.
        """
        paths = self.paths()
        for path in reversed(paths):
            try:
                found = files.read(path, "checkpoint")
            except FileError as e:
                self._bad.add(path)
                print(f"smelt: checkpoint passed over: {e}", file=sys.stderr)
                continue
            self._remove_superfluous()
            return found
        if paths:
            raise FileError(f"{os.fspath(self.folder)!r}: none of its {len(paths)} checkpoints can be read")
        return None

    def _remove_superfluous(self) -> None:
        for old in self.paths()[: -self.keep]:
            with contextlib.suppress(OSError):
                old.unlink()

    def _remove_temporaries(self) -> None:
        for path in self.folder.iterdir():
            match = _TEMPORARY.fullmatch(path.name)
            if match and not _other_process(int(match[1])):
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()


def _other_process(pid: int) -> bool:
    """Return whether another process of this number is running."""
    if pid == os.getpid() or os.name == "nt":
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def join(parts: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the arrays of several parts under names ``part/name``."""
    return {f"{part}/{name}": a for part, arrays in parts.items() for name, a in arrays.items()}


def part(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Return the arrays of one part, copied out of the file."""
    prefix = f"{name}/"
    return {k.removeprefix(prefix): np.array(a) for k, a in arrays.items() if k.startswith(prefix)}
