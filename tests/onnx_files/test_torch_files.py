"""Files that PyTorch exports, by its present and its former exporter: the zoo's architectures load and agree."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export.compilers import need

import smelt
from smelt import models, nn
from smelt.measure.bench.to_torch import to_torch

from .nets import samples, zoo

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peers


def torch_export(model: Any, x: Any, path: Path, dynamo: bool) -> None:
    if dynamo:
        pytest.importorskip("onnxscript")
    dims = {0: torch.export.Dim("n", min=1, max=4096)}
    free = {"dynamic_shapes": (dims,)} if dynamo else {"dynamic_axes": {"x": [0]}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), path, input_names=["x"], dynamo=dynamo, verbose=False, **free)


@pytest.mark.parametrize("dynamo", [False, True], ids=["TorchScript", "dynamo"])
@pytest.mark.parametrize("name", models.MODELS)
def test_the_zoo_loads_and_agrees(name: str, dynamo: bool, tmp_path: Path) -> None:
    ours, shape = zoo(name, 224)
    theirs = to_torch(ours, shape).eval()
    torch_export(theirs, torch.zeros((2, *shape)), tmp_path / "model.onnx", dynamo)
    loaded = smelt.onnx.load(tmp_path / "model.onnx")
    compiled = smelt.compile(loaded)
    for count in (7, 1):
        x = samples(shape, count).numpy()
        with torch.no_grad():
            want = theirs(torch.from_numpy(x)).numpy()
        limit = 1e-5 * max(1.0, float(np.abs(want).max()))
        assert np.abs(loaded(x).numpy() - want).max() <= limit
        assert np.abs(compiled(x).numpy() - want).max() <= limit
    assert compiled.traces == 1
    kinds, layers = ([type(m).__name__ for _, m in model.named_modules()] for model in (loaded, ours))
    assert kinds.count("Linear") + kinds.count("MatMul") == layers.count("Linear")  # without a bias it has no Gemm
    assert kinds.count("Conv2d") == layers.count("Conv2d")


@pytest.mark.parametrize("name", ["ds_cnn", "resnet8", "lenet5", "autoencoder"])
def test_what_pytorch_wrote_becomes_c(name: str, tmp_path: Path) -> None:
    ours, shape = zoo(name)
    theirs = to_torch(ours, shape).eval()
    torch_export(theirs, torch.zeros((2, *shape)), tmp_path / "model.onnx", dynamo=True)
    need("cc")
    run = smelt.export.c(smelt.onnx.load(tmp_path / "model.onnx"), None, shape).load(["-O1"])
    x = samples(shape, 1).numpy()
    with torch.no_grad():
        want = theirs(torch.from_numpy(x)).numpy()
    assert np.abs(run(x)[0] - want).max() <= 1e-5 * max(1.0, float(np.abs(want).max()))


def modern() -> Any:
    """A network of layers that the zoo has not: squeeze and excitation, attention, a transformer's layer norm."""
    t = torch.nn

    class Scaled(t.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = t.Sequential(t.AdaptiveAvgPool2d(1), t.Conv2d(8, 4, 1), t.SELU(), t.Conv2d(4, 8, 1))
            self.encoder = t.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
            self.head = t.Sequential(t.Linear(8, 5), t.CELU(), t.Mish(), t.LogSoftmax(1))

        def forward(self, x: Any) -> Any:
            x = x * t.functional.hardsigmoid(self.gate(x))
            return self.head(self.encoder(x.flatten(2).transpose(1, 2)).mean(1))

    torch.manual_seed(0)
    return t.Sequential(t.Conv2d(3, 8, 3, 2, bias=False), t.GroupNorm(2, 8), t.Hardswish(), Scaled())


@pytest.mark.parametrize("dynamo", [False, True], ids=["TorchScript", "dynamo"])
def test_networks_that_the_zoo_has_not(dynamo: bool, tmp_path: Path) -> None:
    theirs, x = modern().eval(), samples((3, 9, 9), 5).numpy()
    torch_export(theirs, torch.zeros((2, 3, 9, 9)), tmp_path / "model.onnx", dynamo)
    loaded = smelt.onnx.load(tmp_path / "model.onnx")
    with torch.no_grad():
        want = theirs(torch.from_numpy(x)).numpy()
    for run in (loaded, smelt.compile(loaded), loaded.compile()):
        np.testing.assert_allclose(run(x).numpy(), want, rtol=1e-5, atol=1e-5)


def test_a_loaded_network_learns_on(tmp_path: Path) -> None:
    theirs = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    torch_export(theirs, torch.zeros((2, 6)), tmp_path / "model.onnx", dynamo=False)
    model = smelt.onnx.load(tmp_path / "model.onnx").train()
    expected = {name: tuple(p.shape) for name, p in theirs.named_parameters()}
    assert {name: p.shape for name, p in model.named_parameters()} == expected
    optimizer = smelt.optim.Adam(lr=1e-2).bind(model.parameters())
    x, y = samples((6,), 60), np.arange(60) % 3

    @smelt.compile
    def step(x: Any, y: Any) -> Any:
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    losses = [step(x, y).item() for _ in range(60)]
    assert losses[-1] < 0.7 * losses[0]
