"""The same bits for any number of threads, in every run and process; random numbers as eager draws them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import smelt
from smelt import nn, random
from smelt.tensor import Tensor

from .zoo import CASES, Training

TESTS = Path(__file__).parent.parent
SIZES = (32, 32, 7, 32)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    yield
    smelt.set_threads(None)


def digest(name: str, threads: int | None) -> str:
    """Return the digest of all that a few steps of training leave, batches of 32 and one of 7."""
    smelt.set_threads(threads)
    training = Training(CASES[name])
    step = smelt.compile(training.step)
    out = hashlib.sha256()
    for i, rows in enumerate(SIZES):
        out.update(step(*training.case.data(rows, seed=i)).numpy().tobytes())
    for value in training.values().values():
        out.update(value.tobytes())
    return out.hexdigest()


NAMES = ["mnist_cnn", "ds_cnn", "autoencoder", "dropout", "odd_convolutions", "convolutions_1d", "normalized"]


@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_threads_gives_the_same_bits(name: str) -> None:
    want = digest(name, 1)
    for threads in (2, 3, 4, 8):
        assert digest(name, threads) == want, f"{threads} threads"


@pytest.mark.parametrize("name", ["dropout", "odd_convolutions"])
def test_another_process_gives_the_same_bits_compiled_anew_or_from_the_cache(name: str, tmp_path: Path) -> None:
    script = f"from compiler.test_determinism import digest; print(digest({name!r}, 2))"
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": path, "PYTHONHASHSEED": "random"}
    printed = [
        subprocess.run(
            [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True
        ).stdout.strip()
        for _ in range(2)
    ]
    assert printed == [digest(name, None)] * 2


def test_a_run_repeats_itself() -> None:
    assert len({digest("convolutions_1d", None) for _ in range(3)}) == 1


# --- random numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1,), (5,), (16,), (3, 37), (2, 3, 17, 5), (40, 257)])
@pytest.mark.parametrize("threads", [1, 3])
def test_compiled_draws_are_eager_draws_to_the_bit(shape: tuple[int, ...], dtype: str, threads: int) -> None:
    smelt.set_threads(threads)
    a, b = random.Generator(2**40 + 5), random.Generator(2**40 + 5)
    draw = smelt.compile(lambda: (a.uniform(shape, dtype), a.uniform(shape, dtype)))
    for _ in range(3):
        for got in draw():
            np.testing.assert_array_equal(got.numpy(), b.uniform(shape, dtype).numpy())
    np.testing.assert_array_equal(a.state.numpy(), b.state.numpy())
    assert draw.traces == 1


def test_draws_that_follow_the_batch_do_not_depend_on_its_capacity() -> None:
    a, b = random.Generator(9), random.Generator(9)
    draw = smelt.compile(lambda x: x + a.uniform(x.shape))
    for rows in (6, 4, 1, 6):
        got = draw(np.zeros((rows, 11), np.float32)).numpy()
        np.testing.assert_array_equal(got, b.uniform((rows, 11)).numpy())


def test_the_counter_wraps_as_eager_does() -> None:
    a, b = random.Generator(1), random.Generator(1)
    for g in (a, b):
        g.state.assign(np.array([1, 2, 2**32 - 1, 0], np.uint32))
    draw = smelt.compile(lambda: a.uniform((7,)))
    for _ in range(2):
        np.testing.assert_array_equal(draw().numpy(), b.uniform((7,)).numpy())
    assert a.state.tolist() == b.state.tolist() == [1, 2, 1, 0]


def test_dropout_drops_what_eager_drops() -> None:
    layer = nn.Dropout(0.3)
    x = np.random.default_rng(0).normal(size=(9, 4, 5, 3)).astype(np.float32)
    compiled = smelt.compile(lambda x: layer(x))
    smelt.seed(5)
    got = [compiled(x[:rows]).numpy() for rows in (9, 9, 5)]
    smelt.seed(5)
    want = [layer(Tensor(x[:rows])).numpy() for rows in (9, 9, 5)]
    for g, w in zip(got, want, strict=True):
        np.testing.assert_array_equal(g, w)
    assert (want[0] != want[1]).any()
