"""Data, recipes and results of commands, small enough to train on in no time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from data.data_files import gz, idx_bytes

RECIPE = """\
[model]
layers = [
  { type = "Flatten" },
  { type = "Linear", in_features = 784, out_features = 16 },
  { type = "ReLU" },
  { type = "Linear", in_features = 16, out_features = 10 },
]

[data]
name = "mnist"
folder = "idx"

[train]
epochs = 2
batch_size = 20

[optimizer]
name = "adam"
lr = 0.01
"""


@dataclass
class Result:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of an error; asserts that it is one, and nothing else."""
        lines = self.err.splitlines()
        assert self.status == 2 and len(lines) == 1, (self.status, self.err)
        assert lines[0].startswith("smelt: error: ") and "Traceback" not in self.out
        return lines[0].removeprefix("smelt: error: ")


Smelt = Callable[..., Result]


def write_idx(folder: Path, train: int = 120, test: int = 50) -> Path:
    """Write IDX files like MNIST's: ten classes, each a bright row of its own in noise."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for prefix, count in (("train", train), ("t10k", test)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = rng.integers(0, 60, (count, 28, 28), dtype=np.uint8)
        images[np.arange(count), 2 * labels + 4] = 255
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gz(idx_bytes(images), 1))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    return folder


def digest(folder: Path) -> dict[str, str]:
    """Return what every file in a folder holds, hidden ones included."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }
