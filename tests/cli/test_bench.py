"""``smelt bench``: what is printed, and what is refused."""

from __future__ import annotations

import json

import pytest

from smelt.cli.bench import ratios, rows
from smelt.measure.bench import Comparison, Result, suite

from .small import Smelt

ONE = ("--models", "lenet_300_100", "--batch", 4, "--threads", 1, "--rounds", 1)


def test_a_table_with_what_it_depends_on(smelt_command: Smelt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "missing", lambda peer: list(suite.PACKAGES[peer].values()))
    done = smelt_command("bench", "train", *ONE)
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert " processors, " in lines[0] and "load " in lines[0]
    assert lines[1].startswith("Python ") and "smelt " in lines[1]
    assert lines[3:5] == [
        "torch is left out, not installed: pip install torch",
        "tensorflow is left out, not installed: pip install tensorflow-cpu keras",
    ]
    assert lines[6] == "lenet_300_100, batch 4"
    assert lines[7].split() == ["library", "threads", "form", "ms", "quartiles", "of", "Smelt's"]
    assert lines[8].split()[:4] == ["smelt", "1", "compiled", "step"] and lines[8].endswith("1.00")


def test_json_holds_the_same(smelt_command: Smelt) -> None:
    value = json.loads(smelt_command("bench", "infer", *ONE, "--peers", "", "--json").out)
    assert value["command"] == "infer" and value["rounds"] == 1 and set(value["versions"]) == {"smelt"}
    (comparison,) = value["comparisons"]
    assert (comparison["network"], comparison["batch"], comparison["skipped"]) == ("lenet_300_100", 4, [])
    (result,) = comparison["results"]
    assert result["library"] == "smelt" and 0 < result["low"] == result["median"] == result["high"]


def test_ratios_are_against_the_best_peer() -> None:
    made = suite.Suite("infer", [], ())
    for network, ours, theirs in (("lenet5", 1.0, [4.0, 2.0]), ("resnet8", 2.0, [1.0, 3.0])):
        times = zip(("smelt", "litert", "openvino"), (ours, *theirs), strict=True)
        made.comparisons.append(Comparison(network, 1, [Result.of(name, 1, "f", [t]) for name, t in times]))
    assert ratios(made) == [
        "lenet5, batch 1: 2.00 times as fast as openvino",
        "resnet8, batch 1: 0.50 times as fast as litert",
        "geometric mean: 1.00 times as fast as the best peer",
    ]
    assert [row[:4] for row in rows(made.comparisons[1])] == [
        ("litert", "1", "f", "1.00"),
        ("smelt", "1", "f", "2.00"),
        ("openvino", "1", "f", "3.00"),
    ]


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
