"""Networks as object files: they agree with the model, hold the memory of exported C, and call nothing unsaid."""

from __future__ import annotations

import ctypes
import platform
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiler.assembly import Code, functions, innermost_loops
from onnx_files import nets

import smelt
from smelt import models, nn
from smelt.compiler.jit import Library
from smelt.errors import ExportError, FileError, ShapeError
from smelt.export.c99.header import Form
from smelt.export.c99.host import NUMPY
from smelt.export.c99.network import network
from smelt.export.elf.image import read_image
from smelt.export.elf.machine import compile_assembly
from smelt.export.elf.module import ObjectUnit, module_text
from smelt.export.elf.stack import frames
from smelt.export.targets import TARGETS, find_target
from smelt.export.tools import missing
from smelt.nn.calls import leaves
from smelt.tensor import Tensor

from .compilers import STRICT, need, run
from .objects import Made, object_of, primitives, run_all
from .test_c_networks import ZOO, Changing, Hostile, assert_close, inputs, settled
from .test_c_primitives import assert_close as assert_primitive

MICRO = ("cortex-m3", "cortex-m4", "cortex-m7", "cortex-m55", "riscv32")
MATH = {"pow", "sqrtf"}
on_linux = pytest.mark.skipif(platform.system() != "Linux", reason="objects are ELF files")


@on_linux
@pytest.mark.parametrize("name", ZOO)
def test_an_object_computes_what_the_model_does(name: str) -> None:
    build, shape = ZOO[name]
    model, x = settled(build), inputs(shape, 1)
    made = smelt.export.object(model, None, shape, target="native")
    assert made.calls == ()
    for found, expected in zip(made.load()(x), leaves(smelt.compile(model)(x)), strict=True):
        assert_close(found, expected.numpy())


@pytest.mark.parametrize("name", ["ds_cnn", "resnet8", "every layer"])
@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m55", "x86-64"])
def test_the_memory_is_that_of_exported_c(name: str, target: str) -> None:
    build, shape = ZOO[name]
    for ends in ("caller", "arena"):
        made = smelt.export.object(build(), None, shape, target=target, ends=ends)
        c = smelt.export.c(build(), None, shape, ends=ends)
        assert (made.arena_bytes, made.constant_bytes, made.macs) == (c.arena_bytes, c.constant_bytes, c.macs)
        assert made.proven == c.proven and made.plan.regions == c.plan.regions
        mine, theirs = made.files["network.h"].decode(), c.files["network.h"]
        assert mine.partition("#ifndef")[2] == theirs.partition("#ifndef")[2]


@on_linux
@pytest.mark.parametrize("arena", ["caller", "static"])
@pytest.mark.parametrize("ends", ["caller", "arena"])
def test_the_self_test_links_and_passes(arena: Any, ends: Any, tmp_path: Path) -> None:
    build, shape = ZOO["every layer"]
    x = inputs(shape, 6)
    made = smelt.export.object(
        settled(build), tmp_path, shape, target="native", name="net", batch=3, arena=arena, ends=ends, samples=x
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.h", "net.o", "net_test.c"]
    run(need("cc"), *STRICT, tmp_path / "net_test.c", tmp_path / "net.o", "-o", tmp_path / "program")
    assert run(tmp_path / "program") == "net: passed, 0 numbers wrong in 2 runs\n"
    undefined = {n for n in run(need("nm"), "-u", tmp_path / "net.o").split() if n != "U"}
    assert undefined - {"_GLOBAL_OFFSET_TABLE_"} == set(made.calls)
    sizes = run(need("size"), "-A", tmp_path / "net.o")
    code = sum(int(n) for n in re.findall(r"^\.(?:text|rodata)\S*\s+(\d+)", sizes, re.MULTILINE))
    assert code == made.constant_bytes + made.code_bytes
    assert f"\n.bss {made.arena_bytes}" in re.sub(" +", " ", sizes) or arena == "caller"


@on_linux
def test_primitives_in_an_object_are_what_numpy_computes() -> None:
    target = find_target("native")
    for case, graph in primitives("float32", 3):
        one = object_of(case, graph, target)
        found = np.zeros(one.end.shape, NUMPY[one.end.dtype])
        code = Library(one.data, (one.run,))
        function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (len(one.given) + 1))(code.address[one.run])
        function(*(a.ctypes.data for a in (*one.given, found)))
        assert_computed(one, found)


