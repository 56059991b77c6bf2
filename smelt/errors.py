"""The errors Smelt raises, and the line of the user's own code they point at.

In: a message. Out: one clear line that says what was received, what was expected and where.
"""

from __future__ import annotations

import linecache
import os
import re
import sys

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_COMMANDS = os.path.join(_PACKAGE, "cli") + os.sep


class ShapeError(ValueError):
    """Shapes or dtypes that an operation cannot take."""


class TraceError(RuntimeError):
    """Something asked of a traced value that only a computed one can answer."""


class FileError(ValueError):
    """A file that is not what it claims to be: truncated, damaged, or of another kind."""


class ExportError(ValueError):
    """A network, or a part of one, that the form it is exported to cannot express."""


class RecipeError(ValueError):
    """A recipe with a wrong key, a wrong type or a value out of range."""


def user_line() -> str:
    """Return ``file.py:12: code`` of the innermost frame outside Smelt, or an empty string, as below a command."""
    frame = sys._getframe(1)
    while frame is not None:
        filename = frame.f_code.co_filename
        if filename.startswith(_COMMANDS):
            break
        if not filename.startswith(_PACKAGE) and not filename.startswith("<frozen"):
            source = linecache.getline(filename, frame.f_lineno).strip()
            where = f"{os.path.basename(filename)}:{frame.f_lineno}"
            return f"{where}: {source}" if source else where
        if frame.f_back is None:
            break
        frame = frame.f_back
    return ""


def at_user_line(message: str) -> str:
    """Return ``message`` followed by the user's line, when there is one."""
    line = user_line()
    return f"{message}  [{line}]" if line else message


def without_user_line(text: str) -> str:
    """Return a message without the line of code at its end: a recipe has none.

    Examples
    --------
    >>> without_user_line("Adam: lr: expected a number  [main.py:3: main()]")
    'Adam: lr: expected a number'
    """
    return re.sub(r"\s+\[[^\[\]]*?\.?\w*:\d+(: .*)?\]$", "", text, flags=re.DOTALL)
