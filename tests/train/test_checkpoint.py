"""Checkpoints: a run stopped anywhere and resumed ends with the bytes of one that was not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import smelt
from smelt import data, files, optim, train
from smelt.errors import FileError
from smelt.train.checkpoint import Checkpoints

from . import kill_resume
from .making import Killed, StopAt, everything, images, make

EPOCHS = 3  # of 6 steps: 5 batches of 16 and one of 10


def fit(trainer: smelt.Trainer, folder: Path, *callbacks: train.Callback, **options: Any) -> train.History:
    settings = {
        "epochs": EPOCHS,
        "batch_size": 16,
        "validation": images(40, 1),
        "seed": 7,
        "augment": data.augment.RandomCrop(1),
        "checkpoint": folder,
        "checkpoint_every": 1,
        "resume": True,
        "progress": False,
        "callbacks": [train.EarlyStopping(patience=None), *callbacks],
        **options,
    }
    return trainer.fit(images(), **settings)


CASES = {
    "mlp adam cosine": {},
    "mlp sgd per step": {"optimizer": "sgd", "schedule": "onecycle"},
    "dropout batch-norm": {"model": "dropout_cnn"},
    "eager": {"model": "dropout_cnn", "compile": False},
}


@pytest.mark.parametrize("case", CASES)
def test_resumed_runs_end_with_the_same_bytes(case: str, tmp_path: Path) -> None:
    """Stopped after the first step, mid-epoch, before the ragged batch, at an epoch's end, at the last step."""
    options: dict[str, Any] = CASES[case]
    whole = make(**options)
    fit(whole, tmp_path / "whole")
    expected = everything(whole)
    for stop in (1, 4, 5, 6, 11, 12, 15, 18):
        folder = tmp_path / f"{stop}"
        with pytest.raises(Killed):
            fit(make(**options), folder, StopAt(stop))
        # From the second step on there is a checkpoint, which replaces all of the weights.
        resumed = make(**options, seed=99 if stop > 1 else 0)
        fit(resumed, folder)
        assert everything(resumed) == expected, stop
        if resumed.compiled:
            assert resumed.steps.train.traces == 1


def test_stopped_twice_and_checkpoints_far_apart(tmp_path: Path) -> None:
    whole = make("dropout_cnn")
    fit(whole, tmp_path / "whole", checkpoint_every=None)
    for stop in (8, 13, 14):
        with pytest.raises(Killed):
            fit(make("dropout_cnn"), tmp_path / "cut", StopAt(stop), checkpoint_every=4)
    resumed = make("dropout_cnn")
    fit(resumed, tmp_path / "cut", checkpoint_every=4)
    assert everything(resumed) == everything(whole)


def test_a_finished_run_is_only_read_and_can_be_prolonged(tmp_path: Path) -> None:
    first = make("dropout_cnn")
    fit(first, tmp_path / "a")
    before = sorted(os.listdir(tmp_path / "a"))
    again = make("dropout_cnn")
    fit(again, tmp_path / "a")
    assert everything(again) == everything(first) and sorted(os.listdir(tmp_path / "a")) == before
    fit(again, tmp_path / "a", epochs=5)
    whole = make("dropout_cnn")
    fit(whole, tmp_path / "b", epochs=5)
    assert everything(again) == everything(whole)


def test_early_stopping_resumes_with_its_counters(tmp_path: Path) -> None:
    def run(folder: str, *callbacks: train.Callback) -> tuple[smelt.Trainer, train.EarlyStopping]:
        trainer = make("mlp", optimizer="sgd", schedule="none")
        trainer.optimizer.lr = 2.0
        stopping = train.EarlyStopping(patience=3)
        fit(trainer, tmp_path / folder, epochs=30, callbacks=[stopping, *callbacks])
        return trainer, stopping

    whole, stopping = run("whole")
    assert len(whole.history) < 30
    last = 6 * len(whole.history)
    for stop in (last - 2, last - 10, last):
        with pytest.raises(Killed):
            run(f"{stop}", StopAt(stop))
        resumed, again = run(f"{stop}")
        assert everything(resumed) == everything(whole)
        assert (again.best, again.best_epoch, again.waited) == (stopping.best, stopping.best_epoch, stopping.waited)


def test_killed_processes(tmp_path: Path) -> None:
    """As ``python tests/train/kill_resume.py 20``, with fewer."""
    assert kill_resume.main(4) >= 3


# --- the folder ------------------------------------------------------------------------------------------------------


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    fit(make(), tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["step-000000017.checkpoint", "step-000000018.checkpoint"]
    fit(make(), tmp_path / "four", checkpoint_keep=4)
    assert len(os.listdir(tmp_path / "four")) == 4


def test_what_a_kill_kept_from_being_removed_goes_on_resuming(tmp_path: Path) -> None:
    fit(make(), tmp_path, checkpoint_keep=3)
    assert len(os.listdir(tmp_path)) == 3
    fit(make(), tmp_path)
    assert len(os.listdir(tmp_path)) == 2


def test_half_written_files_are_removed_and_others_left(tmp_path: Path) -> None:
    ours = tmp_path / ".step-000000003.checkpoint.999999999-0123abcd.tmp"
    other = tmp_path / f".step-000000003.checkpoint.{os.getppid()}-0123abcd.tmp"
    for path in (ours, other, tmp_path / "notes.tmp"):
        path.write_bytes(b"x")
    Checkpoints(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([other.name, "notes.tmp"])


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-7], "empty": b"", "flipped": content[:-1] + bytes([content[-1] ^ 1])}[how])


