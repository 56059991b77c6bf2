"""How speed grows: a network of the zoo in; what kernels reach of the peak, more threads and larger batches gain, out.

All of it is measured in this process by turns, a burst each in every round, so that a change of the machine's speed
hits everything alike; ratios are taken within a round.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import smelt
from smelt import nn
from smelt.measure.bench.networks import make
from smelt.measure.bench.others import Others
from smelt.measure.bench.results import quartiles
from smelt.measure.bench.train_smelt import training_step
from smelt.measure.bench.turns import BURST_MS, LEAST_CALLS, MOST_CALLS
from smelt.measure.bench.worker import Burst, timed
from smelt.measure.peaks import peak_flops
from smelt.measure.profile import profile
from smelt.runtime.step import Compiled

THREADS_BATCH = 256
BATCHES = (16, 32, 64, 128, 256, 512, 1024)
KERNEL_STEPS = 20  # of each kernel in a round


@dataclass(frozen=True)
class Spread:
    """The median and the quartiles over the rounds."""

    low: float
    median: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Return the quartiles of some values.

        Examples
        --------
        >>> Spread.of([3.0, 1.0, 2.0])
        Spread(low=1.5, median=2.0, high=2.5)
        """
        return Spread(*quartiles(values))


@dataclass(frozen=True)
class KernelRate:
    """A kernel on one thread: its GFLOP/s inside the step, and their share of the peak measured in the same round."""

    name: str
    gflops: Spread
    peak_gflops: Spread
    of_peak: Spread


@dataclass(frozen=True)
class ThreadsGain:
    """A training step on several threads: milliseconds, and how many times as fast it is as on one."""

    threads: int
    batch: int
    milliseconds: Spread
    gain: Spread


@dataclass(frozen=True)
class BatchCost:
    """A training step at a batch: microseconds per sample, and the bytes of its arena, where all intermediates lie."""

    batch: int
    sample_microseconds: Spread
    arena_bytes: int


@dataclass(frozen=True)
class Scaling:
    """What was measured; ``others`` are the processors other programs used meanwhile."""

    network: str
    rounds: int
    kernels: tuple[KernelRate, ...]
    threads: tuple[ThreadsGain, ...]
    batches: tuple[BatchCost, ...]
    others: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        return asdict(self)


def products() -> dict[str, tuple[Compiled, np.ndarray]]:
    """Return a matrix product and a convolution that have much more arithmetic than memory to move."""
    rng = np.random.default_rng(0)
    weight = smelt.Parameter(rng.normal(size=(512, 512)).astype(np.float32), name="weight")
    layer = nn.Conv2d(64, 64, 3, padding=1, bias=False)
    return {
        "matrix product, 256 × 512 × 512": (smelt.compile(lambda x: x @ weight), _normal(rng, 256, 512)),
        "convolution 3 × 3, 64 to 64 channels, 8 × 27 × 27": (  # odd: with all products, not Winograd's fewer
            smelt.compile(lambda x: layer(x)),
            _normal(rng, 8, 64, 27, 27),
        ),
    }


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def _trained(network: str, batch: int) -> tuple[Compiled, Burst]:
    """Return a network's training step, and bursts of it."""
    made = make(network)
    batches = made.batches(batch, 2)
    step: Compiled = smelt.compile(training_step(made))
    return step, timed(lambda i: step(*batches[i % 2]).item())


def scaling(network: str, rounds: int) -> Scaling:
    """Measure how a network's training step, and two kernels, use the processor.

    Parameters
    ----------
    network : str
        Of the zoo.
    rounds : int
        How often all take their turn.
    """
    most = smelt.get_threads()
    try:
        return _scaling(network, rounds, sorted({1, most}))
    finally:
        smelt.set_threads(most)


def _scaling(network: str, rounds: int, threads: list[int]) -> Scaling:
    kernels = products()
    steps = {batch: _trained(network, batch) for batch in sorted({*BATCHES, THREADS_BATCH})}
    turns: dict[tuple[int, int], Callable[[], float]] = {}
    for batch, count in [*((b, threads[-1]) for b in BATCHES), *((THREADS_BATCH, n) for n in threads)]:
        turns[batch, count] = _turn(steps[batch][1], count)
    for step, x in kernels.values():
        step(x).numpy()
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in kernels}
    times: dict[tuple[int, int], list[float]] = {turn: [] for turn in turns}
    others = Others([])
    for _ in range(rounds):
        smelt.set_threads(1)
        for name, (step, x) in kernels.items():
            (kernel,) = [k for k in profile(step, x, steps=KERNEL_STEPS).kernels if k.macs]
            rates[name].append((2e-3 * kernel.macs / kernel.microseconds, 1e-9 * peak_flops(1, seconds=0.05)))
        for turn, burst in turns.items():
            times[turn].append(burst())
    return Scaling(
        network,
        rounds,
        tuple(_rate(name, pairs) for name, pairs in rates.items()),
        tuple(_gain(n, times[THREADS_BATCH, n], times[THREADS_BATCH, 1]) for n in threads),
        tuple(
            BatchCost(
                b,
                Spread.of([1e3 * t / b for t in times[b, threads[-1]]]),
                steps[b][0].lowered().memory.total(threads[-1]),
            )
            for b in BATCHES
        ),
        others.processors(),
    )


def _turn(burst: Burst, threads: int) -> Callable[[], float]:
    """Return what takes a turn: the median milliseconds of a burst on so many threads."""
    smelt.set_threads(threads)
    once = statistics.median(burst(LEAST_CALLS))
    calls = int(min(max(BURST_MS / once, LEAST_CALLS), MOST_CALLS))

    def turn() -> float:
        smelt.set_threads(threads)
        return statistics.median(burst(calls))

    return turn


def _rate(name: str, pairs: list[tuple[float, float]]) -> KernelRate:
    mine, peaks = zip(*pairs, strict=True)
    return KernelRate(name, Spread.of(mine), Spread.of(peaks), Spread.of([a / b for a, b in pairs]))


def _gain(threads: int, times: list[float], alone: list[float]) -> ThreadsGain:
    gains = [a / t for a, t in zip(alone, times, strict=True)]
    return ThreadsGain(threads, THREADS_BATCH, Spread.of(times), Spread.of(gains))
