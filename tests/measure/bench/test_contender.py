"""Processes that are measured: they answer, they are checked, and when they fail it is told."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from smelt.measure.bench.contender import Contender, ContenderError, Job
from smelt.measure.bench.networks import TRAIN, make
from smelt.measure.bench.others import Others
from smelt.measure.bench.turns import check_same, compare
from smelt.measure.bench.worker import WARM, timed
from smelt.models import MODELS

JOB = Job("train", "smelt", "lenet_300_100", 4, 1)


@pytest.fixture(scope="module")
def contender() -> Iterator[Contender]:
    c = Contender(JOB)
    c.ready()
    yield c
    c.close()


def test_a_contender_tells_what_it_built_and_times_it(contender: Contender) -> None:
    assert contender.forms == ["compiled step", "Trainer.fit"] and contender.parameters == 266_610
    assert contender.outputs.shape == (4, 10) and len(contender.losses) == 3
    assert all(0 < contender.burst(form, 2) < 60_000 for form in contender.forms)


class _Other:
    """What another library says of itself."""

    def __init__(self, like: Contender) -> None:
        self.job, self.parameters, self.outputs, self.losses = (
            like.job,
            like.parameters,
            like.outputs.copy(),
            list(like.losses),
        )


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda o: setattr(o, "parameters", 7), "7 parameters, expected 266610"),
        (lambda o: setattr(o, "outputs", o.outputs[:, :9]), r"outputs of shape \(4, 9\), expected \(4, 10\)"),
        (lambda o: o.outputs.__setitem__((0, 0), 5.0), "outputs differ by"),
        (lambda o: o.outputs.__setitem__((0, 0), np.nan), "outputs differ by nan"),
        (lambda o: o.losses.__setitem__(2, 0.5), "the loss of step 2 is 0.5, expected"),
    ],
)
def test_a_library_that_computes_something_else_is_refused(contender: Contender, change: object, said: str) -> None:
    other = _Other(contender)
    check_same(other, contender)  # type: ignore[arg-type]
    change(other)  # type: ignore[operator]
    with pytest.raises(ContenderError, match=said):
        check_same(other, contender)  # type: ignore[arg-type]


def test_a_library_that_fails_is_left_out_and_the_others_measured() -> None:
    comparison = compare([JOB, replace(JOB, library="nowhere"), replace(JOB, network="none")], rounds=2)
    assert [(r.library, r.form) for r in comparison.results] == [("smelt", f) for f in ("compiled step", "Trainer.fit")]
    assert comparison.ratio("nowhere") is None and comparison.peers == []
    assert sorted(s.reason for s in comparison.skipped) == [
        "KeyError: 'none'",
        "KeyError: ('train', 'nowhere')",
    ]


def test_a_library_that_crashes_is_told() -> None:
    c = Contender(JOB)
    try:
        c.ready()
        os.kill(c.process_id, signal.SIGKILL)
        with pytest.raises(ContenderError, match="killed by signal 9"):
            c.burst("compiled step", 1)
    finally:
        c.close()


def test_a_burst_warms_up_and_times_every_call() -> None:
    calls: list[int] = []
    assert len(timed(calls.append)(5)) == 5
    assert calls[-5:] == [*range(5)] and calls[:-5] == [*range(len(calls) - 5)] and len(calls) >= WARM + 5


def test_every_process_makes_the_same_network_and_data() -> None:
    a, b = make("ds_cnn"), make("ds_cnn")
    assert all(np.array_equal(v, b.model.state_dict()[k]) for k, v in a.model.state_dict().items())
    assert np.array_equal(a.batches(2)[7][0], b.batches(2)[7][0])
    assert a.drops and a.classes == 12 and not make("resnet8").drops
    assert set(TRAIN) < set(MODELS)


def test_our_own_work_is_not_counted_as_that_of_others() -> None:
    others = Others([])
    busy = sum(i * i for i in range(3_000_000))
    used = others.processors()
    assert busy and (used is None or used <= 1.1 * (os.cpu_count() or 1))
