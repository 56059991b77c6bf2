"""Exported networks measured on this machine: code, stack, and instructions, which two ways of counting agree on."""

from __future__ import annotations

import functools
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import smelt
from smelt import nn
from smelt.export.c99.host import object_file
from smelt.export.elf.export import ObjectExport
from smelt.export.here import measure, measure_emulated
from smelt.export.here.counts import by_counter, by_emulator, by_steps, read_number
from smelt.export.here.measure import build
from smelt.export.targets import TARGETS, kind_of_machine
from smelt.export.tools import missing

from .compilers import need

KIND = kind_of_machine() or ""
pytestmark = pytest.mark.skipif(sys.platform != "linux" or not KIND, reason="a program for Linux on x86-64 or AArch64")
EMULATOR = TARGETS[KIND].emulator if KIND else ""


class Product(nn.Module):
    """The product of two inputs."""

    def forward(self, a: smelt.Tensor, b: smelt.Tensor) -> smelt.Tensor:
        return a * b


@functools.cache
def scaled(size: int) -> ObjectExport:
    """Return a network of one loop over so many elements, for what QEMU knows."""
    return smelt.export.object(nn.ReLU(), None, (size,), target=KIND)


def built(made: ObjectExport, folder: Path, size: int) -> Path:
    need("cc")
    folder.mkdir()
    build(folder, made, made.files["network.o"], [np.ones((1, size), np.float32)])
    return folder


def stepped(folder: Path) -> int:
    """Return the number of single steps, or skip the test where none are allowed."""
    count = by_steps(folder, 60)
    if count is None:
        pytest.skip("programs cannot be run in single steps here")
    return count


def test_a_loop_twice_as_long_takes_twice_the_instructions(tmp_path: Path) -> None:
    one, two, three = (stepped(built(scaled(size), tmp_path / str(size), size)) for size in (1024, 2048, 3072))
    assert three - two == two - one >= 3 * 1024 * 4 // TARGETS[KIND].isa.vector_bytes / 4  # a block loads and stores
    assert stepped(tmp_path / "1024") == one


def test_one_product_takes_the_instructions_that_it_must(tmp_path: Path) -> None:
    """Two loads, a product (which may be one with a load), a store and the return."""
    need("cc")
    made = smelt.export.c(Product(), None, {"a": (1,), "b": (1,)})
    image = object_file(made._form, made.files, ("-O2", "-fcf-protection=none")[: 2 if KIND == "x86-64" else 1], None)
    build(tmp_path, made, image, [np.ones((1, 1), np.float32)] * 2)
    assert stepped(tmp_path) == (4 if KIND == "x86-64" else 5)
    if shutil.which(EMULATOR):
        assert by_emulator(tmp_path, EMULATOR) == stepped(tmp_path)


def test_qemu_counts_what_single_steps_count(tmp_path: Path) -> None:
    if shutil.which(EMULATOR) is None:
        pytest.skip(f"{EMULATOR} is not installed")
    smelt.seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 5), nn.Sigmoid())
    made = smelt.export.object(model, None, (1, 8, 8), target=KIND)
    need("cc")
    build(tmp_path, made, made.files["network.o"], [np.ones((1, 1, 8, 8), np.float32)])
    count = by_emulator(tmp_path, EMULATOR)
    assert count is not None and count > made.macs / 16
    assert count == by_emulator(tmp_path, EMULATOR) == stepped(tmp_path)
    counted = by_counter(tmp_path)
    assert counted is None or abs(counted - count) <= 16, "interrupts may count"


def test_an_object_takes_the_code_and_the_stack_it_states() -> None:
    need("cc")
    model = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 196, 10))
    made = smelt.export.object(model, None, (1, 14, 14), target="native")
    x = np.ones((1, 1, 14, 14), np.float32)
    found = measure(made, made.load().image, [x], seconds=60)
    assert found.code_bytes == made.code_bytes
    assert found.stack_bytes is not None and 0 < found.stack_bytes <= made.stack_bytes + 16
    assert found.count is None or found.count > made.macs / 16


