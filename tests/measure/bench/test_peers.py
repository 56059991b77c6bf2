"""Networks of the zoo in PyTorch and ONNX Runtime compute what they compute in Smelt, also over training steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from smelt.measure.bench import infer_smelt, train_smelt
from smelt.measure.bench.contender import Job
from smelt.measure.bench.networks import make
from smelt.models import MODELS

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"mobilenet_v2"}))
def test_the_same_outputs_and_parameters(name: str) -> None:
    from smelt.measure.bench.to_torch import to_torch

    network = make(name)
    theirs = to_torch(network.model, network.shape).eval()
    x = network.batches(2, 1)[0][0]
    with torch.no_grad():
        got = theirs(torch.from_numpy(x)).numpy()
    expected = network.model.eval()(x).numpy()
    assert np.abs(got - expected).max() < 1e-4 * np.abs(expected).max()
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.size for p in network.model.parameters())


@pytest.mark.parametrize("name, forms", [("lenet_300_100", 4), ("autoencoder", 2)])
def test_the_same_training_steps(name: str, forms: int) -> None:
    from smelt.measure.bench import train_torch

    job = Job("train", "torch", name, 16, 1)
    theirs, ours = train_torch.prepare(job), train_smelt.prepare(replace(job, library="smelt"))
    assert np.allclose(theirs.losses, ours.losses, rtol=1e-4)
    assert len(theirs.forms) == forms


@pytest.mark.parametrize("name", ["ds_cnn", "resnet8", "autoencoder"])
def test_the_same_inference(name: str) -> None:
    pytest.importorskip("onnxruntime")
    from smelt.measure.bench import infer_onnxruntime

    job = Job("infer", "onnxruntime", name, 2, 1)
    theirs, ours = infer_onnxruntime.prepare(job), infer_smelt.prepare(replace(job, library="smelt"))
    assert np.abs(theirs.outputs - ours.outputs).max() < 1e-4 * np.abs(ours.outputs).max()
    assert list(theirs.forms) == ["run", "output bound"] and len(theirs.forms["output bound"](2)) == 2
