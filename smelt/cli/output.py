"""What a command says: lines for people, one JSON value for programs, one line for an error.

In: text and figures. Out: stdout and stderr. With ``--json`` nothing but JSON reaches stdout.
"""

from __future__ import annotations

import errno
import json
import math
import sys
from collections.abc import Sequence
from typing import Any

from smelt.data import DataError
from smelt.errors import ExportError, FileError, RecipeError, ShapeError, TraceError, without_user_line

FAILED, INTERRUPTED, BROKEN_PIPE = 2, 130, 141
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Output:
    """Prints for one command; ``as_json`` keeps stdout for the one value given to :meth:`result`."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def say(self, text: str = "") -> None:
        """Print a line for people."""
        if not self.as_json:
            print(text, flush=True)

    def result(self, value: Any) -> None:
        """Print the command's value, when JSON was asked for."""
        if self.as_json:
            print(json.dumps(plain(value), indent=2), flush=True)

    def table(self, head: Sequence[str], body: Sequence[Sequence[str]], total: Sequence[str], left: int) -> None:
        """Print a table on a terminal; the first ``left`` columns are aligned left."""
        from rich.console import Console
        from rich.table import Table

        table = Table(show_footer=bool(total))
        for i, name in enumerate(head):
            footer = total[i] if total else ""
            table.add_column(name, footer, justify="left" if i < left else "right", overflow="fold")
        for row in body:
            table.add_row(*row)
        Console().print(table)

    @property
    def fancy(self) -> bool:
        """Whether a person watches: stdout is a terminal."""
        return not self.as_json and sys.stdout.isatty()


def plain(value: Any) -> Any:
    """Return a value without NaN and infinities, which JSON does not have, and without tuples.

    Examples
    --------
    >>> plain({"loss": [1.0, float("nan")], "shape": (1, 2)})
    {'loss': [1.0, None], 'shape': [1, 2]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value


def user_errors() -> tuple[type[BaseException], ...]:
    """Return the errors that a user can cause and mend: they are told in one line, without a traceback."""
    from smelt.train import NonFiniteLoss

    return (RecipeError, ExportError, FileError, DataError, ShapeError, TraceError, NonFiniteLoss, OSError, MemoryError)


def one_line(error: BaseException) -> str:
    """Return what an error says, on one line.

    Examples
    --------
    >>> one_line(OSError(28, "No space left on device", "model.smelt"))
    "'model.smelt': No space left on device, expected room for the whole file; what was there is unchanged"
    """
    if isinstance(error, OSError) and error.strerror:
        named = error.filename2 or error.filename
        text = f"'{named}': {error.strerror}" if named else error.strerror
        if error.errno in _NO_ROOM:
            text += ", expected room for the whole file; what was there is unchanged"
    elif isinstance(error, MemoryError):
        text = f"not enough memory{': ' * bool(str(error))}{error}; expected room for the data and one step"
    else:
        text = without_user_line(str(error)) or type(error).__name__
    return "".join(c if c.isprintable() else " " for c in text)


def complain(text: str) -> None:
    """Print the one line of an error."""
    print(f"smelt: error: {text}", file=sys.stderr, flush=True)
