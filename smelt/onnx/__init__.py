"""ONNX: networks written for other runtimes, and read from other frameworks.

Needs the package ``onnx``: ``pip install smelt[onnx]``.
"""
