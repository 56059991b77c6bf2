"""``smelt profile``: recipes, files and networks of the zoo, training and inference, and every file it writes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import smelt
from smelt import nn
from smelt.measure import roofline

from .small import RECIPE, Smelt


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Do not measure the machine for these."""
    monkeypatch.setattr(roofline, "peak_flops", lambda threads, paired=False: 1e11)
    monkeypatch.setattr(roofline, "bandwidth", lambda threads, last: 1e10)
    monkeypatch.setattr(roofline, "cache_bandwidth", lambda threads, size: 1e11)
    roofline.measured_ceilings.cache_clear()
    yield
    roofline.measured_ceilings.cache_clear()


def value(out: str) -> Any:
    return json.loads(out)


def test_the_training_step_of_a_recipe(smelt_command: Smelt, recipe: Path) -> None:
    done = smelt_command("profile", recipe, "--steps", 3)
    assert done.status == 0 and done.out.startswith(f"training step of {recipe}, batch 20, ")
    assert "train_step: " in done.out and "1 Linear + Adam: matmul" in done.out and " µs " in done.out
    assert not Path("runs").exists()
    found = value(smelt_command("profile", recipe, "--steps", 2, "--batch", 50, "--json").out)
    assert (found["name"], found["wanted_threads"]) == ("train_step", smelt.get_threads())
    assert sum(k["macs"] for k in found["kernels"]) == 50 * (784 * 16 * 2 + 16 * 10 * 3)
    assert all(k["lines"] == [] for k in found["kernels"])  # a recipe is no line of code


def test_inference_of_a_recipe_and_one_thread(smelt_command: Smelt, recipe: Path) -> None:
    found = value(smelt_command("profile", recipe, "--infer", "--steps", 2, "--threads", 1, "--json").out)
    assert (found["name"], found["threads"]) == ("Sequential", 1)
    assert found["target"].startswith("inference of ") and smelt.get_threads() != 0
    assert sum(k["macs"] for k in found["kernels"]) == 20 * (784 * 16 + 16 * 10)


def test_models_of_the_zoo_and_files(smelt_command: Smelt) -> None:
    found = value(smelt_command("profile", "lenet5", "--steps", 2, "--json").out)
    assert found["target"] == "inference of lenet5, batch 1, random numbers"
    assert sum(k["macs"] for k in found["kernels"]) == 416_520
    trained = value(smelt_command("profile", "autoencoder", "--train", "--batch", 4, "--steps", 2, "--json").out)
    assert "with Adam of autoencoder, batch 4" in trained["target"]
    assert sum(k["macs"] for k in trained["kernels"]) > 2 * 4 * 264_192
    smelt.save(nn.Sequential(nn.Linear(4, 3)), "a.smelt")
    assert smelt_command("profile", "a.smelt", "--input", "4", "--train", "--steps", 2).status == 0
    smelt.save(nn.Sequential(nn.Conv2d(1, 2, 3)), "b.smelt")
    assert "expected one row of logits" in smelt_command("profile", "b.smelt", "--input", "1,5,5", "--train").error


def test_files_are_written(smelt_command: Smelt, recipe: Path) -> None:
    files = ("--trace", "t.json", "--stacks", "s.txt", "--roofline", "r.png")
    done = smelt_command("profile", recipe, "--steps", 2, *files)
    assert done.out.splitlines()[-1] == "wrote t.json, s.txt, r.png"
    assert value(Path("t.json").read_text())["traceEvents"]
    assert Path("s.txt").read_text().startswith("train_step;")
    assert Path("r.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="perf is Linux's")
def test_the_perf_map_is_where_perf_looks(smelt_command: Smelt) -> None:
    path = Path(f"/tmp/perf-{os.getpid()}.map")
    try:
        found = value(smelt_command("profile", "lenet_300_100", "--steps", 1, "--perf-map", "--json").out)
        assert found["files"] == [str(path)]
        assert any(line.endswith(" step") for line in path.read_text().splitlines())
    finally:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("nope",), "'nope': no such file, and no network of the zoo"),
        (("nope.toml",), "nope.toml"),
        (("lenet5", "--data", "idx"), "--data belongs to a recipe"),
        (("lenet5", "--input", "1,2"), "expected"),
        (("lenet5", "--roofline", "a.bmp"), "expected a name that ends in .png, .svg or .pdf"),
        (("lenet5", "--trace", "nowhere/a.json"), "no folder 'nowhere', expected one that exists"),
        (("small.toml", "--batch", "1000"), "--batch 1000: expected at most 120, the samples to train with"),
        (("small.toml", "--input", "4"), "a recipe says what its model is"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    smelt_command: Smelt, recipe: Path, arguments: tuple[str, ...], says: str
) -> None:
    assert says in smelt_command("profile", *arguments).error


def test_a_recipe_that_is_not_compiled_has_no_profile(smelt_command: Smelt, recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("epochs = 2", "epochs = 2\ncompile = false"))
    assert "expected a recipe that is compiled" in smelt_command("profile", recipe).error


def test_a_profile_leaves_the_data_of_others_alone(smelt_command: Smelt) -> None:
    x = np.ones((4, 4), np.float32)
    np.savez("a.npz", x=x, y=np.zeros(4, np.int64))
    before = Path("a.npz").read_bytes()
    Path("a.toml").write_text(
        '[model]\nlayers = [{ type = "Linear", in_features = 4, out_features = 2 }]\n'
        '[data]\nname = "npz"\nfile = "a.npz"\n[train]\nbatch_size = 2\n'
    )
    assert smelt_command("profile", "a.toml", "--steps", 1).status == 0
    assert sorted(os.listdir()) == ["a.npz", "a.toml"] and Path("a.npz").read_bytes() == before
