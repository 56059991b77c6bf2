"""Profile: where the time of a compiled function goes, inside of the real step.

In: a compiled function and its arguments. Out: a :class:`~smelt.measure.times.Profile`: for every kernel its time,
operations, bytes, what bounds it, the layer and the user's line; for every phase how long threads wait; how long
training waits for data. What is measured is the step that runs, with one read of the cycle counter after every kernel
and every barrier.
"""

from __future__ import annotations

import ctypes
import functools
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import repeat
from typing import Any

import numpy as np

from smelt.compiler import jit
from smelt.compiler.emit.llvm import CTX_STAMPS
from smelt.compiler.isa import host
from smelt.compiler.passes.rounds import phases_in, rounds_of
from smelt.compiler.program import Lowered, module_text
from smelt.data import ArrayDataset, Loader
from smelt.data.augment import Augmentation
from smelt.errors import at_user_line
from smelt.measure.roofline import Ceilings, measured_ceilings
from smelt.measure.system import busy_warning
from smelt.measure.times import KernelTime, PhaseTime, Profile, Segment
from smelt.measure.work import distances, work
from smelt.nn.calls import leaves
from smelt.runtime import native, workers
from smelt.runtime.inference import Inference
from smelt.runtime.step import Compiled
from smelt.train.trainer import Trainer

WARM = 5  # steps before those that are measured
ABOVE, LEAST_SHARE = 1.1, 0.03  # of a ceiling, and of all kernels: what says that the ceiling is wrong
Batch = tuple[tuple[Any, ...], dict[str, Any]]  # the arguments of one call


def profile(step: Compiled | Inference, *args: Any, steps: int = 50, **kwargs: Any) -> Profile:
    """Run a compiled function ``steps`` times and return where its time goes.

    The function does what it always does: a training step trains.

    Parameters
    ----------
    step : Compiled or Inference
        From :func:`smelt.compile` or :meth:`smelt.nn.Module.compile`.
    *args, **kwargs
        Passed on at every call.
    steps : int, default 50
        Measured steps, after five that are not.

    Returns
    -------
    Profile
        Printable, one line per kernel, slowest first.

    Examples
    --------
    >>> import numpy as np, smelt
    >>> from smelt.measure import profile
    >>> double = smelt.compile(lambda x: x * 2.0)
    >>> found = profile(double, np.ones((8, 8), np.float32), steps=3)
    >>> [(k.name, k.flops, k.bytes) for k in found.kernels]
    [('k0_mul', 64, 512)]
    """
    return profile_batches(step, repeat((args, kwargs)), steps)


