"""The collector of cycles rests while a step is compiled, and only then."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pytest

import smelt
from smelt import nn

X = np.ones((2, 3), np.float32)


@pytest.fixture(autouse=True)
def _enabled() -> Iterator[None]:
    gc.enable()
    yield
    gc.enable()


def test_it_rests_while_a_function_is_traced_and_compiled() -> None:
    seen = []

    @smelt.compile
    def double(x: smelt.Tensor) -> smelt.Tensor:
        seen.append(gc.isenabled())
        return x * 2.0

    for _ in range(2):
        double(X)
        assert gc.isenabled()
    assert seen == [False]


def test_it_works_again_after_an_error() -> None:
    @smelt.compile
    def wrong(x: smelt.Tensor) -> smelt.Tensor:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        wrong(X)
    assert gc.isenabled()


def test_one_that_was_switched_off_stays_off() -> None:
    gc.disable()
    smelt.compile(lambda x: x + 3.0)(X)
    nn.Linear(3, 4).compile()(X)
    assert not gc.isenabled()
