"""Exported networks on emulated microcontrollers: the same outputs, in the RAM that was planned and in no byte less."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

import smelt
from smelt import models, nn
from smelt.errors import ExportError, ShapeError
from smelt.export.c99.code import compiled
from smelt.export.c99.export import CExport
from smelt.export.emulate import emulate
from smelt.export.emulate.boards import BOARDS
from smelt.export.emulate.linux import run_program
from smelt.export.targets import TARGETS
from smelt.export.tools import missing

from .test_c_networks import ZOO, assert_close, inputs, settled

HERE = [("ds_cnn", "cortex-m3"), ("ds_cnn", "cortex-m4"), ("ds_cnn", "cortex-m7"), ("ds_cnn", "riscv32")]
HERE += [
    ("ds_cnn", "cortex-m55"),
    ("lenet5", "cortex-m3"),
    ("autoencoder", "riscv32"),
    ("resnet8", "cortex-m7"),
    ("mobilenet_v1", "cortex-m4"),
]
ARM = ("cortex-m3", "cortex-m4", "cortex-m7")
REST = [(name, board) for name in models.MODELS for board in (*ARM, "riscv32") if (name, board) not in HERE]
REST += [("narrow mobilenet_v2", board) for board in ARM]
REST += [("lenet5", "cortex-m55"), ("resnet8", "cortex-m55")]  # the others' weights take more than its 512 KiB


def need_board(name: str) -> str:
    """Return the name of a board, or skip the test."""
    target = BOARDS[name].target
    if packages := missing(target.compiler, target.emulator):
        pytest.skip(f"{', '.join(packages)} not installed")
    return name


def small() -> nn.Module:
    """Return a network for 16 KiB of RAM that holds its weights too."""
    layers = [nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Conv2d(6, 8, 3, stride=2), nn.Sigmoid(), nn.Flatten(), nn.Linear(72, 10))


def narrow() -> nn.Module:
    """Return MobileNetV2 for boards with 4 MB of flash."""
    return models.mobilenet_v2(0.35, classes=10)


LAYERS = {
    "small": (small, (1, 14, 14)),
    "narrow mobilenet_v2": (narrow, (3, 96, 96)),
    **{name: ZOO[name] for name in ("every layer", "sequences")},
}


@functools.cache
def exported(name: str) -> tuple[nn.Module, CExport, tuple[int, ...]]:
    build, shape = LAYERS[name] if name in LAYERS else (models.MODELS[name], models.INPUT_SHAPES[name])
    model = settled(build)
    return model, smelt.export.c(model, None, shape, name="net"), shape


def sizes(made: CExport) -> tuple[int, int, int]:
    """Return bytes of arena and constants, and multiply-accumulates."""
    return made.arena_bytes, made.constant_bytes, made.macs


def assert_agrees(name: str, board: str, runs: int = 1) -> None:
    model, made, shape = exported(name)
    x = inputs(shape, runs)
    found = emulate(made, need_board(board), x, seconds=1800)  # mobilenet_v2: 52 thousand million without an FPU
    expected = model.compile()(x).numpy()
    assert_close(found.outputs[0], expected)
    memory = found.memory
    planned, arena, constants, macs = BOARDS[board].ram_needed(made.plan, 0), *sizes(made)
    assert (memory.arena_bytes, memory.constant_bytes) == (arena, constants)
    library = 8 if "math.h" in made.files["net.c"] else 0  # errno
    assert memory.ram_bytes - library <= planned < memory.ram_bytes + 8
    if (name, board) == ("mobilenet_v2", "cortex-m3"):
        assert found.count is None, "52 thousand million are more than the board's clock can show"
    else:
        assert found.count is not None and found.count > macs / 2, "an FPU does two in one instruction at most"
    assert found.stack_bytes > 64


@pytest.mark.parametrize(("name", "board"), HERE)
def test_networks_of_the_zoo_agree_with_the_compiled_model(name: str, board: str) -> None:
    assert_agrees(name, board)


@pytest.mark.emulators
@pytest.mark.parametrize(("name", "board"), REST)
def test_every_network_of_the_zoo_on_every_board(name: str, board: str) -> None:
    assert_agrees(name, board)


@pytest.mark.parametrize("board", BOARDS)
def test_a_small_network_agrees_everywhere(board: str) -> None:
    assert_agrees("small", board, runs=3)


@pytest.mark.parametrize(
    ("name", "board"), [("every layer", "cortex-m3"), ("every layer", "riscv32"), ("sequences", "avr")]
)
def test_layers_agree_where_int_and_arithmetic_differ(name: str, board: str) -> None:
    assert_agrees(name, board)


@pytest.mark.parametrize(("name", "board"), [("small", board) for board in BOARDS] + [("resnet8", "cortex-m4")])
def test_the_link_fails_one_byte_below_the_plan(name: str, board: str) -> None:
    model, made, shape = exported(name)
    need_board(board)
    own = compiled(made.files, BOARDS[board].target).stack_bytes
    stack = (own + 192) // 8 * 8  # with what the caller and the C library need
    planned, x = BOARDS[board].ram_needed(made.plan, stack), inputs(shape, 1)
    found = emulate(made, board, x, ram=planned, stack=stack)
    assert_close(found.outputs[0], model.compile()(x).numpy())
    assert own - 64 <= found.stack_bytes <= stack
    with pytest.raises(ExportError, match=r"does not fit: .*region `(ram' overflowed by 1 byte|data')"):
        emulate(made, board, x, ram=planned - 1, stack=stack)


@pytest.mark.parametrize("board", ["cortex-m4", "avr"])
def test_a_stack_that_is_too_small_is_found(board: str) -> None:
    _, made, shape = exported("small")
    with pytest.raises(ExportError, match="the stack of 96 bytes ran over"):
        emulate(made, need_board(board), inputs(shape, 1), stack=96)


@pytest.mark.parametrize("arena", ["caller", "static"])
@pytest.mark.parametrize("ends", ["caller", "arena"])
@pytest.mark.parametrize("board", ["cortex-m7", "avr"])
def test_all_forms_of_memory_give_the_same(board: str, arena: str, ends: str) -> None:
    model, _, shape = exported("small")
    made = smelt.export.c(model, None, shape, name="net", arena=arena, ends=ends)  # type: ignore[arg-type]
    x = inputs(shape, 2)
    found = emulate(made, need_board(board), x)
    assert_close(found.outputs[0], model.compile()(x).numpy())
    assert found.memory.ram_bytes - found.memory.other_bytes == made.arena_bytes + sum(
        (made.plan.input_bytes, made.plan.output_bytes)
    )


def test_what_goes_wrong_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, made, shape = exported("small")
    x = inputs(shape, 1)
    with pytest.raises(ExportError, match="'toaster' is not emulated here: expected one of cortex-m3, "):
        emulate(made, "toaster", x)
    with monkeypatch.context() as patched:
        patched.setenv("PATH", str(tmp_path))
        with pytest.raises(ExportError, match=r"apt-get install gcc-arm-none-eabi qemu-system-arm"):
            emulate(made, "cortex-m4", x)
    need_board("cortex-m4")
    with pytest.raises(ShapeError, match=r"expected \(a multiple of \(1, 1, 14, 14\)\)"):
        emulate(made, "cortex-m4", x[:, :, 1:])
    with pytest.raises(ShapeError, match="expected 1 arrays"):
        emulate(made, "cortex-m4", x, x)
    with pytest.raises(ShapeError, match="at least one sample"):
        emulate(made, "cortex-m4", x[:0])
    with pytest.raises(ExportError, match=r"qemu-system-arm was not done after 0.001 s, and was stopped"):
        emulate(made, "cortex-m4", x, seconds=0.001)


def test_an_object_for_arm_linux_agrees() -> None:
    target = TARGETS["aarch64"]
    if packages := missing(target.compiler, target.emulator):
        pytest.skip(f"{', '.join(packages)} not installed")
    model, _, shape = exported("small")
    x = inputs(shape, 3)
    (found,) = run_program(smelt.export.object(model, None, shape, target="aarch64"), x)
    np.testing.assert_allclose(found, model.compile()(x).numpy(), rtol=1e-5)


def test_what_is_not_the_shape_of_an_object_for_linux_is_said() -> None:
    target = TARGETS["aarch64"]
    if packages := missing(target.compiler, target.emulator):
        pytest.skip(f"{', '.join(packages)} not installed")
    _, _, shape = exported("small")
    made = smelt.export.object(exported("small")[0], None, shape, target="aarch64")
    with pytest.raises(ShapeError, match="run: expected 1 arrays of equal length, received 2"):
        run_program(made, inputs(shape, 1), inputs(shape, 1))


def assert_object_agrees(name: str, board: str, runs: int = 1) -> None:
    model, made, shape = exported(name)
    x = inputs(shape, runs)
    code = smelt.export.object(model, None, shape, target=need_board(board), name="net")
    found = emulate(code, board, x)
    expected = model.compile()(x).numpy()
    assert np.abs(found.outputs[0] - expected).max() <= 1e-5 * np.abs(expected).max()
    assert (found.memory.arena_bytes, found.memory.constant_bytes) == (made.arena_bytes, made.constant_bytes)
    if code.calls:
        assert found.stack_bytes <= code.stack_bytes + 128, "the functions it calls take a little too"
    else:
        least = 64  # that the program sees
        assert code.stack_bytes - 32 <= found.stack_bytes <= max(code.stack_bytes, least) + 8


OBJECTS = [board for board in BOARDS if board != "avr"]


@pytest.mark.parametrize(("name", "board"), [("ds_cnn", "cortex-m55"), *(("small", board) for board in OBJECTS)])
def test_objects_agree_in_the_stack_they_state(name: str, board: str) -> None:
    assert_object_agrees(name, board)


@pytest.mark.emulators
@pytest.mark.parametrize("board", OBJECTS)
@pytest.mark.parametrize("name", [*(n for n in models.MODELS if n != "mobilenet_v2"), "narrow mobilenet_v2"])
def test_every_network_of_the_zoo_as_an_object(name: str, board: str) -> None:
    if board == "cortex-m55" and exported(name)[1].constant_bytes > 450_000:
        pytest.skip("its weights do not fit in the board's memory for code")
    assert_object_agrees(name, board)


def test_helium_does_the_work_in_a_third_of_the_instructions() -> None:
    """And a scalar FPU in less than two thirds, of what the C compiler makes of exported C."""
    model, made, shape = exported("ds_cnn")
    x = inputs(shape, 1)
    for board, most in (("cortex-m55", 0.85 * made.macs), ("cortex-m4", 2.1 * made.macs)):
        found = emulate(smelt.export.object(model, None, shape, target=need_board(board)), board, x)
        assert found.count is not None and found.count < most
