"""What a recipe may say: the keys of every table, each with its type, default and range.

In: nothing. Out: tables that reading checks against and that the documentation lists.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from smelt.precision import PRECISIONS


@dataclass(frozen=True)
class Key:
    """What one key of a recipe may hold: its type, its default, and its range or choices."""

    kind: str
    default: Any = None
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    note: str = ""

    def expected(self) -> str:
        """Return what is expected, as words."""
        if self.choices:
            return "one of " + ", ".join(map(repr, self.choices))
        words = _WORDS[self.kind]
        if self.low is not None and self.high is not None:
            return f"{words} from {self.low} to {self.high}"
        return words if self.low is None else f"{words} ≥ {self.low}"

    def holds(self, value: Any) -> bool:
        """Return whether a value is as expected."""
        if not _is(self.kind, value):
            return False
        if self.choices:
            return value in self.choices
        numbers = [value] if isinstance(value, (int, float)) else []
        return all(
            (self.low is None or n >= self.low) and (self.high is None or n <= self.high) and math.isfinite(n)
            for n in numbers
        )


_WORDS = {
    "int": "an integer",
    "float": "a number",
    "text": "text",
    "flag": "true or false",
    "sizes": "an integer or a pair of them, each ≥ 1",
    "numbers": "a number, or one for each channel",
    "table": "a table",
    "layers": "a list of layers",
}


def _is(kind: str, value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    whole = isinstance(value, int) and not isinstance(value, bool)
    match kind:
        case "int":
            return whole
        case "float":
            return number
        case "text":
            return isinstance(value, str) and value != ""
        case "flag":
            return isinstance(value, bool)
        case "sizes":
            many = value if isinstance(value, list) and len(value) == 2 else [value]
            return all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in many)
        case "numbers":
            many = value if isinstance(value, list) and value else [value]
            return all(_is("float", n) and math.isfinite(n) for n in many)
        case "table":
            return isinstance(value, dict)
        case "layers":
            return isinstance(value, list) and all(isinstance(v, dict) for v in value)
    raise ValueError(f"unknown kind {kind}")


_SAMPLES = {
    "train_samples": Key("int", None, 1, note="use only so many of the training samples, from the first"),
    "test_samples": Key("int", None, 1, note="use only so many of the test samples, from the first"),
    "validation_fraction": Key(
        "float", 0.0, 0, 0.9, note="how much of the training samples to validate with; 0: the test samples"
    ),
    "mean": Key("numbers", None, note="subtracted from what the network reads, per channel or once"),
    "std": Key("numbers", None, note="what it is divided by after that"),
    "augment": Key("table", None, note="training samples are changed at random: see below"),
}
_SPLIT = {"test_fraction": Key("float", 0.2, 0.01, 0.99, note="how much of the samples to test with")}

DATA: dict[str, dict[str, Key]] = {
    "digits": {**_SPLIT, **_SAMPLES},
    "mnist": {"folder": Key("text", None, note="folder of the IDX files; without it SMELT_DATA, or a download")},
    "fashion_mnist": {"folder": Key("text", None, note="as for mnist")},
    "npz": {
        "file": Key("text", None, note="NPZ file with the samples (required)"),
        "test_file": Key("text", None, note="NPZ file with the test samples; without it a part of `file`"),
        "x": Key("text", "x", note="name of the array of samples"),
        "y": Key("text", "y", note="name of the array of labels or targets"),
        "classes": Key("int", None, 1, note="how many classes: labels are checked"),
        "scale": Key("numbers", 1.0, note="samples are multiplied by it"),
        **_SPLIT,
    },
    "images": {
        "folder": Key("text", None, note="folder with one folder of pictures per class (required)"),
        "test_folder": Key("text", None, note="the same for testing; without it a part of `folder`"),
        "size": Key("sizes", None, note="resize pictures to this height and width"),
        **_SPLIT,
    },
}
for _name in ("mnist", "fashion_mnist", "npz", "images"):
    DATA[_name].update(_SAMPLES)

AUGMENT: dict[str, Key] = {
    "shift": Key("int", None, 1, note="move by up to so many pixels in each direction"),
    "crop": Key("int", None, 1, note="pad by so many pixels, then cut out the old size at random"),
    "flip": Key("float", None, 0, 1, note="mirror left to right with this probability"),
}

TRAIN: dict[str, Key] = {
    "epochs": Key("int", 10, 1, note="passes over the training samples"),
    "batch_size": Key("int", 64, 1, note="samples per step"),
    "seed": Key("int", 0, 0, 2**32 - 1, note="of the initial weights, the order of samples, dropout and augmentation"),
    "drop_last": Key("flag", False, note="leave out a last batch that is smaller"),
    "compile": Key("flag", True, note="false: every operation at once in NumPy, slowly, for debugging"),
    "precision": Key("text", "f32", choices=PRECISIONS, note="what products round their operands to; see precision.md"),
    "checkpoint_every": Key("int", None, 1, note="steps between checkpoints; without it one per epoch"),
    "early_stopping": Key("int", None, 1, note="stop after so many epochs without a better validation loss"),
}

OUTPUT: dict[str, Key] = {
    "folder": Key(
        "text",
        None,
        note="where everything is written, from the current folder; without it `runs/` and the recipe's name",
    ),
}

MODEL: dict[str, Key] = {
    "name": Key("text", None, note="a network of the zoo; its options are further keys"),
    "layers": Key("layers", None, note="or a list of layers, each a table: `type` and the arguments of that layer"),
}

TABLES = ("model", "data", "train", "optimizer", "schedule", "loss", "output")
NAME_DEFAULTS = {"optimizer": "adam", "schedule": "constant", "loss": "cross_entropy"}
