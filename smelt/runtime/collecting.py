"""Python's collector of cycles, paused: a block of code in, which makes many objects and keeps them, nothing out."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def not_collecting() -> Iterator[None]:
    """Let the collector rest for a while, unless it rests already.

    A compilation makes a hundred thousand objects that live until its end; looking through them again and again took a
    tenth of its time.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
