"""Tuning: other tiles change no bit, nothing is left behind in the state, and what was found is found again."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import smelt
from smelt import nn
from smelt.compiler import jit
from smelt.compiler.isa import host
from smelt.compiler.lower.tiles import RANKS, choose_tile
from smelt.compiler.program import graph_key
from smelt.measure import tune
from smelt.measure.tune import contractions
from smelt.runtime.step import Compiled

from .zoo import Case, Training


def network() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, 40, 3, padding=1), nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 40, 3, padding=1, groups=40)),
        *(nn.Conv2d(40, 24, 3, stride=2, groups=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 70)),
        *(nn.ReLU(), nn.Linear(70, 5)),
    )


def perceptron() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(300, 70), nn.ReLU(), nn.Linear(70, 5))


def compiled(
    build: Callable[[], nn.Sequential] = perceptron, precision: str = "f32"
) -> tuple[Compiled, tuple[np.ndarray, ...]]:
    case = Training(Case(build, (3, 10, 10), 5))
    smelt.seed(3)
    step = smelt.compile(case.step, precision=precision)
    batch = case.case.data(16)
    step(*batch)
    return step, batch


def after_a_step(step: Compiled, batch: tuple[np.ndarray, ...]) -> list[bytes]:
    """Return the bits of the loss and of all state after a step, which is then taken back."""
    with step.unchanged():
        loss = step(*batch).numpy()
        return [loss.tobytes(), *(t.numpy().tobytes() for t in step._variants[0].tensors)]


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_tiles_change_no_bit(precision: str) -> None:
    step, batch = compiled(network, precision)
    want, text = after_a_step(step, batch), step.lowered().text()
    numbers = contractions(step.lowered())
    for rank in (1, RANKS - 1):
        step.take_tiles(dict.fromkeys(numbers, rank))
        assert step.lowered().text() != text
        assert after_a_step(step, batch) == want


def test_ranks_are_different_tiles_the_cheapest_first() -> None:
    tiles = [choose_tile(64, 8, 4, 32, rank=rank) for rank in range(RANKS)]
    assert len(set(tiles)) == RANKS
    assert tiles[0] == choose_tile(64, 8, 4, 32)
    assert choose_tile(1, 1, 1, 32, rank=RANKS - 1) == choose_tile(1, 1, 1, 32), "there is only one"


def test_what_was_found_is_kept_beside_the_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(jit, "cache_folder", lambda: tmp_path)
    for name, value in {"ROUNDS": 2, "STEPS": 2, "LEAST_SHARE": 0.0}.items():
        monkeypatch.setattr(sys.modules["smelt.measure.tune"], name, value)
    step, batch = compiled()
    with step.unchanged():
        step(*batch)
        want = [t.numpy().copy() for t in step._variants[0].tensors]
    found = tune(step, *batch)
    assert [t.numpy().tobytes() for t in step._variants[0].tensors] == [w.tobytes() for w in want]
    assert found.tried == len(contractions(step.lowered()))
    assert found.after_microseconds <= found.before_microseconds
    assert tune(step, *batch) == found, "not measured again"
    text = str(found)
    assert text.count("\n") == 1 + 2 * len(found.choices)
    assert f"{found.tried} kernels tried" in text


def test_a_step_takes_the_tiles_that_another_process_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(jit, "cache_folder", lambda: tmp_path)
    step, batch = compiled()
    number = next(iter(contractions(step.lowered())))
    kept = {"name": "k0", "before": "a", "after": "b", "before_microseconds": 2.0, "after_microseconds": 1.0}
    known = {"name": "step", "tried": 1, "choices": [kept], "before_microseconds": 2.0, "after_microseconds": 1.0}
    key = graph_key(step.graph, None, host(), "tiles")
    jit.write_cache(key, json.dumps([known, [[number, 2]]]).encode())
    want = after_a_step(step, batch)
    first = step.lowered().text()
    with step.unchanged():
        assert tune(step, *batch).choices[0].after == "b"
    assert step.lowered().text() != first
    assert after_a_step(step, batch) == want


def test_only_compiled_functions_are_tuned() -> None:
    with pytest.raises(TypeError, match="received Linear"):
        tune(nn.Linear(2, 2), np.zeros((1, 2), np.float32))  # type: ignore[arg-type]
