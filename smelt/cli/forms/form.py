"""What the command line knows of a form of a network: how it is written, and how it is run beside the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smelt.export.agreement import Run

Shape = tuple[int, ...] | dict[str, tuple[int, ...]]
"""Of one sample; of the network of an ONNX file by the names of its inputs."""


@dataclass(frozen=True)
class Written:
    """Files that were written, and figures about them by their names."""

    files: list[Path]
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Built:
    """A form that can be run: the function, what runs it in words, and figures about it; ``run`` may add to these."""

    run: Run
    runner: str
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Form:
    """One form of a network for other programs.

    Attributes
    ----------
    write : callable
        ``(model, shape of one sample, path, title, **options) -> Written``. The path is what ``--out`` says; the title
        is the model's name, for what has a name in the files. With ``self_test`` among ``options``, it gets samples to
        record as ``samples``, one array per input. Where an ONNX file says what type its inputs have, ``options`` has
        these as ``dtype``, one after the other.
    build : callable
        ``(model, shape of one sample, folder, **options) -> Built``; the folder is deleted afterwards.
    suffix : str
        Of the one file that is written; "" where ``--out`` is a folder.
    options, build_options : tuple of str
        Options of the command line that mean something to ``write`` and to ``build``.
    """

    write: Callable[..., Written]
    build: Callable[..., Built]
    suffix: str = ""
    options: tuple[str, ...] = ()
    build_options: tuple[str, ...] = ()
