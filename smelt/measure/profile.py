"""Profile: where the time of a compiled function goes, inside of the real step.

In: a compiled function and its arguments. Out: a :class:`Profile`: for every kernel its time, operations, bytes, what
bounds it, the layer and the user's line; for every phase how long threads wait; how long the step waited for data. What
is measured is the step that runs, with one read of the cycle counter after every kernel and every barrier.
"""

from __future__ import annotations

import ctypes
import functools
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from smelt.compiler import jit
from smelt.compiler.emit.llvm import CTX_STAMPS
from smelt.compiler.isa import host
from smelt.compiler.loops import short_name
from smelt.compiler.program import Lowered, module_text
from smelt.measure import perf_map, picture, trace
from smelt.measure.roofline import Ceilings, measured_ceilings
from smelt.measure.system import busy_warning
from smelt.measure.work import distances, work
from smelt.nn.calls import leaves
from smelt.runtime import workers
from smelt.runtime.inference import Inference
from smelt.runtime.step import Compiled

WARM = 5  # steps before those that are measured
MOST = 20  # kernels, and layers, that have a line
NUMBERS = ("µs", "%", "GFLOP/s", "GB/s", "of peak")  # columns
_LEAST_WAIT, _LEAST_STALL = 0.01, 0.001  # of the step, to be told
Batch = tuple[tuple[Any, ...], dict[str, Any]]  # the arguments of one call


@dataclass(frozen=True)
class KernelTime:
    """One kernel: medians over the measured steps.

    Attributes
    ----------
    name, operations : str
        The function in the machine code, and the primitives fused in it.
    layers, lines : tuple of str
        The layers it belongs to, and the user's lines that made it.
    phase : int
        It runs after as many barriers.
    microseconds : float
        Of the slowest thread.
    thread_microseconds : tuple of float
        Of each.
    share : float
        Of the step, by the slowest thread.
    macs, flops : int
        Multiply-accumulates the graph asks for, and floating-point operations the loops execute.
    bytes : int
        Bytes of the buffers it reads and writes, each once.
    gflops, gb_per_s : float
        ``flops`` and ``bytes`` by time.
    level : str
        The cache most of them come from, or "memory": the fastest that holds what was moved since they were touched.
    bound : str
        "compute", "memory" or "latency": see :meth:`smelt.measure.roofline.Ceilings.place`.
    of_peak : float
        The share of that ceiling that is reached.
    """

    name: str
    operations: str
    layers: tuple[str, ...]
    lines: tuple[str, ...]
    phase: int
    microseconds: float
    thread_microseconds: tuple[float, ...]
    share: float
    macs: int
    flops: int
    bytes: int
    gflops: float
    gb_per_s: float
    level: str
    bound: str
    of_peak: float

    @property
    def number(self) -> str:
        """Its short name: ``k3``."""
        return short_name(self.name)

    @property
    def layer(self) -> str:
        """The first of its layers, or an empty string."""
        return self.layers[0] if self.layers else ""

    @property
    def title(self) -> str:
        """Layers and operations, in a few words."""
        layers = " + ".join(self.layers[:2]) + ("…" if len(self.layers) > 2 else "")
        operations = self.operations.split(" + ")
        some = " + ".join(operations[:4]) + (f" + {len(operations) - 4} more" if len(operations) > 4 else "")
        return f"{layers}: {some}" if layers else some


@dataclass(frozen=True)
class PhaseTime:
    """What lies between two barriers: medians over the measured steps.

    ``waiting_microseconds`` is what each thread waits at the barrier that ends it (or the step), and ``imbalance`` how
    much longer the slowest thread works than the mean of all: 0 is perfect.
    """

    number: int
    kernels: int
    microseconds: float
    waiting_microseconds: tuple[float, ...]
    imbalance: float


@dataclass(frozen=True)
class Segment:
    """What lies between two time stamps: a kernel, by its place in ``Profile.kernels``, or (None) a barrier."""

    name: str
    kernel: int | None


