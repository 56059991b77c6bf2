"""Exported files in ONNX Runtime: the same outputs as Smelt's, whatever the batch."""

from __future__ import annotations

import numpy as np
import pytest

import smelt
from smelt import models, nn
from smelt.onnx.writer.export import to_bytes

from .nets import CASES, samples, settled, zoo

runtime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.peers


def check(model: nn.Module, shape: tuple[int, ...], counts: tuple[int, ...] = (1, 7, 64)) -> None:
    session = runtime.InferenceSession(to_bytes(model, shape), providers=["CPUExecutionProvider"])
    compiled = smelt.compile(model)
    for count in reversed(counts):
        x = samples(shape, count, seed=count)
        expected = compiled(x)
        expected = expected if isinstance(expected, tuple) else (expected,)
        for got, want in zip(session.run(None, {"input": x.numpy()}), expected, strict=True):
            scale = max(1.0, float(np.abs(want.numpy()).max()))
            assert np.abs(got - want.numpy()).max() <= 1e-5 * scale
            assert got.dtype == want.dtype


@pytest.mark.parametrize("name", models.MODELS)
def test_the_zoo_gives_the_same(name: str) -> None:
    model, shape = zoo(name, 224)
    check(model, shape)


@pytest.mark.parametrize("name", CASES)
def test_every_layer_gives_the_same(name: str) -> None:
    build, shape = CASES[name]
    check(settled(build(), shape), shape)
