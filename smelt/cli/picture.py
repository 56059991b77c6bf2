"""Files of pictures on the command line: an option and its path in; an error, or nothing, out."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from smelt.errors import RecipeError

ENDINGS = (".png", ".svg", ".pdf")


def check_picture(option: str, path: Path | None) -> None:
    """Refuse a picture that could not be written, before anything else is done.

    Raises
    ------
    RecipeError
        When its folder is missing, its ending is none of a picture, or matplotlib is not installed.

    Examples
    --------
    >>> check_picture("plan", Path("plan.gif"))
    Traceback (most recent call last):
    smelt.errors.RecipeError: --plan 'plan.gif': expected a name that ends in .png, .svg or .pdf
    """
    if path is None:
        return
    check_folder(option, path)
    if path.suffix not in ENDINGS:
        raise RecipeError(f"--{option} '{path}': expected a name that ends in .png, .svg or .pdf")
    if importlib.util.find_spec("matplotlib") is None:
        raise RecipeError(f"--{option} '{path}': expected matplotlib to be installed: pip install smelt[plot]")


def check_folder(option: str, path: Path) -> None:
    """Refuse a file in a folder that is not there."""
    if not path.parent.is_dir():
        raise RecipeError(f"--{option} '{path}': no folder '{path.parent}', expected one that exists")
