"""ONNX: networks written for other runtimes, and read from other frameworks.

Needs the package ``onnx``: ``pip install smelt[onnx]``.
"""

from smelt.onnx.reader.load import load

__all__ = ["load"]