def assert_computed(one: Made, found: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        expected = np.asarray(one.case.primitive.evaluate(*one.given, **one.case.attrs))
    assert_primitive(one.case, found, expected)


def assert_emulated(name: str, dtype: str, most: int, folder: Path) -> None:
    """Run primitives on another processor, a few dozen in a program, for its memory is small."""
    target = find_target(name)
    if packages := missing(target.compiler, target.emulator):
        pytest.skip(f"{', '.join(packages)} not installed")
    objects = [object_of(case, graph, target, f"n{i}") for i, (case, graph) in enumerate(primitives(dtype, most))]
    for start in range(0, len(objects), 70):
        part = objects[start : start + 70]
        for one, found in zip(part, run_all(part, target, folder), strict=True):
            assert_computed(one, found)


@pytest.mark.parametrize("name", ["cortex-m4", "cortex-m55"])
def test_primitives_are_right_on_other_processors(name: str, tmp_path: Path) -> None:
    assert_emulated(name, "float32", 1, tmp_path)


@pytest.mark.emulators
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [*MICRO, "aarch64"])
def test_all_samples_of_primitives_on_every_processor(name: str, dtype: str, tmp_path: Path) -> None:
    assert_emulated(name, dtype, 1000, tmp_path)


@pytest.mark.parametrize("name", MICRO)
def test_objects_call_only_what_is_said(name: str) -> None:
    target, calls = find_target(name), set()
    for case, graph in primitives("float32", 1, special=False):
        calls |= set(read_image(object_of(case, graph, target).data).calls)
    soft = {c for c in calls if c.startswith("__")}
    assert calls - soft <= MATH
    if name in ("cortex-m7", "cortex-m55"):
        assert not soft, "only integers of 64 bits are missing there"
    else:
        expected = {"__mulsf3", "__aeabi_fmul"} if name in ("cortex-m3", "riscv32") else {"__aeabi_f2d"}
        assert soft & expected
        assert all(re.match("__aeabi_|__[a-z]+[sd]f", c) for c in soft)


def _assembly(name: str, build: Callable[[], nn.Module] = models.ds_cnn, shape: Any = (1, 49, 10)) -> str:
    target = find_target(name)
    net = network(build(), shape, 1, "float32", False, ObjectUnit(target.isa))
    return compile_assembly(module_text(net, Form("net", "caller", False), weights=False), target)


@pytest.mark.parametrize("name", ["cortex-m4", "cortex-m7", "cortex-m55", "aarch64", "x86-64"])
def test_inner_loops_are_multiply_adds(name: str) -> None:
    """In the pointwise convolution of DS-CNN: of vectors where there are any, with no sum in memory, and no call."""
    found = functions(_assembly(name))
    loops = [code for code in innermost_loops(found["k2_conv2d_add_relu"]) if _fmas(code)]
    best = max(loops, key=_fmas)
    vectors = TARGETS[name].isa.vector_bytes > 4
    assert (best.fmas if vectors else best.scalar_fmas) == _fmas(best) >= 0.4 * len(best.lines)
    assert best.calls == 0 and best.stack_stores == 0
    if name == "cortex-m55":
        assert any(re.match(r"vfma\.f32 q\d, q\d, r\d+", line) for line in best.lines), (
            "one factor from a core register"
        )


def _fmas(code: Code) -> int:
    return code.fmas + code.scalar_fmas


@pytest.mark.parametrize("name", MICRO)
def test_no_double_and_no_wide_integer_on_small_processors(name: str) -> None:
    isa = TARGETS[name].isa
    for build, shape in (ZOO["every layer"], ZOO["sequences"]):
        net = network(build(), shape, 1, "float32", False, ObjectUnit(isa))
        text = module_text(net, Form("net", "caller", False), weights=False)
        assert " double " not in text
        assert not re.search(r"(?:add|mul|getelementptr|icmp|phi|sdiv)[^\n]* i64 [^\n]*%", text)


def test_stack_is_the_sum_of_nested_frames() -> None:
    made = smelt.export.object(models.ds_cnn(), None, (1, 49, 10), target="cortex-m4")
    most = max(step.stack_bytes for step in made.plan.steps)
    assert 0 < most < made.stack_bytes <= most + 64
    assert f"stack  {made.stack_bytes} bytes" in made.files["network.h"].decode()
    assert frames(_assembly("aarch64"), 16).keys() == frames(_assembly("cortex-m4"), 4).keys()


