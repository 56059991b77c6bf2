"""The cache of compiled objects: it is used, it is never trusted, and it is never in the way."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from runtime.processes import finish, run, start

import smelt
from smelt.compiler import jit, program
from smelt.compiler.passes.memory import Memory
from smelt.graph.graph import Graph
from smelt.tensor import Tensor

from .isas import HASWELL, ZNVER4
from .zoo import trace, unbound

SCRIPT = """
    step, model = training()
    losses = [step(X).item() for _ in range(3)]
    print(step._variants[0].executable.program.cached, losses)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's folder, empty, for this process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(jit, "cache_folder", lambda: tmp_path / "smelt" / "objects")
    return tmp_path / "smelt" / "objects"


def scaled(by: float = 2.0) -> tuple[smelt.compile, list[float]]:  # type: ignore[valid-type]
    function = smelt.compile(lambda x: x * by + 1.0)
    return function, function(np.arange(3, dtype=np.float32)).tolist()


def cached(function: object) -> bool:
    return function._variants[0].executable.program.cached  # type: ignore[attr-defined]


# --- between processes ------------------------------------------------------------------------------------


def test_a_second_process_uses_what_the_first_compiled(tmp_path: Path) -> None:
    first, second = (run(SCRIPT, XDG_CACHE_HOME=str(tmp_path)) for _ in range(2))
    assert first.startswith("False [") and second.startswith("True [")
    assert first.split("[")[1] == second.split("[")[1]


def test_processes_that_compile_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    printed = [finish(p) for p in [start(SCRIPT, XDG_CACHE_HOME=str(tmp_path)) for _ in range(4)]]
    assert len({p.split("[")[1] for p in printed}) == 1
    names = sorted(p.name for p in (tmp_path / "smelt" / "objects").iterdir())
    assert names and all(n.endswith(".bin") for n in names), "no temporary file is left"
    assert run(SCRIPT, XDG_CACHE_HOME=str(tmp_path)).startswith("True")


def test_a_folder_that_cannot_be_made_is_not_an_error(tmp_path: Path) -> None:
    (tmp_path / "smelt").write_text("a file where the folder should be")
    printed = [run(SCRIPT, XDG_CACHE_HOME=str(tmp_path)) for _ in range(2)]
    assert all(p.startswith("False [") for p in printed)


def test_the_folder_is_private(folder: Path) -> None:
    scaled()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(p.stat().st_mode & 0o077 == 0 for p in folder.iterdir())


# --- damage -----------------------------------------------------------------------------------------------


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": truncated,
    "flipped": flipped,
    "empty": lambda data: b"",
    "longer": lambda data: data + b"\0",
    "digest alone": lambda data: data[:32],
    "text": lambda data: b"not an object" * 99,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=list(DAMAGE))
def test_a_damaged_entry_is_ignored_and_written_again(damage: Callable[[bytes], bytes], folder: Path) -> None:
    _, want = scaled()
    (path,) = _programs(folder)
    good = path.read_bytes()
    path.write_bytes(damage(good))
    function, got = scaled()
    assert (got, cached(function)) == (want, False)
    assert path.read_bytes() == good
    function, got = scaled()
    assert (got, cached(function)) == (want, True)


def _programs(folder: Path) -> list[Path]:
    """Return the entries that hold programs, not the workers' code."""
    return [p for p in folder.iterdir() if b'"panels"' in p.read_bytes()]


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="files have no owner here")
def test_an_entry_of_another_user_is_ignored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, want = scaled()
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    function, got = scaled()
    assert (got, cached(function)) == (want, False)


def test_an_entry_that_is_a_folder_is_ignored(folder: Path) -> None:
    _, want = scaled()
    (path,) = _programs(folder)
    path.unlink()
    path.mkdir()
    function, got = scaled()
    assert (got, cached(function)) == (want, False)
    assert [p for p in folder.iterdir() if not p.name.endswith(".bin")] == []


# --- keys -------------------------------------------------------------------------------------------------


def key(graph: Graph, **options: object) -> str:
    isa = options.get("isa", ZNVER4)
    strides = options.get("strides", unbound(graph))
    return program.graph_key(graph, strides, isa, "program")  # type: ignore[arg-type]


X = np.ones((4, 3), np.float32)
W = smelt.Parameter(np.ones((3, 3), np.float32), name="w")


def product(x: Tensor) -> Tensor:
    return (x @ W) * smelt.tensor([1.0, 2.0, 3.0])


def test_the_same_graph_has_the_same_key() -> None:
    assert key(trace(product, [X])) == key(trace(product, [X]))


OTHERS: dict[str, Callable[[], Graph]] = {
    "values of a constant": lambda: trace(lambda x: (x @ W) * smelt.tensor([1.0, 2.0, 4.0]), [X]),
    "shape": lambda: trace(product, [X[:3]]),
    "dtype": lambda: trace(lambda x: product(x.astype("float32")), [X.astype(np.float64)]),
    "no batch": lambda: trace(product, [X], rows=False),
    "a scalar": lambda: trace(lambda x: product(x) * 2.0, [X]),
    "outputs": lambda: trace(lambda x: (product(x), x), [X]),
    "updates": lambda: trace(lambda x: W.assign(W * 2.0) or product(x), [X]),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=list(OTHERS))
def test_another_graph_has_another_key(other: Callable[[], Graph]) -> None:
    assert key(other()) != key(trace(product, [X]))


def test_state_that_lies_otherwise_has_another_key() -> None:
    graph = trace(product, [X])
    keys = {key(graph, strides={graph.states[0]: s}) for s in (None, (3, 1), (1, 3))}
    assert len(keys) == 3


def test_another_processor_has_another_key() -> None:
    graph = trace(product, [X])
    others = [
        HASWELL,
        replace(ZNVER4, features="-avx512vnni"),
        replace(ZNVER4, cpu="sapphirerapids"),
        replace(ZNVER4, vector_bytes=32),
        replace(ZNVER4, registers=16),
    ]
    keys = [key(graph, isa=isa) for isa in (ZNVER4, *others)]
    assert len(set(keys)) == len(keys)


def test_another_compiler_has_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = trace(product, [X])
    before = key(graph)
    monkeypatch.setattr(jit, "code_version", lambda: "another")
    assert key(graph) != before


def test_a_program_comes_back_from_bytes_as_it_was() -> None:
    arrays = [np.arange(6.0).reshape(2, 3), np.zeros((0, 2), np.int64), np.array([True, False])]
    before = program.Program(
        b"\x7fELF\0image", Memory(1216, 64), [(3, 1), (), (0,)], [None, None, 0], [(16, 48), None, None], arrays
    )
    after = program.Program.from_bytes(before.to_bytes())
    assert (after.image, after.memory, after.state_strides) == (before.image, Memory(1216, 64), [(3, 1), (), (0,)])
    assert (after.state_pairs, after.state_panels) == ([None, None, 0], [(16, 48), None, None])
    assert after.cached and not before.cached
    for a, b in zip(after.constants, arrays, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)


def test_the_entries_used_longest_ago_go_when_there_is_too_much(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "MOST_BYTES", 3 * 132)
    for age, key in enumerate("abc"):
        jit.write_cache(key, bytes(100))
        os.utime(folder / f"{key}.bin", (1000 + age, 1000 + age))
    assert jit.read_cache("a") == bytes(100), "reading makes an entry the one used last"
    jit.write_cache("d", bytes(100))
    assert sorted(p.stem for p in folder.iterdir()) == ["a", "c", "d"]
