"""Profiles: all that ran is there, it adds up, and what is written can be read. No times are asserted."""

from __future__ import annotations

import ctypes
import itertools
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import smelt
from smelt import data, nn, optim
from smelt.compiler import jit
from smelt.compiler.isa import host
from smelt.measure import Profile, perf_map, picture, profile, profile_training, roofline, trace
from smelt.measure.roofline import Ceilings, Level
from smelt.runtime.step import Compiled

module = sys.modules["smelt.measure.profile"]  # the name is the function's
MACHINE = Ceilings(2, 200e9, (Level("L2", 2 << 20, 400e9), Level("L3", 32 << 20, 200e9), Level("memory", None, 50e9)))
X, Y = np.random.default_rng(0).normal(size=(20, 1, 8, 8)).astype(np.float32), np.arange(20) % 10


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "measured_ceilings", lambda threads: MACHINE)
    smelt.set_threads(2)
    yield
    smelt.set_threads(None)


def training() -> Compiled:
    smelt.seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    optimizer = optim.Adam(model.parameters())

    @smelt.compile
    def step(x: smelt.Tensor, y: smelt.Tensor) -> smelt.Tensor:
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def found() -> Profile:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "measured_ceilings", lambda threads: MACHINE)
        smelt.set_threads(2)
        return profile(training(), X, Y, steps=7)


def test_every_kernel_and_phase_is_there(found: Profile) -> None:
    lowered = training()
    lowered(X, Y)
    expected = lowered.lowered()
    assert [k.name for k in found.kernels] == [k.name for k in expected.kernels]
    assert [p.kernels for p in found.phases] == [len(p) for p in expected.phases]
    assert [k.phase for k in found.kernels] == [i for i, p in enumerate(expected.phases) for _ in p]
    assert sum(k.macs for k in found.kernels) == expected.graph.macs
    assert (found.name, found.wanted_threads) == ("step", 2)
    assert found.timeline.shape == (found.steps, found.threads, len(found.kernels) + len(found.phases))
    assert 1 <= found.steps <= 7 and found.threads <= 2


def test_times_add_up(found: Profile) -> None:
    spans = np.diff(found.timeline, axis=2)
    assert (spans >= 0).all() and found.timeline.min() == 0
    for k in found.kernels:
        assert k.microseconds == max(k.thread_microseconds) and len(k.thread_microseconds) == found.threads
        assert k.share == pytest.approx(k.microseconds / found.step_microseconds)
        if k.microseconds:
            assert k.gflops == pytest.approx(k.flops / k.microseconds / 1e3)
            assert k.gb_per_s == pytest.approx(k.bytes / k.microseconds / 1e3)
    assert found.waiting_microseconds == pytest.approx(sum(np.mean(p.waiting_microseconds) for p in found.phases))
    assert found.call_microseconds > 0 and found.step_microseconds > 0
    layers = found.by_layer()
    assert sum(us for us, _ in layers.values()) == pytest.approx(sum(k.microseconds for k in found.kernels))
    assert sum(count for _, count in layers.values()) == len(found.kernels)


def test_a_kernel_knows_its_layers_and_lines(found: Profile) -> None:
    update = next(k for k in found.kernels if "conv2d_weight_grad" in k.operations)
    assert update.layers == ("0 Conv2d", "Adam") and update.bound in ("compute", "memory", "latency")
    assert [line.partition(": ")[2] for line in update.lines] == ["loss.backward()", "optimizer.step()"]
    assert all(line.startswith("test_profile.py:") for line in update.lines)
    text = str(found)
    assert "0 Conv2d + Adam: conv2d_weight_grad" in text and "loss.backward()  [" in text
    assert len(text.splitlines()) < 60


def test_the_profiled_step_trains_as_ever() -> None:
    step, same = training(), training()
    profile(step, X, Y, steps=4)
    for _ in range(1 + 4 + 5):
        value = same(X, Y).item()
    assert step(X, Y).item() == same(X, Y).item() != value


def test_one_thread_waits_for_nobody() -> None:
    smelt.set_threads(1)
    alone = profile(smelt.compile(lambda x: (x * 2.0).sum()), X, steps=3)
    assert alone.threads == 1 and "waits for others" not in str(alone) and "1 thread," in str(alone)


def test_a_ceiling_that_was_measured_too_low_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = smelt.Parameter(np.ones((64, 64), np.float32))
    low = Ceilings(2, 1e6, (Level("memory", None, 1e12),))
    monkeypatch.setattr(module, "measured_ceilings", lambda threads: low)
    text = str(profile(smelt.compile(lambda x: x @ weight), np.ones((64, 64), np.float32), steps=3))
    assert "warning: kernels are above the ceiling of arithmetic" in text


def test_a_function_without_kernels_has_a_profile() -> None:
    nothing = profile(smelt.compile(lambda x: x.shape[1]), X, steps=2)
    assert nothing.kernels == () and str(nothing)


