"""TOML beyond reading it: text in, the line of every key out; tables in, text out.

``tomllib`` reads values but does not say where they stood, and does not write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from smelt.cli.keys import TABLES
from smelt.errors import RecipeError

_KEY = re.compile(r"""\s*("[^"]*"|'[^']*'|[A-Za-z0-9_-]+)\s*=""")
_HEADER = re.compile(r"""\s*(\[\[?)\s*([^\[\]#]+?)\s*\]""")


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    r"""Return the line of every table and of every key that begins a line.

    Examples
    --------
    >>> key_lines('[train]\nepochs = 3\n')
    {('train',): 1, ('train', 'epochs'): 2}
    """
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = tuple(part.strip().strip("\"'") for part in header[2].split("."))
            for depth in range(1, len(table) + 1):
                lines.setdefault(table[:depth], number)
        elif key := _KEY.match(line):
            lines.setdefault((*table, key[1].strip("\"'")), number)
    return lines


def to_toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Return tables as TOML, in a fixed order.

    Examples
    --------
    >>> print(to_toml({"train": {"epochs": 2}, "model": {"name": "lenet5"}}), end="")
    [model]
    name = "lenet5"
    <BLANKLINE>
    [train]
    epochs = 2
    """
    parts = []
    for name in TABLES:
        if tables.get(name):
            lines = [f"{key} = {_toml(value, 0)}" for key, value in tables[name].items()]
            parts.append("\n".join([f"[{name}]", *lines]))
    return "\n\n".join(parts) + "\n"


def _toml(value: Any, depth: int) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        # A JSON string is a TOML string, but for the delete character.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        if value and all(isinstance(v, dict) for v in value):
            pad = "  " * (depth + 1)
            rows = "".join(f"{pad}{_toml(v, depth + 1)},\n" for v in value)
            return f"[\n{rows}{'  ' * depth}]"
        return f"[{', '.join(_toml(v, depth) for v in value)}]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(k)} = {_toml(v, depth)}" for k, v in value.items()) + " }"
    raise RecipeError(f"a recipe cannot hold {type(value).__name__}")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)