def test_large_arrays_on_the_stack_are_seen() -> None:
    need("cc")
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Softmax(1))
    made = smelt.export.c(model, None, (8, 16, 16))
    network = made.load(("-O1",))
    found = measure(made, network.image, [np.ones((1, 8, 16, 16), np.float32)])
    assert found.stack_bytes is not None and found.stack_bytes >= made.stack_bytes > 0
    assert found.code_bytes is not None and 200 < found.code_bytes < 20_000


def test_a_count_that_takes_too_long_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, x = scaled(1024), np.ones((1, 1024), np.float32)
    folder = built(made, tmp_path / "made", 1024)
    assert by_steps(folder, 0) is None and read_number(folder, "nothing that it knows") is None
    for name in ("by_counter", "by_emulator"):
        monkeypatch.setattr(sys.modules["smelt.export.here.measure"], name, lambda *a: None)
    found = measure(made, made.files["network.o"], [x], seconds=0)
    assert found.count is None and found.code_bytes == made.code_bytes and found.stack_bytes is not None
    assert found.counted.startswith("by nobody: no counter of the processor, no ")
    assert found.counted.endswith("single steps refused or not done in 0 s")


def test_code_that_qemu_does_not_know_has_another_to_count(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which(EMULATOR) is None:
        pytest.skip(f"{EMULATOR} is not installed")
    need("cc")
    made, x = smelt.export.c(nn.ReLU(), None, (64,)), np.ones((1, 64), np.float32)
    good = object_file(made._form, made.files, ("-O2",), None)
    text = made.files["network.c"].replace("{", "{\n  __builtin_trap();")
    bad = object_file(made._form, {**made.files, "network.c": text}, ("-O2",), None)
    monkeypatch.setattr(sys.modules["smelt.export.here.measure"], "by_counter", lambda folder: None)
    found = measure(made, bad, [x], lambda: (made, good))
    assert found.counted == f"by {EMULATOR}, of code for {TARGETS[KIND].isa.cpu}"
    assert found.count is not None and found.count > 10


def test_single_steps_are_those_of_the_code_that_runs_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, longer = scaled(1024), scaled(2048)
    steps = stepped(built(made, tmp_path / "made", 1024))
    for name in ("by_counter", "by_emulator"):
        monkeypatch.setattr(sys.modules["smelt.export.here.measure"], name, lambda *a: None)
    x = [np.ones((1, 1024), np.float32)]
    found = measure(made, made.files["network.o"], x, lambda: (longer, longer.files["network.o"]))
    assert (found.count, found.counted) == (steps, "by single steps")


def test_without_a_compiler_the_code_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = scaled(1024)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = measure(made, made.files["network.o"], [np.ones((1, 1024), np.float32)])
    assert (found.code_bytes, found.stack_bytes, found.count) == (made.code_bytes, None, None)
    assert found.counted == "by nobody: there is no C compiler"
    assert measure(made, b"\xcf\xfa\xed\xfe", [np.ones((1, 1024), np.float32)]).code_bytes is None


def test_an_object_for_another_processor_is_measured() -> None:
    target = TARGETS["aarch64"]
    if packages := missing(target.compiler, target.emulator, "cc"):
        pytest.skip(f"{', '.join(packages)} not installed")
    made = smelt.export.object(nn.Sequential(nn.Linear(64, 8), nn.ReLU()), None, (64,), target="aarch64")
    found = measure_emulated(made, target, [np.ones((1, 64), np.float32)])
    assert found.code_bytes == made.code_bytes and found.counted == "by qemu-aarch64"
    assert found.count is not None and made.macs / 4 < found.count < 2 * made.macs
    assert found.stack_bytes is not None and found.stack_bytes <= made.stack_bytes + 16