def test_training_waits_for_slow_data() -> None:
    def slow(x: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        time.sleep(0.01)
        return x

    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    trainer = smelt.Trainer(model, nn.CrossEntropyLoss(), optim.SGD(lr=0.1))
    before = model[1].weight.numpy().copy()
    held_up = profile_training(trainer, data.ArrayDataset(X, Y), batch_size=4, steps=3, augment=slow)
    assert held_up.stall_microseconds is not None and held_up.fit_microseconds is not None
    assert 1000 < held_up.stall_microseconds <= held_up.fit_microseconds
    assert "waiting for data" in str(held_up) and held_up.to_dict()["stall_microseconds"] > 0
    assert (model[1].weight.numpy() != before).any()
    eager = smelt.Trainer(model, nn.CrossEntropyLoss(), optim.SGD(lr=0.1), compile=False)
    with pytest.raises(ValueError, match="compile=True"):
        profile_training(eager, data.ArrayDataset(X, Y), batch_size=4)


def test_threads_that_slept_take_no_part() -> None:
    stamps = np.array([[[5, 9], [6, 8]], [[15, 19], [0, 0]], [[25, 29], [26, 28]]], np.int64)
    kept, ran = module._took_part(stamps)
    assert kept.tolist() == stamps[[0, 2]].tolist() and ran.tolist() == [True, False, True]
    alone, _ = module._took_part(stamps[[1, 1, 0]])
    assert alone.tolist() == [[[15, 19]], [[15, 19]]]


@pytest.mark.parametrize("batch", [1, 70])
def test_inference_shares_a_sample_and_works_apart_on_a_batch(batch: int) -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
    fast = model.compile()
    x = np.ones((batch, 1, 8, 8), np.float32)
    result = fast(x).numpy()
    found = profile(fast, x, steps=5)
    assert np.array_equal(fast(x).numpy(), result)
    assert sum(k.macs for k in found.kernels) == batch * (8 * 9 * 64 + 5120)
    assert sum(k.flops for k in found.kernels if k.macs) >= 2 * batch * (8 * 9 * 64 + 5120)
    conv = next(k for k in found.kernels if "conv2d" in k.operations)
    assert conv.layers == ("0 Conv2d", "2 ReLU") and conv.operations == "conv2d + add + relu"
    apart = batch > 1
    assert bool(found.slice_rows) == apart == ("work apart" in str(found))
    assert found.timeline.shape[2] == len(found.segments) + 1
    assert [s.kernel is None for s in found.segments].count(True) == (0 if apart else len(found.phases) - 1)
    assert (np.diff(found.timeline, axis=2) >= 0).all()
    starts = found.timeline[:, :, 0].min(axis=1)
    assert (np.diff(starts) > 0).all()
    assert len(trace.chrome_trace(found)["traceEvents"]) > found.steps * len(found.kernels)


def test_json_has_it_all(found: Profile) -> None:
    value = json.loads(json.dumps(found.to_dict()))
    assert len(value["kernels"]) == len(found.kernels) and value["ceilings"]["gflops"] == 200.0
    assert {"timeline", "code", "segments"}.isdisjoint(value)


# --- ceilings ------------------------------------------------------------------------------------------------------


def test_bounds() -> None:
    assert MACHINE.place(1e-3, 150_000_000, [], 2) == ("compute", 0.75, "L2")
    assert MACHINE.place(1e-3, 75_000_000, [], 1)[:2] == ("compute", 0.75)  # one thread's ceiling
    assert MACHINE.place(1e-3, 0, [(100_000_000, 5 << 20)], 2) == ("memory", 0.5, "L3")
    assert MACHINE.place(1e-3, 0, [(40_000_000, 31 << 20)], 2) == ("memory", 0.8, "memory")
    assert MACHINE.place(1e-3, 100_000, [(1000, 100)], 2).bound == "latency"
    fast = Ceilings(2, 200e9, MACHINE.levels, 400e9)  # a third of the operations at twice the rate
    assert fast.place(1e-3, 150_000_000, [], 2, paired=50_000_000) == ("compute", 0.625, "L2")
    assert MACHINE.place(0.0, 0, [], 2) == ("latency", 0.0, "L2")


def test_ceilings_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "peak_flops", lambda threads, paired=False: 1e9 * threads * (1 + paired))
    monkeypatch.setattr(roofline, "bandwidth", lambda threads, last: float(last))
    monkeypatch.setattr(roofline, "cache_bandwidth", lambda threads, size: float(size))
    caches = [
        {"level": 1, "kind": "data", "bytes": 32 << 10, "shared_by": 1},
        {"level": 2, "kind": "unified", "bytes": 1 << 20, "shared_by": 1},
        {"level": 3, "kind": "unified", "bytes": 8 << 20, "shared_by": 2},
    ]
    monkeypatch.setattr(roofline, "caches", lambda: caches)
    roofline.measured_ceilings.cache_clear()
    try:
        got = roofline.measured_ceilings(3)
        assert got.flops == 3e9 and got.paired_flops == (6e9 if host().bf16 else None)
        assert roofline.measured_ceilings(3) is got
        assert [(v.name, v.bytes) for v in got.levels] == [("L2", 3 << 20), ("L3", 16 << 20), ("memory", None)]
        assert [got.level(n).name for n in (1 << 20, 10 << 20, 1 << 30)] == ["L2", "L3", "memory"]
    finally:
        roofline.measured_ceilings.cache_clear()