@dataclass(frozen=True, eq=False)
class Profile:
    """Where the time of one step goes; ``print`` it for a table.

    Attributes
    ----------
    name : str
        Of the compiled function.
    slice_rows : int
        How many samples a thread takes through all kernels at a time, where threads work apart, as they do on a batch
        to infer; 0 where they share every kernel. Times are then the sums over the slices.
    threads, wanted_threads : int
        Threads most steps ran on, and those there are: a short step does not wait until sleeping ones are awake.
    steps : int
        Steps that were measured, and ran on so many threads.
    step_microseconds : float
        From the first thread's start to the last one's end, in native code; the median.
    call_microseconds : float
        The whole call from Python, until the result is there.
    stall_microseconds : float
        How long a step waited for its data; 0 where they were there before.
    waiting_microseconds : float
        How long a thread waits for others, at barriers and at the end of the step; mean over the threads.
    kernels : tuple of KernelTime
        In the order in which they run.
    phases : tuple of PhaseTime
        The same.
    ceilings : Ceilings
        What this machine reaches, measured in the same process.
    segments : tuple of Segment
        What a thread does from one time stamp to the next.
    timeline : numpy.ndarray
        (steps, threads, segments + 1): the time stamps in microseconds.
    image, library : bytes, Library
        The machine code that was measured.
    warnings : tuple of str
        Why the times may mean little.
    """

    name: str
    slice_rows: int
    threads: int
    wanted_threads: int
    steps: int
    step_microseconds: float
    call_microseconds: float
    stall_microseconds: float
    waiting_microseconds: float
    kernels: tuple[KernelTime, ...]
    phases: tuple[PhaseTime, ...]
    ceilings: Ceilings
    segments: tuple[Segment, ...] = field(repr=False)
    timeline: np.ndarray = field(repr=False)
    image: bytes = field(repr=False)
    library: jit.Library = field(repr=False)
    warnings: tuple[str, ...] = ()

    def slowest(self) -> list[KernelTime]:
        """Return the kernels, those that take most time first."""
        return sorted(self.kernels, key=lambda k: -k.microseconds)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the single steps as JSON-able values."""
        out = {k: v for k, v in vars(self).items() if k not in ("segments", "timeline", "image", "library")}
        kernels, phases = [asdict(k) for k in self.kernels], [asdict(p) for p in self.phases]
        return out | {"kernels": kernels, "phases": phases, "ceilings": self.ceilings.to_dict()}

    def save_trace(self, path: str | os.PathLike[str]) -> None:
        """Write some of the measured steps as a Chrome trace, which Perfetto opens: one track per thread."""
        trace.write_chrome(self, path)

    def save_stacks(self, path: str | os.PathLike[str]) -> None:
        """Write collapsed stacks, ``module;...;kernel microseconds``, of which flame graphs are made."""
        trace.write_stacks(self, path)

    def save_roofline(self, path: str | os.PathLike[str]) -> None:
        """Draw the roofline as a picture; needs matplotlib (``pip install smelt[plot]``)."""
        picture.draw(self, path)

    def save_perf_map(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Add the kernels' addresses to ``/tmp/perf-PID.map`` (or ``path``), where Linux's ``perf`` looks for names."""
        return perf_map.write_map(perf_map.symbols(self.image, self.library), path)

    def by_layer(self) -> dict[str, tuple[float, int]]:
        """Return microseconds and number of kernels of each layer, the slowest first; a kernel counts for its first."""
        found: dict[str, tuple[float, int]] = {}
        for k in self.kernels:
            us, count = found.get(k.layer, (0.0, 0))
            found[k.layer] = us + k.microseconds, count + 1
        return dict(sorted(found.items(), key=lambda item: -item[1][0]))

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the headings and the cells of the slowest kernels."""
        head = ["µs", "%", "GFLOP/s", "GB/s", "from", "of peak", "bound", "kernel", "layer: operations"]
        body = []
        for k in self.slowest()[:MOST]:
            rate = f"{k.gflops:.1f}" if k.flops else ""
            cells = [f"{k.microseconds:.1f}", f"{100 * k.share:.1f}", rate, f"{k.gb_per_s:.1f}", k.level]
            body.append([*cells, f"{100 * k.of_peak:.0f} %", k.bound, k.number, k.title])
        return head, body

    def header(self) -> list[str]:
        """Return the lines above the table."""
        step = self.step_microseconds
        ideal = sum(k.microseconds * min(k.of_peak, 1.0) for k in self.kernels)
        lines = [
            f"{self.name}: {step:,.1f} µs in native code on {_count(self.threads, 'thread')}, "
            f"{self.call_microseconds:,.1f} with the call from Python; median of {_count(self.steps, 'step')}",
            f"this machine reaches {self.ceilings}; with every kernel at its ceiling: {ideal:,.1f} µs",
        ]
        if self.threads < self.wanted_threads:
            lines.append(f"{self.wanted_threads} threads are there; the step is too short to wait until they are awake")
        if self.slice_rows:
            samples = _count(self.slice_rows, "sample")
            lines.append(f"threads work apart, and take {samples} at a time through all kernels")
        if self.threads > 1:
            barriers = len(self.phases) - 1
            where = f"{_count(barriers, 'barrier')} and the end" if barriers > 0 else "the end"
            share = 100 * self.waiting_microseconds / step if step else 0.0
            wait = f"{self.waiting_microseconds:,.1f} µs ({share:.1f} %)"
            lines.append(f"a thread waits for others {wait}, at {where}")
        if self.stall_microseconds > max(_LEAST_STALL * step, 1.0):
            share = 100 * self.stall_microseconds / (self.call_microseconds + self.stall_microseconds)
            lines.append(f"the step waits for its data {self.stall_microseconds:,.1f} µs ({share:.1f} %)")
        return lines + [f"warning: {w}" for w in self.warnings]

    def footer(self) -> list[str]:
        """Return the lines under the table: the other kernels, layers, phases with waits, and the user's lines."""
        rest = [k.microseconds for k in self.slowest()[MOST:]]
        lines = [f"and {_count(len(rest), 'kernel')} more, {sum(rest):,.1f} µs together"] if rest else []
        layers = self.by_layer()
        if len(self.kernels) > MOST:
            lines += ["", "by layer, µs (kernels)"]
            for layer, (us, count) in list(layers.items())[:MOST]:
                lines.append(f"{us:>9,.1f}  {layer or 'outside of layers'} ({count})")
        uneven = sorted(self.phases, key=lambda p: -max(p.waiting_microseconds))[:3]
        uneven = [p for p in uneven if max(p.waiting_microseconds) > _LEAST_WAIT * self.step_microseconds]
        if uneven and self.threads > 1:
            lines += ["", "where threads wait"]
            for p in uneven:
                waits = ", ".join(f"{w:.1f}" for w in p.waiting_microseconds)
                lines.append(
                    f"phase {p.number}, {p.microseconds:.1f} µs: {waits} µs per thread; "
                    f"the slowest works {100 * p.imbalance:.0f} % longer than the mean"
                )
        by_line = self._by_line()
        return lines + ["", *(f"{line}  [{', '.join(names)}]" for line, names in by_line.items())] * bool(by_line)

    def _by_line(self) -> dict[str, list[str]]:
        """Return the user's lines with the kernels of the table they made; nothing where one line made all."""
        found: dict[str, list[str]] = {}
        for k in self.slowest()[:MOST]:
            for line in k.lines:
                found.setdefault(line, []).append(k.number)
        return found if len(found) > 1 else {}

    def __str__(self) -> str:
        head, body = self.table()
        widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]

        def text(cells: list[str]) -> str:
            pairs = zip(head, cells, widths, strict=True)
            return "  ".join(c.rjust(w) if h in NUMBERS else c.ljust(w) for h, c, w in pairs).rstrip()

        return "\n".join([*self.header(), "", text(head), *map(text, body), *self.footer()])


