"""Commands that go well: what they print, what they write, and that they can be repeated and resumed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

import smelt
from smelt.cli.folder import RESULTS
from smelt.cli.inspect import fitting

from .small import RECIPE, Smelt, digest, write_idx


def test_a_run_says_what_it_does_and_writes_five_files(smelt_command: Smelt, recipe: Path) -> None:
    done = smelt_command("run", recipe, "--seed", 3)
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines[:6]] == ["recipe", "data", "model", "optimizer", "training", "results"]
    assert "120 to train, 50 to test, 1×28×28 each" in lines[1] and "12,730 parameters, 12,704 MACs" in lines[2]
    assert lines[6].startswith("epoch 1/2  loss ") and "/50" in lines[6] and "lr 0.01" in lines[6]
    assert lines[8].startswith("test: ") and "/50 right" in lines[8]
    folder = Path("runs/small")
    assert sorted(p.name for p in folder.iterdir()) == sorted(RESULTS)
    history = json.loads((folder / "history.json").read_text())
    assert history["test"]["count"] == 50 and history["train"]["seed"] == 3 and len(history["epochs"]) == 2
    assert tomllib.loads((folder / "recipe.toml").read_text())["train"] == {"epochs": 2, "batch_size": 20, "seed": 3}
    rows = list(csv.DictReader((folder / "history.csv").read_text().splitlines()))
    assert [float(r["loss"]) for r in rows] == [e["loss"] for e in history["epochs"]]
    report = (folder / "report.md").read_text()
    assert f"{history['test']['correct']}/50 right" in report and report.count("\n| 1 |") == 1


def test_json_is_all_that_reaches_stdout(smelt_command: Smelt, recipe: Path) -> None:
    done = smelt_command("run", recipe, "--json", "--epochs", 1)
    value = json.loads(done.out)
    assert done.err == "" and value == json.loads(Path("runs/small/history.json").read_text())
    assert set(value["epochs"][0]) >= {"loss", "accuracy", "validation_correct", "validation_count", "lr", "seconds"}


def test_the_copied_recipe_gives_the_same_bytes(smelt_command: Smelt, recipe: Path) -> None:
    smelt_command("run", recipe, "--seed", 5)
    assert smelt_command("run", "runs/small/recipe.toml", "--out", "again").status == 0
    assert Path("again/model.smelt").read_bytes() == Path("runs/small/model.smelt").read_bytes()
    assert smelt_command("run", recipe, "--seed", 5).status == 0  # the same recipe may be run again


def test_data_may_be_named_on_the_command_line_or_by_the_environment(
    smelt_command: Smelt, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_idx(tmp_path / "other", train=60)
    assert "60 to train" in smelt_command("run", recipe, "--data", "other", "--out", "a").out
    recipe.write_text(RECIPE.replace('folder = "idx"\n', ""))
    monkeypatch.setenv("SMELT_DATA", "other")
    assert "60 to train" in smelt_command("run", recipe, "--out", "b").out


def test_the_run_of_another_recipe_is_not_overwritten(smelt_command: Smelt, recipe: Path) -> None:
    smelt_command("run", recipe)
    before = digest(Path("runs"))
    assert "holds a finished run of another recipe" in smelt_command("run", recipe, "--seed", 1).error
    assert digest(Path("runs")) == before
    assert smelt_command("run", recipe, "--seed", 1, "--force").status == 0
    assert digest(Path("runs")) != before
    Path("mine").mkdir()
    Path("mine/model.smelt").write_text("precious")
    assert "no run wrote it" in smelt_command("run", recipe, "--out", "mine").error
    assert Path("mine/model.smelt").read_text() == "precious"
    Path("file").write_text("")
    assert "not a folder" in smelt_command("run", recipe, "--out", "file").error


def test_resume_needs_something_to_resume(smelt_command: Smelt, recipe: Path) -> None:
    assert "no checkpoint of this recipe" in smelt_command("run", recipe, "--resume").error
    assert not Path("runs").exists()
    smelt_command("run", recipe)
    assert "the run is finished" in smelt_command("run", recipe, "--resume").error


def test_an_interrupted_run_says_so_and_resumes_to_the_same_bytes(smelt_command: Smelt, recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("epochs = 2", "epochs = 100\ncheckpoint_every = 7"))
    command = [sys.executable, "-m", "smelt", "run", str(recipe), "--out", "broken"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch"):
            break
    time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "smelt: interrupted; broken holds a checkpoint: go on with --resume"
    assert sorted(os.listdir("broken")) == ["checkpoints", "unfinished.toml"]
    assert "unfinished run of another recipe" in smelt_command("run", recipe, "--out", "broken", "--seed", 9).error
    before = digest(Path("broken"))
    assert "expected --resume to go on with it" in smelt_command("run", recipe, "--out", "broken").error
    assert digest(Path("broken")) == before
    assert smelt_command("run", recipe, "--out", "broken", "--resume").status == 0
    assert smelt_command("run", recipe, "--out", "whole").status == 0
    assert Path("broken/model.smelt").read_bytes() == Path("whole/model.smelt").read_bytes()


def test_train_is_a_recipe_given_as_options(smelt_command: Smelt, tmp_path: Path) -> None:
    write_idx(tmp_path / "idx")
    done = smelt_command(
        *("train", "--model", "lenet_300_100", "--data", "idx", "--epochs", 2, "--batch-size", 30, "--lr", 0.01),
        *("--set", "schedule.name=cosine", "--set", "schedule.t_max=2", "--set", "data.validation_fraction=0.25"),
    )
    assert (done.status, done.err) == (0, "") and "90 to train, 30 to validate, 50 to test" in done.out
    text = Path("runs/lenet_300_100-mnist/recipe.toml").read_text()
    assert tomllib.loads(text)["schedule"] == {"name": "cosine", "t_max": 2}
    assert smelt_command("run", "runs/lenet_300_100-mnist/recipe.toml", "--out", "again").status == 0
    assert Path("again/model.smelt").read_bytes() == Path("runs/lenet_300_100-mnist/model.smelt").read_bytes()


def test_early_stopping(smelt_command: Smelt, recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("epochs = 2", "epochs = 50\nearly_stopping = 1").replace("0.01", "0.0"))
    done = smelt_command("run", recipe, "--json")
    assert len(json.loads(done.out)["epochs"]) == 2


def test_eval_counts_what_the_run_counted(smelt_command: Smelt, recipe: Path, tmp_path: Path) -> None:
    told = json.loads(smelt_command("run", recipe, "--json").out)["test"]
    model = Path("runs/small/model.smelt")
    for arguments in ((), ("--data", tmp_path / "idx"), ("--batch-size", 7)):
        found = json.loads(smelt_command("eval", model, "--json", *arguments).out)
        assert (found["correct"], found["count"]) == (told["correct"], told["count"])
        assert found["loss"] == pytest.approx(told["loss"], rel=1e-5)
    assert f"{told['correct']}/50 right" in smelt_command("eval", model).out
    model.rename("alone.smelt")
    assert "expected --data" in smelt_command("eval", "alone.smelt").error
    assert json.loads(smelt_command("eval", "alone.smelt", "--json", "--data", "idx").out)["correct"] == told["correct"]


def test_summary_of_the_zoo_and_of_a_file(smelt_command: Smelt) -> None:
    assert "total" in smelt_command("summary", "mnist_cnn").out
    value = json.loads(smelt_command("summary", "mobilenet_v2", "--json").out)
    assert (value["parameters"], value["macs"]) == (3_504_872, 300_774_272)
    half = json.loads(smelt_command("summary", "mobilenet_v2", "--json", "--option", "width=0.5").out)
    assert half["parameters"] < value["parameters"]
    smelt.save(smelt.nn.Linear(4, 2), "a.smelt")
    folded = json.loads(smelt_command("summary", "ds_cnn", "--folded", "--json").out)
    assert (folded["parameters"], folded["macs"], folded["folded"]) == (22_604, 2_656_768, 9)
    assert folded["peak_bytes"] > 0 and folded["rows"][0]["receptive_field"] == [10, 4]
    assert "expected --input" in smelt_command("summary", "a.smelt").error
    assert "10 in 40 bytes" in smelt_command("summary", "a.smelt", "--input", "4").out
    smelt.save(smelt.nn.Linear(4, 2), "b.smelt", {"input_shape": [4]})
    assert "1×2" in smelt_command("summary", "b.smelt").out


@pytest.mark.parametrize(
    "width, without",
    [(200, []), (100, []), (90, ["bytes"]), (80, ["bytes", "FLOPs"]), (60, ["bytes", "FLOPs", "field"])],
)
def test_a_summary_leaves_out_columns_that_do_not_fit(width: int, without: list[str]) -> None:
    counted = smelt.summary(smelt.models.lenet5(), (1, 28, 28), plan=False)
    (head, body, total), left_out = fitting(counted, width)
    assert left_out == without and not set(head) & set(without)
    assert all(len(row) == len(head) == len(total) for row in body)
    assert total[head.index("params")] == "61,706" and total[head.index("MACs")] == "416,520"


def test_doctor_gives_every_figure_a_unit(smelt_command: Smelt) -> None:
    done = smelt_command("doctor")
    assert done.status == 0 and "GFLOP/s" in done.out and "GB/s" in done.out and "SIMD" in done.out
    value = json.loads(smelt_command("doctor", "--json").out)
    assert value["peak_gflops_one_thread"] > 0.1 and value["threads"] == smelt.get_threads()


def test_help_and_version(smelt_command: Smelt) -> None:
    assert smelt_command("--version").out.strip() == f"smelt, version {smelt.__version__}"
    for name in ("run", "train", "eval", "summary", "doctor"):
        assert name in smelt_command("--help").out and "--json" in smelt_command(name, "--help").out


def test_importing_is_quick_and_lazy() -> None:
    slow = ("llvmlite", "rich", "sklearn", "PIL")
    code = f"import sys, smelt, smelt.cli.main; print(*(m for m in {slow} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_closed_pipe_ends_quietly() -> None:
    command = f"{sys.executable} -m smelt summary mobilenet_v2 | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.startswith("layer") and done.stderr == ""