@pytest.mark.parametrize("name", [n for n in TARGETS if n != "avr"])
def test_objects_are_for_the_processor_and_its_calls(name: str) -> None:
    made = smelt.export.object(nn.Linear(3, 2), None, (3,), target=name)
    data = made.files["network.o"]
    machine, kind = struct.unpack_from("<H", data, 18)[0], struct.unpack_from("<H", data, 16)[0]
    assert (kind, data[:4], data[4]) == (1, b"\x7fELF", 2 if TARGETS[name].isa.pointer_bytes == 8 else 1)
    assert machine == {"riscv32": 243, "aarch64": 183, "x86-64": 62}.get(name, 40)
    at = data.find(b"aeabi\0")
    attributes = data[at : at - 4 + struct.unpack_from("<I", data, at - 4)[0]] if at > 0 else b""
    assert machine != 40 or (b"\x1c\x01" in attributes) == (name != "cortex-m3"), "floats are passed in registers"
    assert TARGETS[name].title in made.files["network.h"].decode()


class Called(nn.Module):
    """Calls a user's function."""

    def forward(self, x: Tensor) -> Tensor:
        return twice(x)


@smelt.custom_op
def twice(x: np.ndarray) -> np.ndarray:
    return 2 * x


def test_what_cannot_be_exported_says_why(tmp_path: Path) -> None:
    linear = nn.Linear(3, 2)

    def export(model: nn.Module = linear, shape: Any = (3,), **more: Any) -> object:
        return smelt.export.object(model, None, shape, **{"target": "cortex-m4", **more})

    known = "expected one of cortex-m3, .*x86-64, native"
    cases: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (ExportError, f"object: target 'toaster': {known}", lambda: export(target="toaster")),
        (ExportError, f"object: target 'avr': objects are not made for it, .*{known}", lambda: export(target="avr")),
        (ExportError, "object: name: expected lower-case", lambda: export(name="Net")),
        (ExportError, "object: the model changes", lambda: export(Changing())),
        (ExportError, r"object: custom.twice: a user's function", lambda: export(Called())),
        (ShapeError, "object: expected sizes of at least 1", lambda: export(shape=(0,))),
        (ShapeError, "object: samples: expected", lambda: export(samples=inputs((4,)))),
    ]
    for kind, message, call in cases:
        with pytest.raises(kind, match=message):
            call()
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot make the folder"):
        smelt.export.object(linear, tmp_path / "file" / "deep", (3,), target="cortex-m4")
    with pytest.raises(ExportError, match="cortex-m4: its code does not run on this machine, expected native"):
        smelt.export.object(linear, None, (3,), target="cortex-m4").load()


def test_the_text_of_a_small_object(golden: Callable[[str, str], None]) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 2), nn.ReLU())
    for t in model.parameters():
        t._value = np.linspace(-1, 1, t.size, dtype=np.float32).reshape(t.shape)
    net = network(model, (1, 3, 3), 1, "float32", True, ObjectUnit(TARGETS["cortex-m55"].isa))
    golden("object_small.ll", module_text(net, Form("small", "static", True)))


def test_an_llvm_without_the_processor_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import llvmlite.binding as llvm

    def missing(triple: str) -> object:
        raise RuntimeError(f"No available targets are compatible with triple {triple!r}")

    monkeypatch.setattr(llvm.Target, "from_triple", missing)
    with pytest.raises(ExportError, match=r"object: riscv32: the LLVM \d+\S* of llvmlite was built without it"):
        smelt.export.object(nn.Linear(3, 2), None, (3,), target="riscv32")


@on_linux
def test_several_inputs_and_outputs_and_names_that_would_be_code() -> None:
    model = nets.Two()
    x, y = inputs((4,))[:, None]
    made = smelt.export.object(model, None, {"left": (4,), "right": (4,)}, target="native")
    for found, expected in zip(made.load()(x, y), leaves(model(Tensor(x), Tensor(y))), strict=True):
        np.testing.assert_array_equal(found, expected.numpy())
    hostile = Hostile()
    made = smelt.export.object(hostile, None, {'a"*/ b': (3,)}, target="native")
    assert not any(b"system(" in content or b"*/ b" in content for content in made.files.values())
    assert_close(made.load()(x[:, :3])[0], hostile(Tensor(x[:, :3])).numpy())
