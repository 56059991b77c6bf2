"""Networks as C99: they compile anywhere without a warning, compute what the model does, in the memory they state."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_files import nets

import smelt
from smelt import models, nn
from smelt.errors import ExportError, FileError, ShapeError
from smelt.export.c99.export import CExport
from smelt.nn.calls import leaves
from smelt.tensor import Tensor

from .compilers import STRICT, need, run

Build = Callable[[], nn.Module]
ZOO: dict[str, tuple[Build, tuple[int, ...]]] = {
    "ds_cnn": (models.ds_cnn, (1, 49, 10)),
    "resnet8": (models.resnet8, (3, 32, 32)),
    "mobilenet_v1": (lambda: models.mobilenet_v1(0.125), (3, 96, 96)),
    "autoencoder": (models.autoencoder, (640,)),
    "lenet5": (models.lenet5, (1, 28, 28)),
    "mobilenet_v2": (lambda: models.mobilenet_v2(0.1, classes=5), (3, 64, 64)),
    "every layer": (nets.images, (3, 12, 14)),
    "sequences": (nets.sequences, (3, 30)),
}
LIVE = {
    models.ds_cnn: ((1, 49, 10), 16_000),
    models.resnet8: ((3, 32, 32), 49_152),
    models.mobilenet_v1: ((3, 96, 96), 55_296),
    models.autoencoder: ((640,), 768),
}
"""Largest sum of activations in use at once, in elements, of the MLPerf Tiny reference models without operations in
place; inputs and outputs count."""


def settled(build: Build, seed: int = 0) -> nn.Module:
    """Return a model whose running statistics say something."""
    smelt.seed(seed)
    model = build()
    rng = np.random.default_rng(seed)
    for name, t in model.named_buffers():
        if t.dtype.kind == "f":
            low = 0.5 if "var" in name else -0.5
            t._value = rng.uniform(low, low + 1, t.shape).astype(np.float32)
    return model.eval()


def inputs(shape: tuple[int, ...], runs: int = 2) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(runs, *shape)).astype(np.float32)


@functools.cache
def exported(name: str) -> CExport:
    build, shape = ZOO[name]
    return smelt.export.c(settled(build), None, shape, name="net", samples=inputs(shape))


def write(made: CExport, folder: Path) -> Path:
    for name, text in made.files.items():
        (folder / name).write_text(text)
    return folder


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("compiler", ["cc", "gcc", "clang", "tcc"])
def test_strict_compilers_find_nothing_and_the_self_test_passes(name: str, compiler: str, tmp_path: Path) -> None:
    folder = write(exported(name), tmp_path)
    program = folder / "program"
    run(need(compiler), *STRICT, "-O1", folder / "net.c", folder / "net_test.c", "-o", program, "-lm")
    assert run(program) == "net: passed, 0 numbers wrong in 2 runs\n"


@pytest.mark.parametrize("name", ["lenet5", "ds_cnn", "mobilenet_v2", "every layer", "sequences"])
@pytest.mark.parametrize("compiler", ["cc", "clang"])
def test_sanitizers_find_nothing(name: str, compiler: str, tmp_path: Path) -> None:
    folder = write(exported(name), tmp_path)
    flags = ["-g", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"]
    run(need(compiler), *flags, folder / "net.c", folder / "net_test.c", "-o", folder / "program", "-lm")
    assert run(folder / "program").startswith("net: passed")


def test_a_wrong_network_fails_its_self_test(tmp_path: Path) -> None:
    folder = write(exported("lenet5"), tmp_path)
    text = (folder / "net.c").read_text()
    (folder / "net.c").write_text(text.replace("= 0.0f;", "= 1.0f;"))
    run(need("cc"), folder / "net.c", folder / "net_test.c", "-o", folder / "program", "-lm")
    with pytest.raises(AssertionError, match=r"FAILED, \d+ numbers wrong"):
        run(folder / "program")


@pytest.mark.parametrize("compiler", ["cc", "gcc", "clang", "tcc"])
def test_infinities_and_not_a_number_are_what_was_recorded(compiler: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3))
    model[0].weight._value = np.array([[np.nan, 1], [-np.inf, 0], [2, 1e-45]], np.float32)
    made = smelt.export.c(model, tmp_path, (2,), name="net", samples=inputs((2,)))
    run(need(compiler), *STRICT, tmp_path / "net.c", tmp_path / "net_test.c", "-o", tmp_path / "program")
    assert run(tmp_path / "program") == "net: passed, 0 numbers wrong in 2 runs\n"
    test = made.files["net_test.c"]
    last = test[: test.index("};", test.index("expected_y"))].rstrip()  # an infinity must not excuse the others
    (tmp_path / "net_test.c").write_text(f"{last.rpartition(' ')[0]} 1.0f{test[len(last) :]}")
    run(need(compiler), tmp_path / "net.c", tmp_path / "net_test.c", "-o", tmp_path / "program")
    with pytest.raises(AssertionError, match="FAILED, 1 numbers wrong"):
        run(tmp_path / "program")


@pytest.mark.parametrize("name", ["ds_cnn", "resnet8"])
def test_c_agrees_with_the_compiled_model(name: str) -> None:
    build, shape = ZOO[name]
    model, x = settled(build), inputs(shape, 1)
    need("cc")
    (found,) = exported(name).load()(x)
    assert_close(found, smelt.compile(model)(x).numpy())


@pytest.mark.parametrize("arena", ["caller", "static"])
@pytest.mark.parametrize("ends", ["caller", "arena"])
@pytest.mark.parametrize("name", ["lenet5", "every layer"])
def test_all_forms_of_memory_give_the_same(name: str, arena: Any, ends: Any, tmp_path: Path) -> None:
    build, shape = ZOO[name]
    model, x = settled(build), inputs(shape, 6)
    made = smelt.export.c(model, tmp_path, shape, name="net", batch=3, arena=arena, ends=ends, samples=x)
    need("cc")
    (found,) = made.load(["-O1"])(x[:3])
    assert_close(found, model(Tensor(x[:3])).numpy())
    run(need("cc"), *STRICT, tmp_path / "net.c", tmp_path / "net_test.c", "-o", tmp_path / "program", "-lm")
    assert run(tmp_path / "program") == "net: passed, 0 numbers wrong in 2 runs\n"


@pytest.mark.parametrize("build", LIVE, ids=lambda b: b.__name__)
def test_arenas_are_no_larger_than_what_is_in_use_at_once(build: Build) -> None:
    shape, live = LIVE[build]
    whole = smelt.export.c(build(), None, shape, ends="arena")
    assert whole.proven
    best = 32_768 if build is models.resnet8 else live  # there the sum overwrites the residual
    assert whole.arena_bytes == 4 * best <= 4 * live
    assert smelt.export.c(build(), None, shape).arena_bytes <= whole.arena_bytes


@pytest.mark.parametrize("name", ["ds_cnn", "resnet8", "autoencoder"])
def test_the_object_holds_what_was_planned(name: str, tmp_path: Path) -> None:
    build, shape = ZOO[name]
    made = smelt.export.c(build(), tmp_path, shape, name="net", arena="static")
    run(need("cc"), "-O1", "-c", tmp_path / "net.c", "-o", tmp_path / "net.o")
    sizes: dict[str, int] = {}
    for line in run(need("nm"), "-S", tmp_path / "net.o").splitlines():
        if len(parts := line.split()) == 4:
            sizes[parts[3]] = int(parts[1], 16)
    assert sizes["arena"] == made.arena_bytes
    constants = [size for symbol, size in sizes.items() if re.fullmatch(r"c\d+", symbol)]
    assert sum(constants) == made.constant_bytes
    undefined = run(need("nm"), "-u", tmp_path / "net.o").split()
    assert undefined in ([], ["U", "_GLOBAL_OFFSET_TABLE_"]), "neither a library nor an allocation"


def test_constants_are_the_folded_weights() -> None:
    assert exported("ds_cnn").constant_bytes == 4 * 22_604
    assert exported("ds_cnn").macs == 2_656_768
    assert exported("autoencoder").macs == 264_192


class Reused(nn.Module):
    """Values that look as if they could be overwritten."""

    def __init__(self) -> None:
        self.mix = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.mix(x)
        z = self.mix(y + y[::-1, ::-1])
        a = self.mix(z) + z
        return self.mix(a + a.T) + a, a.relu() - x


def test_nothing_is_overwritten_too_early() -> None:
    model, (x,) = settled(Reused), inputs((6, 6), 1)
    need("cc")
    made = smelt.export.c(model, None, (6,), batch=6)
    for found, expected in zip(made.load(["-O2"])(x), leaves(model(Tensor(x))), strict=True):
        assert_close(found, expected.numpy())


HOSTILE = '*/ system("rm -rf /"); /*'


class Hostile(nn.Module):
    """Names that would be C, wherever names can come from."""

    def __init__(self) -> None:
        vars(self)["_children"] = {}
        self.inner = nn.Linear(3, 2)
        self.inner.weight.name = HOSTILE
        self.inner.bias.name = '";#include "x.h'

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * smelt.Parameter(np.ones(2, np.float32), name="??/\n int main")


def test_names_from_a_model_never_become_c(tmp_path: Path) -> None:
    Hostile.__name__ = HOSTILE
    model = nn.Sequential(nn.Identity())
    setattr(model, HOSTILE, nn.Linear(3, 2))
    for network in (Hostile(), model):
        made = smelt.export.c(network, tmp_path, {'a"*/ b': (3,)}, name="net", samples=inputs((3,)))
        text = "\n".join(made.files.values())
        assert "system(" not in text and "??/" not in text and '"x.h' not in text
        for comment in re.findall(r"/\*(.*?)\*/", text, re.DOTALL):
            assert "/*" not in comment
        run(need("cc"), *STRICT, tmp_path / "net.c", tmp_path / "net_test.c", "-o", tmp_path / "program")
        run(tmp_path / "program")


class Changing(nn.Module):
    """Counts its own calls."""

    def __init__(self) -> None:
        self.count = smelt.tensor([0.0])

    def forward(self, x: Tensor) -> Tensor:
        self.count.assign(self.count + 1.0)
        return x * self.count


def test_what_cannot_be_exported_says_why(tmp_path: Path) -> None:
    linear = nn.Linear(3, 2)
    cases: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (ExportError, "name: expected lower-case", lambda: smelt.export.c(linear, None, (3,), name="Net")),
        (ExportError, "name: expected lower-case", lambda: smelt.export.c(linear, None, (3,), name="while")),
        (ExportError, "arena: expected one of", lambda: smelt.export.c(linear, None, (3,), arena="heap")),  # type: ignore[arg-type]
        (ShapeError, "expected sizes of at least 1", lambda: smelt.export.c(linear, None, (0,))),
        (
            ShapeError,
            "dtype: expected one for each of 1 inputs, received float32, int8",
            lambda: smelt.export.c(linear, None, (3,), dtype=("float32", "int8")),
        ),
        (ShapeError, "linear: expected x", lambda: smelt.export.c(linear, None, (4,))),
        (ShapeError, "samples: expected", lambda: smelt.export.c(linear, None, (3,), samples=inputs((4,)))),
        (ExportError, "changes", lambda: smelt.export.c(Changing(), None, (3,))),
        (ExportError, "expected one of f32", lambda: smelt.export.c(nn.Identity(), None, (3,), dtype="float16")),
        (
            ShapeError,
            "net: expected float32",
            lambda: smelt.export.c(linear, None, (3,), name="net").load()(inputs((4,))),
        ),
    ]
    for kind, message, call in cases:
        with pytest.raises(kind, match=message):
            call()
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot make the folder"):
        smelt.export.c(linear, tmp_path / "file" / "deep", (3,))


def test_a_model_of_several_inputs_and_outputs() -> None:
    model = nets.Two()
    made = smelt.export.c(model, None, {"left": (4,), "right": (4,)})
    assert made.arena_bytes == 0 and "arena" not in made.files["network.c"]
    x, y = inputs((4,))[:, None]
    need("cc")
    for found, expected in zip(made.load()(x, y), leaves(model(Tensor(x), Tensor(y))), strict=True):
        np.testing.assert_array_equal(found, expected.numpy())


def test_the_text_of_a_small_network(golden: Callable[[str, str], None]) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3))
    for t in model.parameters():
        t._value = np.linspace(-1, 1, t.size, dtype=np.float32).reshape(t.shape)
    made = smelt.export.c(model, None, (1, 4, 4), name="small")
    golden("c_small.c", made.files["small.c"])
    golden("c_small.h", made.files["small.h"])
