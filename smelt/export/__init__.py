"""Networks in the forms that other programs run: a module in; files out."""

from smelt.onnx.writer.export import export as onnx

__all__ = ["onnx"]