def _count(n: int, what: str) -> str:
    return f"{n} {what}" + "s" * (n != 1)


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


def profile_batches(step: Compiled | Inference, batches: Iterable[Batch], steps: int) -> Profile:
    """Profile a function over batches: pairs of positional and keyword arguments, all of one size.

    How long ``next(batches)`` takes is how long the step waits for its data.
    """
    feed = iter(batches)
    args, kwargs = next(feed)
    _wait(step(*args, **kwargs))
    busy = busy_warning()  # before the work of these steps counts
    lowered = step.lowered()
    segments = _segments(lowered)
    count = 1 + len(lowered.kernels) + max(len(lowered.phases) - 1, 0)
    stamps = np.zeros((steps + WARM, workers.get_threads(), count), np.int64)
    calls, stalls = np.zeros(steps + WARM), np.zeros(steps + WARM)
    image = jit.compile_object(module_text(lowered, host(), stamps=True), host())
    library = jit.Library(image, ("step",))
    with step.replaced(library.address["step"]) as context:
        for i in range(steps + WARM):
            context[CTX_STAMPS // 8] = stamps[i].ctypes.data
            asked = time.perf_counter()
            args, kwargs = next(feed)
            started = time.perf_counter()
            _wait(step(*args, **kwargs))
            calls[i], stalls[i] = time.perf_counter() - started, started - asked
        context[CTX_STAMPS // 8] = 0
        rows = int(context[0])
    stamps, ran = _took_part(stamps[WARM:])
    steps, threads = stamps.shape[:2]
    timeline = stamps / ticks_per_microsecond()
    if lowered.apart:  # no barriers, and every step's stamps begin at 0
        timeline = timeline[:, :, [0, *range(1, count, 2)]]
        timeline[1:] += np.cumsum(timeline[:-1, :, -1].max(axis=1))[:, None, None]
    timeline -= timeline.min()
    ceilings = measured_ceilings(threads)
    kernels, phases = _kernels(lowered, segments, timeline, ceilings, rows), _phases(lowered, segments, timeline)
    return Profile(
        step.name,
        lowered.capacity if lowered.apart else 0,
        threads,
        workers.get_threads(),
        steps,
        _step_microseconds(timeline),
        1e6 * float(np.median(calls[WARM:][ran])),
        1e6 * float(np.median(stalls[WARM:])),
        float(sum(np.mean(p.waiting_microseconds) for p in phases)),
        kernels,
        phases,
        ceilings,
        segments,
        timeline,
        image,
        library,
        tuple(filter(None, [busy])),
    )


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


def _segments(lowered: Lowered) -> tuple[Segment, ...]:
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


def _step_microseconds(timeline: np.ndarray) -> float:
    return float(np.median(timeline[:, :, -1].max(axis=1) - timeline[:, :, 0].min(axis=1)))


def _kernels(
    lowered: Lowered, segments: tuple[Segment, ...], timeline: np.ndarray, ceilings: Ceilings, rows: int
) -> tuple[KernelTime, ...]:
    spans = np.median(np.diff(timeline, axis=2), axis=0)[:, [s.kernel is not None for s in segments]]
    whole = _step_microseconds(timeline)
    # Threads that work apart run all kernels on one slice after another, each in its own part of the caches.
    at_once = lowered.capacity if lowered.apart else rows
    times, apart = (rows / at_once, ceilings.threads) if lowered.apart and at_once else (1.0, 1)
    works = [work(k, at_once) for k in lowered.kernels]
    out = []
    placed = [(number, k) for number, phase in enumerate(lowered.phases) for k in phase]
    for (number, k), us, did, moved in zip(placed, spans.T, works, distances(works), strict=True):
        slow = float(us.max())
        flops, nbytes = round(did.flops * times), round(did.bytes * times)
        threads = ceilings.threads if lowered.apart else min(k.range.units(rows), ceilings.threads)
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
