"""``smelt bench``: what is printed, and what is refused."""

from __future__ import annotations

import json

import pytest

from smelt.measure.bench import suite

from .small import Smelt

ONE = ("bench", "train", "--models", "lenet_300_100", "--batch", 4, "--threads", 1, "--rounds", 1)


def test_a_table_with_what_it_depends_on(smelt_command: Smelt, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = suite.installed
    monkeypatch.setattr(suite, "installed", lambda name: installed(name) if name == "smelt" else None)
    done = smelt_command(*ONE)
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert " processors, " in lines[0] and "load " in lines[0]
    assert lines[1].startswith("Python ") and "smelt " in lines[1]
    assert lines[3:5] == [
        "torch is not installed: pip install torch",
        "tensorflow is not installed: pip install tensorflow-cpu",
    ]
    assert lines[6] == "lenet_300_100, batch 4"
    assert lines[7].split() == ["library", "threads", "form", "ms", "quartiles", "of", "Smelt's", "time"]
    assert lines[8].split()[:4] == ["smelt", "1", "compiled", "step"] and lines[8].endswith("1.00")


def test_json_holds_the_same(smelt_command: Smelt) -> None:
    value = json.loads(smelt_command(*ONE, "--peers", "", "--json").out)
    assert value["command"] == "train" and value["rounds"] == 1 and set(value["versions"]) == {"smelt"}
    (comparison,) = value["comparisons"]
    assert (comparison["network"], comparison["batch"], comparison["skipped"]) == ("lenet_300_100", 4, [])
    (result,) = comparison["results"]
    assert result["library"] == "smelt" and 0 < result["low"] == result["median"] == result["high"]


@pytest.mark.parametrize(
    "option, value, said",
    [
        ("--models", "lenet", "--models lenet: no network of the zoo; did you mean 'lenet5'?"),
        ("--peers", "jax", "--peers jax: expected some of torch, tensorflow"),
        ("--threads", "0", "--threads 0: expected numbers from 1 to 64, such as 1,2"),
        ("--threads", "two", "--threads two: expected numbers from 1 to 64"),
    ],
)
def test_what_makes_no_sense_is_refused(smelt_command: Smelt, option: str, value: str, said: str) -> None:
    done = smelt_command("bench", "train", option, value)
    assert done.status == 2 and said in done.error
