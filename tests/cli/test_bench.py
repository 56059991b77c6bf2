"""``smelt bench``: what is printed, and what is refused."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from pathlib import Path

import pytest

import smelt
from smelt.cli import bench_own
from smelt.cli.bench import means, rows, summary
from smelt.cli.bench_own import scaling_tables, stages
from smelt.measure.bench import Comparison, Result, scaling, suite
from smelt.measure.bench.first_call import first_calls
from smelt.measure.bench.stages import STAGES
from smelt.measure.roofline import Ceilings, Level
from smelt.models import MODELS

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
    assert lines[8].split()[:2] == ["smelt", "1"] and lines[8].endswith("1.00")
    assert sorted(" ".join(line.split()[2:-5]) for line in lines[8:10]) == ["Trainer.fit", "compiled step"]


def test_json_holds_the_same(smelt_command: Smelt) -> None:
    value = json.loads(smelt_command("bench", "infer", *ONE, "--peers", "", "--json").out)
    assert value["command"] == "infer" and value["rounds"] == 1 and set(value["versions"]) == {"smelt"}
    (comparison,) = value["comparisons"]
    assert (comparison["network"], comparison["batch"], comparison["skipped"]) == ("lenet_300_100", 4, [])
    (result,) = comparison["results"]
    assert result["library"] == "smelt" and 0 < result["low"] == result["median"] == result["high"]


def test_first_calls_with_an_empty_cache_and_a_full_one(smelt_command: Smelt) -> None:
    done = smelt_command("bench", "compile", "--models", "lenet_300_100", "--batch", 2, "--rounds", 1)
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[1].startswith("import smelt: ")
    body = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[3:]]
    assert [row[0] for row in body[2:]] == ["lenet_300_100, 2"] * 2
    assert [row[1] for row in body] == ["", "-" * 13, "training step", "inference"]
    assert all(re.fullmatch(r"\d+ \(\d+ to \d+\)", cell) for row in body[2:] for cell in row[2:6])
    assert all(re.fullmatch(r"[\d.]+ \([\d.]+ to [\d.]+\)", row[6]) for row in body[2:])


def test_a_first_call_leaves_alone_the_cache_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (call,) = first_calls([("lenet_300_100", 2)], ["infer"], rounds=1)
    assert call.kind == "infer" and call.second.low > 0
    assert 0 < call.empty_compiling.low < call.empty.low and 0 < call.full_compiling.low < call.full.low
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="a first call failed: KeyError: 'none'"):
        list(first_calls([("none", 2)], ["infer"], rounds=1))


def test_a_timeline_of_stages(smelt_command: Smelt, monkeypatch: pytest.MonkeyPatch) -> None:
    some = ["vectorized", "whole step", "bf16"]
    monkeypatch.setattr(suite, "STAGES", {name: STAGES[name] for name in some})
    options = ("--model", "lenet_300_100", "--batch", 2, "--threads", 2, "--rounds", 1)
    value = json.loads(smelt_command("bench", "timeline", *options, "--json").out)
    assert [r["form"] for r in value["results"]] == some and value["skipped"] == []
    assert [r["threads"] for r in value["results"]] == [1, 2, 2]
    assert [r["library"] for r in value["results"]] == ["smelt", "smelt", "smelt bf16"]
    found = Comparison(
        "lenet5", 1, [Result.of("smelt", 1, name, [t]) for name, t in (("a", 8.0), ("b", 4.0), ("c", 1.0))]
    )
    assert [row[2:3] + row[4:] for row in stages(found)] == [
        ("8.00", "1.00", "1.00"),
        ("4.00", "2.00", "2.00"),
        ("1.00", "4.00", "8.00"),
    ]


def test_another_precision_is_measured_beside_float32(smelt_command: Smelt) -> None:
    done = smelt_command("bench", "train", *ONE, "--peers", "", "--precision", "bf16")
    lines = done.out.splitlines()
    assert {line.split("  ")[1].strip() for line in lines[6:10]} == {"smelt", "smelt bf16"}
    assert re.fullmatch(r"  Smelt in bf16 is \d+\.\d\d times as fast as in float32", lines[-1])


def test_ratios_are_against_the_best_peer() -> None:
    made = suite.Suite("infer", [], ())
    for network, ours, theirs in (("lenet5", 1.0, [4.0, 2.0]), ("resnet8", 2.0, [1.0, 3.0])):
        times = zip(("smelt", "litert", "openvino"), (ours, *theirs), strict=True)
        made.comparisons.append(Comparison(network, 1, [Result.of(name, 1, "f", [t]) for name, t in times]))
    assert summary(made) == (
        ["network, batch", "smelt, ms", "litert, ms", "openvino, ms", "ratio to the best peer"],
        [
            ["lenet5, 1", *(f"{t} ({t} to {t}), 1 thread, f" for t in ("1.00", "4.00", "2.00")), "2.00"],
            ["resnet8, 1", *(f"{t} ({t} to {t}), 1 thread, f" for t in ("2.00", "1.00", "3.00")), "0.50"],
        ],
    )
    assert means(made) == ["geometric mean of the ratios: 1.00"]
    made.comparisons[0].batch = 64
    assert means(made) == ["geometric mean of the ratios: 1.00 (batch 1: 0.50, larger: 2.00)"]
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


def test_exported_c_beside_the_compiled_model_and_naive_loops(smelt_command: Smelt) -> None:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    done = smelt_command("bench", "c", "--models", "lenet5", "--rounds", 1, "--json")
    value = json.loads(done.out)
    (comparison,) = value["comparisons"]
    assert (value["command"], comparison["network"], comparison["skipped"]) == ("c", "lenet5", [])
    assert {r["library"] for r in comparison["results"]} == {"smelt", "object", "c", "naive c"}


def test_exported_c_of_the_whole_zoo_unless_networks_are_named(
    smelt_command: Smelt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_own, "exported", lambda network, rounds: Comparison(network, 1))
    for given, expected in (((), list(MODELS)), (("--models", "resnet8,lenet5"), ["resnet8", "lenet5"])):
        value = json.loads(smelt_command("bench", "c", *given, "--json").out)
        assert [c["network"] for c in value["comparisons"]] == expected


def test_what_threads_and_larger_batches_gain(smelt_command: Smelt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "BATCHES", (2, 4))
    monkeypatch.setattr(scaling, "BURST_MS", 1.0)
    monkeypatch.setattr(scaling, "KERNEL_STEPS", 2)
    profiling = importlib.import_module("smelt.measure.profile")  # not the function of that name
    monkeypatch.setattr(profiling, "measured_ceilings", lambda n: Ceilings(n, 1e11, (Level("memory", None, 1e10),)))
    before = smelt.get_threads()
    value = json.loads(smelt_command("bench", "scale", "--model", "lenet_300_100", "--rounds", 1, "--json").out)
    assert smelt.get_threads() == before
    assert (value["command"], value["network"], value["rounds"]) == ("scale", "lenet_300_100", 1)
    assert [k["name"].split()[0] for k in value["kernels"]] == ["matrix", "convolution"]
    assert [(t["threads"], t["batch"]) for t in value["threads"]] == [(n, 256) for n in sorted({1, before})]
    assert value["threads"][0]["gain"]["median"] == 1.0
    assert [b["batch"] for b in value["batches"]] == [2, 4]
    assert 0 < value["batches"][0]["arena_bytes"] < value["batches"][1]["arena_bytes"]


def test_tables_of_scaling() -> None:
    spread = scaling.Spread.of
    found = scaling.Scaling(
        *("lenet5", 2),
        (scaling.KernelRate("matmul", spread([90.0, 94.0]), spread([100.0, 100.0]), spread([0.9, 0.94])),),
        (scaling.ThreadsGain(2, 256, spread([4.0, 4.0]), spread([1.5, 2.0])),),
        (scaling.BatchCost(16, spread([2.0]), 1 << 20),),
        None,
    )
    assert [rows[0] for _, rows in scaling_tables(found)] == [
        ("matmul", "92 (91 to 93)", "100 (100 to 100)", "92 % (91 to 93)"),
        ("2, batch 256", "4.00 (4.00 to 4.00)", "1.75 (1.62 to 1.88)"),
        ("16", "2.00 (2.00 to 2.00)", "1.00", "64.0"),
    ]