@pytest.mark.parametrize("how", ["cut", "empty", "flipped"])
def test_a_damaged_checkpoint_is_passed_over(how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = make()
    fit(whole, tmp_path / "whole")
    with pytest.raises(Killed):
        fit(make(), tmp_path / "cut", StopAt(9))
    damage(tmp_path / "cut" / "step-000000008.checkpoint", how)
    resumed = make()
    fit(resumed, tmp_path / "cut")
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1 and warnings[0].startswith("smelt: checkpoint passed over: ")
    assert "step-000000008.checkpoint" in warnings[0]
    assert everything(resumed) == everything(whole)
    assert len(os.listdir(tmp_path / "cut")) == 2


def test_no_good_checkpoint_left(tmp_path: Path) -> None:
    fit(make(), tmp_path)
    for path in tmp_path.iterdir():
        damage(path, "cut")
    with pytest.raises(FileError, match="none of its 2 checkpoints can be read"):
        fit(make(), tmp_path)


def test_an_earlier_run_is_not_overwritten(tmp_path: Path) -> None:
    fit(make(), tmp_path)
    with pytest.raises(FileError, match="holds checkpoints of an earlier run: expected resume=True"):
        fit(make(), tmp_path, resume=False)
    with pytest.raises(FileError, match="No such file or directory"):
        fit(make(), tmp_path / "a" / "b")


@pytest.mark.parametrize(
    ("change", "options", "text"),
    [
        ({"optimizer": "sgd"}, {}, "optimizer Adam"),
        ({"schedule": "none"}, {}, "schedule CosineAnnealing"),
        ({"model": "dropout_cnn"}, {}, "another run"),
        ({}, {"seed": 8}, "seed 7, expected 8"),
        ({}, {"batch_size": 15}, "batch_size 16, expected 15"),
        ({}, {"callbacks": []}, "callbacks EarlyStopping, this run has none"),
    ],
)
def test_a_checkpoint_of_another_run(
    change: dict[str, str], options: dict[str, Any], text: str, tmp_path: Path
) -> None:
    fit(make(), tmp_path)
    with pytest.raises(FileError, match=text) as e:
        fit(make(**change), tmp_path, **options)
    assert "\n" not in str(e.value)


def test_a_disk_that_is_full_leaves_the_checkpoints_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Killed):
        fit(make(), tmp_path, StopAt(5))
    before = sorted(os.listdir(tmp_path))

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(FileError, match="No space left on device"):
            fit(make(), tmp_path)
    assert sorted(os.listdir(tmp_path)) == before
    whole, resumed = make(), make()
    fit(whole, tmp_path / "whole")
    fit(resumed, tmp_path)
    assert everything(resumed) == everything(whole)


def test_the_model_file_of_a_resumed_run_has_the_same_bytes(tmp_path: Path) -> None:
    for name, stop in (("whole", None), ("cut", 10)):
        if stop:
            with pytest.raises(Killed):
                fit(make("dropout_cnn"), tmp_path / name, StopAt(stop))
        trainer = make("dropout_cnn")
        fit(trainer, tmp_path / name)
        smelt.save(trainer.model, tmp_path / f"{name}.smelt", extra={"loss": trainer.history[-1].loss})
    assert (tmp_path / "whole.smelt").read_bytes() == (tmp_path / "cut.smelt").read_bytes()


def test_an_arbitrary_file_as_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files.write(tmp_path / "step-000000004.checkpoint", "checkpoint", {"step": 1}, {"w": np.zeros(2)})
    with pytest.raises(FileError, match="the checkpoint is of another run"):
        fit(make(), tmp_path)


MakeCallback = Callable[[Path], train.Callback]


@pytest.mark.parametrize("log", [train.CSVLog, train.JSONLLog])
def test_logs_hold_each_epoch_once(log: MakeCallback, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with pytest.raises(Killed):
        fit(make(), tmp_path / "cut", log(path), StopAt(15), checkpoint_every=8)  # resumes from step 8, in epoch 2
    with open(path, "ab") as file:
        file.write(b"torn li")
    resumed = make()
    fit(resumed, tmp_path / "cut", log(path), checkpoint_every=8)
    lines = path.read_text().splitlines()
    if log is train.CSVLog:
        assert lines[0].startswith("epoch,lr,loss,accuracy,validation_loss")
        assert [line.split(",")[0] for line in lines[1:]] == ["1", "2", "3"]
        assert [float(line.split(",")[2]) for line in lines[1:]] == resumed.history.loss
    else:
        import json

        assert [json.loads(line) for line in lines] == resumed.history.to_dicts()


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be written"):
        fit(make(), tmp_path / "c", train.CSVLog(tmp_path / "none" / "log.csv"))


def test_other_data_are_another_run(tmp_path: Path) -> None:
    fit(make(), tmp_path)
    other = make()
    with pytest.raises(FileError, match=r"data 90 samples of .* with CRC .*, this run has 90 samples"):
        other.fit(images(seed=1), 3, 16, seed=7, checkpoint=tmp_path, resume=True, callbacks=[train.EarlyStopping()])


def test_schedules_and_groups_are_part_of_a_run(tmp_path: Path) -> None:
    fit(make(), tmp_path)
    trainer = make()
    slow = optim.Adam(lr=3e-3, weight_decay=1e-4).bind([{"params": trainer.model.parameters(), "lr": 1e-3}])
    other = smelt.Trainer(trainer.model, trainer.loss, slow, optim.CosineAnnealing(t_max=20, min_lr=1e-5))
    with pytest.raises(FileError, match="optimizer"):
        fit(other, tmp_path)
