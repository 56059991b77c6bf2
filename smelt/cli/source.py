"""What ``--data`` names: a word or a path in; the [data] table of a recipe out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smelt import data
from smelt.cli.keys import DATA
from smelt.data import DataError
from smelt.errors import RecipeError


def data_table(name: str) -> dict[str, Any]:
    """Return the [data] table for a dataset's name, an NPZ file, or a folder of IDX files or of images.

    Raises
    ------
    RecipeError
        When it is none of these.

    Examples
    --------
    >>> data_table("digits")
    {'name': 'digits'}
    """
    if name in DATA and name not in ("npz", "images"):
        return {"name": name}
    path = Path(name)
    if path.is_file() or path.suffix == ".npz":
        return {"name": "npz", "file": name}
    if not path.is_dir():
        raise RecipeError(
            f"'{name}': no such file or folder, expected digits, mnist, fashion_mnist, an NPZ file, or a folder"
        )
    if any(path.glob("*-images*idx3*")):
        return {"name": _idx_name(path), "folder": name}
    return {"name": "images", "folder": name}


def _idx_name(folder: Path) -> str:
    """Return which of the two datasets, whose files have the same names, a folder holds."""
    try:
        data.mnist(folder)
    except DataError as error:
        if "holds fashion-mnist" not in str(error):
            raise
        return "fashion_mnist"
    return "mnist"