# --- files ---------------------------------------------------------------------------------------------------------


def test_the_chrome_trace_shows_every_kernel_on_every_thread(found: Profile, tmp_path: Path) -> None:
    found.save_trace(tmp_path / "a.json")
    events = json.loads((tmp_path / "a.json").read_text())["traceEvents"]
    assert {e["ph"] for e in events} == {"M", "X"}
    spans = [e for e in events if e["ph"] == "X"]
    assert all(e["dur"] >= 0 and e["ts"] >= 0 for e in spans)
    for thread in range(found.threads):
        mine = [e for e in spans if e["tid"] == thread]
        assert sum(e["cat"] == "step" for e in mine) == found.steps
        assert sum(e["cat"] == "kernel" for e in mine) == found.steps * len(found.kernels)
        assert sum(e["cat"] == "barrier" for e in mine) == found.steps * (len(found.phases) - 1)
    kernel = next(e for e in spans if e["cat"] == "kernel" and e["args"]["flops"])
    step = next(e for e in spans if e["cat"] == "step" and e["tid"] == kernel["tid"])
    assert step["ts"] <= kernel["ts"] and kernel["ts"] + kernel["dur"] <= step["ts"] + step["dur"] + 1e-6


def test_stacks_are_those_of_flame_graphs(found: Profile, tmp_path: Path) -> None:
    found.save_stacks(tmp_path / "a.txt")
    lines = (tmp_path / "a.txt").read_text().splitlines()
    assert len(lines) == len(found.kernels) + (len(found.phases) if found.threads > 1 else 0)
    assert all(re.fullmatch(r"step(;[^; ][^;]*)+ \d+", line) for line in lines)
    assert any(line.startswith("step;0;Conv2d;k") for line in lines)
    assert trace.collapsed_stacks(found) == (tmp_path / "a.txt").read_text()


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_roofline_is_drawn(found: Profile, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    found.save_roofline(path)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG" if ending == "png" else b"<?xml") and len(data) > 10_000
    if ending == "svg":
        assert data.count(b"GB/s") == 3


def test_without_matplotlib_the_error_says_what_to_install(found: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install smelt\[plot\]"):
        picture.draw(found, "never.png")


@pytest.mark.skipif("linux" not in host().triple, reason="perf is Linux's")
def test_the_perf_map_names_every_function(found: Profile, tmp_path: Path) -> None:
    path = found.save_perf_map(tmp_path / "perf.map")
    rows = [(int(a, 16), int(n, 16), name) for a, n, name in (r.split(" ", 2) for r in path.read_text().splitlines())]
    steps = {code.address["step"] for code in found.code[:2]}  # with time stamps and without
    assert len(steps) == 2 and {a for a, _, name in rows if name == "step"} == steps
    ends = sorted((a, a + n) for a, n, _ in rows)
    assert all(a < z for a, z in ends) and all(z <= a for (_, z), (a, _) in itertools.pairwise(ends))
    kernels = {name for _, _, name in rows if re.match(r"k\d", name)}
    assert {"barrier", "worker"} <= {name for _, _, name in rows} and kernels
    assert kernels <= {k.name for k in found.kernels}  # equal kernels share a function


@pytest.mark.skipif("linux" not in host().triple, reason="perf is Linux's")
def test_an_address_in_the_perf_map_is_that_functions() -> None:
    text = (
        f'target triple = "{host().triple}"\n'
        "define internal i64 @seven() noinline {\n  ret i64 7\n}\n"
        "define internal i64 @eight() noinline {\n  ret i64 8\n}\n"
        "define i64 @fifteen() {\n  %a = call i64 @seven()\n  %b = call i64 @eight()\n"
        "  %c = add i64 %a, %b\n  ret i64 %c\n}\n"
    )
    library = jit.Library(jit.compile_object(text, host()), ("fifteen",))
    calls = {name: ctypes.CFUNCTYPE(ctypes.c_int64)(at)() for at, _, name in perf_map.symbols(library)}
    assert calls == {"seven": 7, "eight": 8, "fifteen": 15}


def test_other_objects_are_refused() -> None:
    library = jit.Library.__new__(jit.Library)
    library.address, library.image = {"step": 0}, b"\xcf\xfa\xed\xfe" + bytes(100)
    with pytest.raises(OSError, match="ELF"):
        perf_map.symbols(library)
