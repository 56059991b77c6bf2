"""``smelt export`` and ``smelt validate``: files, figures and errors, as somebody at a terminal meets them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import smelt
from smelt import nn
from smelt.cli import export
from smelt.export.agreement import compare

from .small import Smelt, write_idx


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a model file beside a folder of data."""
    write_idx(tmp_path / "idx", test=50)
    smelt.seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, "same"), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(784, 10)
    )
    smelt.save(network, tmp_path / "net.smelt", extra={"input_shape": [1, 28, 28]})
    return tmp_path / "net.smelt"


def test_export_writes_one_file(smelt_command: Smelt, model: Path) -> None:
    done = smelt_command("export", model, "--to", "onnx")
    size = Path("net.onnx").stat().st_size
    assert (done.status, done.err, done.out) == (0, "", f"net.onnx: {size:,} bytes, for samples of 1×28×28\n")
    assert [n.name for n in onnx.load("net.onnx").graph.node] == ["0", "1", "2", "3", "4"]
    told = json.loads(smelt_command("export", model, "--to", "onnx", "--out", "b.onnx", "--opset", 28, "--json").out)
    assert told == {"model": str(model), "to": "onnx", "files": {"b.onnx": Path("b.onnx").stat().st_size}}
    assert onnx.load("b.onnx").opset_import[0].version == 28


def test_a_network_of_the_zoo_and_an_onnx_file_are_models_too(smelt_command: Smelt) -> None:
    assert smelt_command("export", "lenet_300_100", "--option", "classes=3", "--to", "onnx").status == 0
    assert "235,500" in smelt_command("summary", "lenet_300_100.onnx").out
    again = smelt_command("export", "lenet_300_100.onnx", "--to", "onnx", "--out", "again.onnx")
    assert again.status == 0 and Path("again.onnx").exists()
    assert "expected --out" in smelt_command("export", "lenet_300_100.onnx", "--to", "onnx").error


def test_validate_compares_on_real_samples(smelt_command: Smelt, model: Path) -> None:
    done = smelt_command("validate", model, "--as", "onnx", "--data", "idx", "--samples", 40)
    assert (done.status, done.err) == (0, "")
    first, verdict, classes, figures = done.out.splitlines()
    assert (
        first.startswith(f"{model} as onnx, run by ") and first.endswith("on 40 samples of MNIST test images".lower())
    ) or "40" in first
    assert verdict.startswith("agrees: largest difference ")
    assert classes.startswith("same class for 40 of 40 samples; ")
    assert figures.startswith("bytes ")
    told = json.loads(smelt_command("validate", model, "--as", "onnx", "--data", "idx", "--json").out)
    assert told["samples"] == told["same_class"] == 50 and told["agrees"] and told["right"] == told["right_here"]


def test_without_onnx_runtime_smelts_reader_runs_the_file(
    smelt_command: Smelt, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = smelt_command("validate", model, "--as", "onnx", "--samples", 5)
    assert "run by Smelt's own reader, for ONNX Runtime is not installed, on 5 samples of random numbers" in done.out
    assert "agrees" in done.out and done.status == 0


def test_a_form_that_differs_ends_with_status_1(
    smelt_command: Smelt, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(network: nn.Module, shape: tuple[int, ...], folder: Path) -> export.Built:
        return export.Built(lambda x: [network(smelt.tensor(x)).numpy() + 0.5], "a broken program", {"flash": 7})

    network = smelt.load(model)
    monkeypatch.setitem(
        export.FORMATS, "broken", export.Format("", lambda *a: [], lambda m, s, f: build(network, s, f))
    )
    done = smelt_command("validate", model, "--as", "broken", "--samples", 8)
    assert done.status == 1 and "differs: largest difference 0.5" in done.out and "flash 7" in done.out


def test_errors_are_one_line(smelt_command: Smelt, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "'tflite': no such form, expected onnx" in smelt_command("export", model, "--to", "tflite").error
    assert "received 3" in smelt_command("export", model, "--to", "onnx", "--opset", 3).error
    assert (
        "does not take samples of 1×8×8" in smelt_command("validate", model, "--as", "onnx", "--data", "digits").error
    )
    Path("bad.onnx").write_bytes(b"no network")
    assert "damaged or not an ONNX file" in smelt_command("summary", "bad.onnx").error
    monkeypatch.setitem(sys.modules, "onnx", None)
    for command in (("export", model, "--to", "onnx"), ("summary", "bad.onnx")):
        assert "pip install 'smelt[onnx]'" in smelt_command(*command).error


def test_not_a_number_agrees_with_itself_alone() -> None:
    x = np.array([[np.nan, 1.0], [np.inf, -1.0]], np.float32)
    assert compare(nn.ReLU(), lambda x: [np.maximum(x, 0)], x).difference == 0
    assert compare(nn.ReLU(), lambda x: [np.nan_to_num(x)], x).difference == np.inf
    assert compare(nn.ReLU(), lambda x: [x[:1]], x).difference == np.inf
