"""The random numbers: published known answers, independence of counters, and the distribution."""

from __future__ import annotations

import numpy as np
import pytest

from smelt import ops
from smelt.ops.random import threefry2x32
from smelt.tensor import Tensor


def state(*words: int) -> Tensor:
    return Tensor(np.array(words, np.uint32))


@pytest.mark.parametrize(
    ("key", "counter", "want"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_gives_the_published_words(
    key: tuple[int, int], counter: tuple[int, int], want: tuple[int, int]
) -> None:
    k0, k1, c0, c1 = (np.array([w], np.uint32) for w in (*key, *counter))
    got = threefry2x32((k0, k1), c0, c1)
    assert (int(got[0][0]), int(got[1][0])) == want


def test_uniform_is_the_top_24_bits_of_word_zero() -> None:
    draw = ops.random_uniform(state(11, 22, 33, 0), shape=(3, 5), dtype="float32").numpy().ravel()
    key = (np.array([11], np.uint32), np.array([22], np.uint32))
    word, _ = threefry2x32(key, np.arange(15, dtype=np.uint32), np.array([33], np.uint32))
    assert (draw * 2**24).astype(np.uint32).tolist() == (word >> np.uint32(8)).tolist()


def test_element_i_does_not_depend_on_the_shape_drawn() -> None:
    long = ops.random_uniform(state(1, 2, 3, 0), shape=(40,), dtype="float32").numpy()
    short = ops.random_uniform(state(1, 2, 3, 0), shape=(4, 5), dtype="float64").numpy()
    assert np.array_equal(long[:20], short.ravel())


def test_uniform_fills_zero_to_one_evenly() -> None:
    draw = ops.random_uniform(state(5, 6, 7, 0), shape=(100_000,), dtype="float32").numpy()
    assert draw.min() >= 0 and draw.max() < 1
    counts = np.histogram(draw, bins=20, range=(0, 1))[0]
    assert np.sum((counts - 5000.0) ** 2 / 5000) < 43.8  # chi-squared, 19 degrees of freedom, p = 0.001
    assert abs(np.corrcoef(draw[:-1], draw[1:])[0, 1]) < 0.02


@pytest.mark.parametrize("word", range(3))
def test_every_word_of_the_state_changes_the_draw(word: int) -> None:
    words = [1, 2, 3, 0]
    before = ops.random_uniform(state(*words), shape=(64,), dtype="float32").numpy()
    words[word] += 1
    after = ops.random_uniform(state(*words), shape=(64,), dtype="float32").numpy()
    assert np.mean(before == after) < 0.1


def test_advancing_adds_one_to_the_counter_and_leaves_the_old_state() -> None:
    before = state(1, 2, 2**32 - 2, 0)
    assert ops.advance_random(before).tolist() == [1, 2, 2**32 - 1, 0]
    assert before.tolist() == [1, 2, 2**32 - 2, 0]