def profile_training(
    trainer: Trainer,
    train: ArrayDataset,
    batch_size: int = 64,
    steps: int = 50,
    *,
    seed: int = 0,
    augment: Augmentation | None = None,
) -> Profile:
    """Profile the training step of a trainer, and how long training waits for its data.

    The model is trained: step by step for the kernels, then as many steps by :meth:`smelt.Trainer.fit`, which prepares
    a batch while a step runs.

    Parameters
    ----------
    trainer : Trainer
        With ``compile=True``.
    train : ArrayDataset
        At least one batch.
    batch_size, seed, augment
        As of :meth:`smelt.Trainer.fit`.
    steps : int, default 50
        Measured steps; of ``fit`` about as many, in several epochs where there are few data.

    Returns
    -------
    Profile
        With ``fit_microseconds`` and ``stall_microseconds``.

    Raises
    ------
    ValueError
        When the trainer is not compiled.

    Examples
    --------
    >>> import smelt
    >>> from smelt import data, nn, optim
    >>> from smelt.measure import profile_training
    >>> train, _ = data.digits()
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> trainer = smelt.Trainer(model, nn.CrossEntropyLoss(), optim.Adam())
    >>> found = profile_training(trainer, train, batch_size=32, steps=3)
    >>> found.stall_microseconds <= found.fit_microseconds
    True
    """
    step = trainer.steps.train
    if not isinstance(step, Compiled):
        raise ValueError(at_user_line("profile_training: expected a trainer with compile=True"))
    trainer.model.train()
    loader = Loader(train, batch_size, seed=seed, drop_last=True, augment=augment)
    found = profile_batches(step, _endless(loader), steps)
    part = train.take(min(len(train), batch_size * steps))
    epochs = max(1, steps // (len(part) // batch_size))
    history = trainer.fit(part, epochs, batch_size, seed=seed, augment=augment, drop_last=True, progress=False)
    count = epochs * (len(part) // batch_size)
    seconds, stalled = (sum(getattr(e, f"{what}_seconds") for e in history) for what in ("train", "stall"))
    return replace(found, fit_microseconds=1e6 * seconds / count, stall_microseconds=1e6 * stalled / count)


def _endless(loader: Loader) -> Iterator[Batch]:
    while True:
        with closing(iter(loader)) as batches:  # type: ignore[type-var]
            for x, y in batches:
                yield (x, y), {}


def profile_batches(step: Compiled | Inference, batches: Iterable[Batch], steps: int) -> Profile:
    """Profile a function over batches: pairs of positional and keyword arguments, all of one size."""
    feed = iter(batches)
    args, kwargs = next(feed)
    _wait(step(*args, **kwargs))
    busy = busy_warning()  # before the work of these steps counts
    lowered = step.lowered()
    segments = segments_of(lowered)
    library = stamped(lowered)
    timeline, calls, rows = run_stamped(step, lowered, library, feed, steps)
    steps, threads = timeline.shape[:2]
    ceilings = measured_ceilings(threads)
    rounds = rounds_of(rows, lowered.capacity) if lowered.before else 1
    kernels = _kernels(lowered, segments, timeline, ceilings, rows, rounds)
    phases = _phases(lowered, segments, timeline)
    return Profile(
        step.name,
        lowered.capacity if lowered.apart else 0,
        threads,
        workers.get_threads(),
        steps,
        step_microseconds(timeline),
        1e6 * float(np.median(calls)),
        float(sum(np.mean(p.waiting_microseconds) for p in phases)),
        kernels,
        phases,
        ceilings,
        segments,
        timeline,
        (library, step.library, native.library()),
        tuple(filter(None, [busy, _too_fast(kernels)])),
        rounds=rounds,
        round_rows=lowered.capacity if lowered.before else 0,
        barriers=0 if lowered.apart else max(phases_in(rounds, lowered.once, lowered.before, lowered.last) - 1, 0),
    )


def stamped(lowered: Lowered) -> jit.Library:
    """Return the machine code of a step that writes down when each kernel ended."""
    return jit.Library(jit.compile_object(module_text(lowered, host(), stamps=True), host()), ("step",))


def run_stamped(
    step: Compiled | Inference, lowered: Lowered, library: jit.Library, batches: Iterable[Batch], steps: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Run a stamped form of a function in its place.

    Returns microseconds by (step, thread, stamp), seconds by call, and the rows of the batch; after a few steps that
    do not count.
    """
    feed = iter(batches)
    stamps = np.zeros((steps + WARM, workers.get_threads(), 1 + len(segments_of(lowered))), np.int64)
    calls = np.zeros(steps + WARM)
    with step.replaced(library.address["step"]) as context:
        for i in range(steps + WARM):
            context[CTX_STAMPS // 8] = stamps[i].ctypes.data
            args, kwargs = next(feed)
            started = time.perf_counter()
            _wait(step(*args, **kwargs))
            calls[i] = time.perf_counter() - started
        context[CTX_STAMPS // 8] = 0
        rows = int(context[0])
    stamps, ran = _took_part(stamps[WARM:])
    timeline = stamps / ticks_per_microsecond()
    if lowered.apart:  # no barriers, and every step's stamps begin at 0
        timeline[1:] += np.cumsum(timeline[:-1, :, -1].max(axis=1))[:, None, None]
    return timeline - timeline.min(), calls[WARM:][ran], rows


def _too_fast(kernels: Sequence[KernelTime]) -> str | None:
    """Return a warning when arithmetic was faster than its ceiling, which then was measured on a slower machine."""
    least = LEAST_SHARE * sum(k.microseconds for k in kernels)
    if all(k.of_peak <= ABOVE or k.bound != "compute" or k.microseconds < least for k in kernels):
        return None
    return "kernels are above the ceiling of arithmetic: it was measured while the machine was slower"


def _took_part(stamps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the stamps of the steps that ran on as many threads as most, those threads', and which steps they were.

    A short step does not wait for threads that sleep; whoever took no part wrote nothing.
    """
    threads = (stamps[:, :, -1] != 0).sum(axis=1)
    usual = int(np.bincount(threads).argmax())
    ran = threads == usual
    return stamps[ran][:, : max(usual, 1)], ran


def _wait(result: Any) -> None:
    """Wait until the values of a call are there."""
    for value in leaves(result):
        value.numpy()


def segments_of(lowered: Lowered) -> tuple[Segment, ...]:
    """Return what lies between one time stamp and the next: kernels, and the barriers between phases."""
    out: list[Segment] = []
    kernel = 0
    for number, phase in enumerate(lowered.phases):
        if number and not lowered.apart:
            out.append(Segment(f"barrier {number}", None))
        for k in phase:
            out.append(Segment(k.name, kernel))
            kernel += 1
    return tuple(out)


def step_microseconds(timeline: np.ndarray) -> float:
    """Return how long a step took, the median over the measured ones."""
    return float(np.median(timeline[:, :, -1].max(axis=1) - timeline[:, :, 0].min(axis=1)))


def _kernels(
    lowered: Lowered,
    segments: tuple[Segment, ...],
    timeline: np.ndarray,
    ceilings: Ceilings,
    rows: int,
    rounds: int,
) -> tuple[KernelTime, ...]:
    spans = np.median(np.diff(timeline, axis=2), axis=0)[:, [s.kernel is not None for s in segments]]
    whole = step_microseconds(timeline)
    # Threads that work apart run all kernels on one slice after another, each in its own part of the caches.
    at_once = lowered.capacity if lowered.apart else -(-rows // rounds)
    slices, apart = (rows / at_once, ceilings.threads) if lowered.apart and at_once else (1.0, 1)
    works = [work(k, at_once) for k in lowered.kernels]
    out = []
    placed = [(number, k) for number, phase in enumerate(lowered.phases) for k in phase]
    for (number, k), us, did, moved in zip(placed, spans.T, works, distances(works), strict=True):
        times = slices
        if number < lowered.once + lowered.before:
            times = min(rounds - 1, 1) if number < lowered.once else rounds - 1
        slow = float(us.max())
        flops, nbytes = round(did.flops * times), round(did.bytes * times)
        threads = ceilings.threads if lowered.apart else min(k.range.units(at_once), ceilings.threads)
        traffic = [(round(n * times), distance * apart) for n, distance in moved]
        place = ceilings.place(1e-6 * slow, flops, traffic, threads, round(did.paired * times))
        out.append(
            KernelTime(
                k.name,
                k.note,
                k.layers,
                k.lines,
                number,
                slow,
                tuple(map(float, us)),
                slow / whole if whole else 0.0,
                round(k.macs * times),
                flops,
                nbytes,
                1e-3 * flops / slow if slow else 0.0,
                1e-3 * nbytes / slow if slow else 0.0,
                place.level,
                place.bound,
                place.of_peak,
            )
        )
    return tuple(out)


def _phases(lowered: Lowered, segments: tuple[Segment, ...], timeline: np.ndarray) -> tuple[PhaseTime, ...]:
    spans = np.median(np.diff(timeline, axis=2), axis=0)
    at_end = np.median(timeline[:, :, -1].max(axis=1, keepdims=True) - timeline[:, :, -1], axis=0)
    ends = [i for i, s in enumerate(segments) if s.kernel is None] + [len(segments)] * bool(segments)
    out = []
    first = 0
    for number, end in enumerate(ends):
        busy = spans[:, first:end].sum(axis=1)
        waits = spans[:, end] if end < len(segments) else at_end
        imbalance = float(busy.max() / busy.mean() - 1) if busy.mean() else 0.0
        out.append(PhaseTime(number, end - first, float(busy.max()), tuple(map(float, waits)), imbalance))
        first = end + 1
    return tuple(out)


@functools.cache
def ticks_per_microsecond() -> float:
    """Return the rate of the cycle counter, measured against the clock over 20 ms."""
    text = (
        f'target triple = "{host().triple}"\n'
        "define i64 @now() {\n  %t = call i64 @llvm.COUNTER()\n  ret i64 %t\n}\ndeclare i64 @llvm.COUNTER()\n"
    )
    counter = "readcyclecounter" if host().triple.startswith("x86_64") else "readsteadycounter"
    library = jit.Library(jit.compile_object(text.replace("COUNTER", counter), host()), ("now",))
    now = ctypes.CFUNCTYPE(ctypes.c_int64)(library.address["now"])
    start, ticks = time.perf_counter(), now()
    time.sleep(0.02)
    return float(now() - ticks) / ((time.perf_counter() - start) * 1e6)
