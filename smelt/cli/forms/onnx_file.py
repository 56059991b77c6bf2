"""The form ``onnx``: one file, run by ONNX Runtime where it is installed, else by Smelt's own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import smelt
from smelt.cli.forms.form import Built, Form, Shape, Written
from smelt.nn.calls import leaves
from smelt.nn.module import Module


def write(model: Module, shape: Shape, path: Path, title: str, **options: Any) -> Written:
    """Write the file."""
    smelt.export.onnx(model, path, shape, **options)
    return Written([path])


def build(model: Module, shape: Shape, folder: Path, **options: Any) -> Built:
    """Write the file, and start what runs it."""
    path = folder / "model.onnx"
    write(model, shape, path, "model", **options)
    figures = {"bytes": path.stat().st_size}
    try:
        import onnxruntime
    except ImportError:
        again = smelt.onnx.load(path).compile()
        why = "Smelt's own reader, for ONNX Runtime is not installed"
        return Built(lambda *inputs: [t.numpy() for t in leaves(again(*inputs))], why, figures)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [x.name for x in session.get_inputs()]

    def run(*inputs: np.ndarray) -> list[np.ndarray]:
        return list(session.run(None, dict(zip(names, inputs, strict=True))))

    return Built(run, f"ONNX Runtime {onnxruntime.__version__}", figures)


FORM = Form(write, build, ".onnx", options=("opset", "batch"), build_options=("opset", "batch"))
