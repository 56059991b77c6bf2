"""What a profile found: times of kernels, of phases and of the step, printable as a table.

In: what :mod:`smelt.measure.profile` measured. Out: a :class:`Profile` to print, and its pictures and files.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from smelt.compiler import jit
from smelt.compiler.loops import short_name
from smelt.measure import perf_map, picture, trace
from smelt.measure.roofline import Ceilings

MOST = 20  # kernels, and layers, that have a line
NUMBERS = ("µs", "%", "GFLOP/s", "GB/s", "of peak")  # columns
_LEAST_WAIT = 0.01  # of the step, to be told


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
    fit_microseconds, stall_microseconds : float or None
        What a step takes in ``Trainer.fit``, with its batch, and the part of it in which nothing was done but wait for
        data. None where no trainer was profiled.
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
    code : tuple of Library
        The machine code that was measured, that of the same step without time stamps, and that of the workers.
    warnings : tuple of str
        Why the times may mean little.
    rounds, round_rows : int
        Into how many rounds a large batch was cut, and samples in each; 0 samples where it was not. Kernels whose names
        begin with r are not of the last one, and their times are sums.
    barriers : int
        In all rounds together.
    """

    name: str
    slice_rows: int
    threads: int
    wanted_threads: int
    steps: int
    step_microseconds: float
    call_microseconds: float
    waiting_microseconds: float
    kernels: tuple[KernelTime, ...]
    phases: tuple[PhaseTime, ...]
    ceilings: Ceilings
    segments: tuple[Segment, ...] = field(repr=False)
    timeline: np.ndarray = field(repr=False)
    code: tuple[jit.Library, ...] = field(repr=False)
    warnings: tuple[str, ...] = ()
    fit_microseconds: float | None = None
    stall_microseconds: float | None = None
    rounds: int = 1
    round_rows: int = 0
    barriers: int = 0

    def slowest(self) -> list[KernelTime]:
        """Return the kernels, those that take most time first."""
        return sorted(self.kernels, key=lambda k: -k.microseconds)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the single steps as JSON-able values."""
        out = {k: v for k, v in vars(self).items() if k not in ("segments", "timeline", "code")}
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
        return perf_map.write_map([s for code in self.code for s in perf_map.symbols(code)], path)

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
        if self.round_rows:
            rounds = f"{_count(self.rounds, 'round')} of at most {_count(self.round_rows, 'sample')}"
            lines.append(f"the batch goes in {rounds}; kernels with an r are not of the last one, and times are sums")
        if self.threads > 1:
            where = f"{_count(self.barriers, 'barrier')} and the end" if self.barriers > 0 else "the end"
            share = 100 * self.waiting_microseconds / step if step else 0.0
            wait = f"{self.waiting_microseconds:,.1f} µs ({share:.1f} %)"
            lines.append(f"a thread waits for others {wait}, at {where}")
        if self.fit_microseconds is not None and self.stall_microseconds is not None:
            share = 100 * self.stall_microseconds / self.fit_microseconds
            wait = f"{self.stall_microseconds:,.1f} µs ({share:.1f} %) of it waiting for data"
            lines.append(f"in Trainer.fit a step takes {self.fit_microseconds:,.1f} µs with its batch, {wait}")
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
