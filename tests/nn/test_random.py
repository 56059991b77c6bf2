"""The seed, the stream of random numbers, and its state."""

from typing import Any

import numpy as np
import pytest

import smelt
from smelt import nn, random
from smelt.errors import TraceError
from smelt.random import Generator


def test_seed_restarts_weights_and_draws() -> None:
    def draw() -> tuple[np.ndarray, np.ndarray]:
        return nn.Linear(3, 3).weight.numpy().copy(), random.uniform((5,)).numpy().copy()

    random.seed(5)
    first = draw()
    other = draw()
    random.seed(5)
    again = draw()
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()
    random.seed(6)
    assert (draw()[0] != first[0]).any()


def test_seeds_differ_in_either_word() -> None:
    draws = [Generator(s).uniform((4,)).tolist() for s in (0, 1, 1 << 32, (1 << 64) - 1)]
    assert len({tuple(d) for d in draws}) == 4


def test_uniform_looks_uniform() -> None:
    u = Generator(3).uniform((100_000,), "float64").numpy()
    assert u.dtype == np.float64 and u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 100_000)
    counts = np.histogram(u, 16, (0, 1))[0]
    assert ((counts - 6250) ** 2 / 6250).sum() < 45


def test_state_is_exact_and_checked() -> None:
    random.weights().normal(size=3)
    random.weights().integers(0, 9, dtype=np.uint32)
    state = random.get_state()

    def draw() -> list[Any]:
        w = random.weights()
        return [
            random.uniform((3,)).tolist(),
            w.integers(0, 99, 5, np.uint32).tolist(),
            w.uniform(size=3).tolist(),
        ]

    first = draw()
    assert draw() != first
    random.set_state({k: v.copy() for k, v in state.items()})
    assert draw() == first
    for bad in ({}, {**state, "default": np.zeros(4)}, {**state, "weights": np.full(13, 9, np.uint64)}):
        with pytest.raises(ValueError, match="random state"):
            random.set_state(bad)


@pytest.mark.parametrize("seed", [-1, 1 << 64, 1.0, True, "1", None])
def test_a_wrong_seed_is_refused(seed: Any) -> None:
    with pytest.raises(ValueError, match="seed: expected an integer from 0"):
        random.seed(seed)


def test_the_stream_runs_on_in_a_traced_step(traced: Any) -> None:
    x = np.ones((4, 3), np.float32)
    step = traced(lambda t: t + random.uniform(t.shape), x)
    assert not step.graph.exact
    random.seed(1)
    inside = [step(x), step(x)]
    random.seed(1)
    outside = [1 + random.uniform((4, 3)).numpy() for _ in range(2)]
    np.testing.assert_array_equal(inside, outside)


def test_what_happens_only_once_is_refused_while_tracing(traced: Any) -> None:
    for call in (
        lambda: random.seed(1),
        random.weights,
        lambda: random.set_state({}),
        lambda: nn.Linear(1, 1),
    ):
        with pytest.raises(TraceError, match="inside a compiled function would happen once"):
            traced(lambda t, call=call: (call(), t)[1], np.ones(2, np.float32))
    assert smelt.ones(1).item() == 1
