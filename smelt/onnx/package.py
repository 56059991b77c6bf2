"""The package ``onnx``, imported when it is first needed: it is an extra, and takes a while."""

from __future__ import annotations

from types import ModuleType

from smelt.errors import at_user_line


def require_onnx() -> ModuleType:
    """Return the package ``onnx``.

    Raises
    ------
    ImportError
        When it is not installed: the line says how to install it.
    """
    try:
        import onnx
        import onnx.checker
    except ImportError as error:
        text = "ONNX files need the package onnx, which is not installed: pip install 'smelt[onnx]'"
        raise ImportError(at_user_line(text)) from error
    return onnx
