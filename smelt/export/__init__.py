"""Networks in the forms that other programs run: a module in; files out."""

from smelt.export.c99.export import c
from smelt.export.elf.export import export as object
from smelt.onnx.writer.export import export as onnx

__all__ = ["c", "object", "onnx"]
