"""Contenders by turns: the jobs for one network in; a :class:`Comparison` out.

Every form of every contender is tried in four bursts; the three best of each contender stay. Then all take turns, a
burst each, in another order every round, so that a change of the machine's speed hits all of them alike. A burst counts
as its median call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np

from smelt.measure.bench.contender import Contender, ContenderError, Job
from smelt.measure.bench.others import Others
from smelt.measure.bench.results import OURS, Comparison, Result, Skipped

BURST_MS = 150.0
LEAST_CALLS, MOST_CALLS = 5, 2000
STAY = 3  # forms of each contender that take part in the rounds: the best of a few bursts may be luck
OUTPUT_TOLERANCE = 1e-3  # of the largest output
LOSS_TOLERANCE = {"f32": 1e-2, "bf16": 5e-2}  # of the loss, after updates


def compare(jobs: Sequence[Job], rounds: int) -> Comparison:
    """Measure the jobs, which differ in library and threads only, against each other."""
    comparison = Comparison(jobs[0].network, jobs[0].batch)
    alive: dict[Job, Contender] = {}
    try:
        alive.update((job, Contender(job)) for job in jobs)
        _measure(comparison, alive, rounds)
    finally:
        for contender in alive.values():
            contender.close()
    return comparison


def _measure(comparison: Comparison, alive: dict[Job, Contender], rounds: int) -> None:
    @contextlib.contextmanager
    def noting(job: Job) -> Iterator[None]:
        """Leave a contender out from here on when it fails."""
        try:
            yield
        except ContenderError as error:
            comparison.skipped.append(Skipped(job.name, job.threads, str(error)))
            alive.pop(job).close()

    for job, contender in list(alive.items()):
        with noting(job):
            contender.ready()
    reference = next((c for job, c in alive.items() if job.library == OURS), None)
    for job, contender in list(alive.items()):
        with noting(job):
            if reference is not None:
                check_same(contender, reference)
    turns: list[tuple[Job, str, int]] = []
    for job, contender in list(alive.items()):
        with noting(job):
            turns += [(job, form, calls) for form, calls in _qualify(contender)]
    taken: dict[tuple[Job, str], list[float]] = {(job, form): [] for job, form, _ in turns}
    others = Others([c.process_id for c in alive.values()])
    for i in range(rounds):
        first = i % max(len(turns), 1)
        for job, form, calls in turns[first:] + turns[:first]:
            if job in alive:
                with noting(job):
                    taken[job, form].append(alive[job].burst(form, calls))
    comparison.others = others.processors()
    for (job, form), times in taken.items():
        if job in alive:
            comparison.results.append(Result.of(job.name, job.threads, form, times))


def check_same(contender: Contender, reference: Contender) -> None:
    """Refuse a contender that does not compute what Smelt computes.

    Raises
    ------
    ContenderError
        When it has another number of parameters, other outputs, or other losses in the first training steps (which a
        network with dropout has in every library).
    """
    if contender.parameters != reference.parameters:
        raise ContenderError(f"{contender.parameters} parameters, expected {reference.parameters}: another network")
    ours, theirs = reference.outputs, contender.outputs
    if ours.shape != theirs.shape:
        raise ContenderError(f"outputs of shape {theirs.shape}, expected {ours.shape}")
    off = float(np.max(np.abs(ours - theirs)) / np.max(np.abs(ours)))
    if not off <= OUTPUT_TOLERANCE:
        raise ContenderError(f"outputs differ by {off:.1e} of the largest, expected {OUTPUT_TOLERANCE:g} at most")
    for i, (a, b) in enumerate(zip(reference.losses, contender.losses, strict=False)):
        if not abs(a - b) <= LOSS_TOLERANCE[contender.job.precision] * abs(a):
            raise ContenderError(f"the loss of step {i} is {b:g}, expected {a:g}: another training step")


def _qualify(contender: Contender) -> list[tuple[str, int]]:
    """Return the contender's best forms, each with the number of calls that make a burst."""
    found = []
    for form in contender.forms:
        once = contender.burst(form, LEAST_CALLS)
        calls = int(min(max(BURST_MS / max(once, 1e-3), LEAST_CALLS), MOST_CALLS))
        found.append((min(once, *(contender.burst(form, calls) for _ in range(3))), form, calls))
    return [(form, calls) for _, form, calls in sorted(found)[:STAY]]
