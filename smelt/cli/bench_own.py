"""``smelt bench compile``, ``timeline``, ``scale`` and ``c``: networks in; times of Smelt in several forms out."""

from __future__ import annotations

from dataclasses import asdict

import smelt
from smelt.cli.bench import described, known_models, milliseconds, print_table, remarks, show
from smelt.cli.output import Output
from smelt.measure.bench import Comparison, default_work, exported, timeline
from smelt.measure.bench.first_call import first_calls, import_time
from smelt.measure.bench.scaling import Scaling, Spread, scaling
from smelt.measure.machine import inspect_machine
from smelt.measure.system import load
from smelt.models import MODELS

Row = tuple[str, ...]
CALL_HEAD = (
    *("network, batch", ""),
    *("first call, empty cache, ms", "compiling", "first call, full cache, ms", "finding", "second call, ms"),
)
KERNEL_HEAD = ("kernel, one thread", "GFLOP/s", "measured peak", "of peak")
THREADS_HEAD = ("threads", "ms per step", "times as fast as one")
BATCH_HEAD = ("batch", "µs per sample", "MiB of intermediates", "KiB per sample")
STAGE_HEAD = ("stage", "threads", "ms per step", "quartiles", "of before", "of first")


def time_first_calls(models: str | None, batch: int | None, rounds: int, as_json: bool) -> None:
    """Print how long the first calls of training steps take, with an empty cache and with a full one."""
    output = Output(as_json)
    work = default_work("train", known_models(models), batch)
    machine, before = inspect_machine(measure=False), load()
    output.say(f"{described(machine)}, load {before:.2f} before")
    imported = import_time(rounds)
    output.say(f"import smelt: {imported.median:.0f} ms ({imported.low:.0f} to {imported.high:.0f})")
    output.say(f"calls in fresh processes: median (quartiles) of {rounds}")
    body, calls = [], []
    for call in first_calls(work, ("train", "infer"), rounds):
        what = "training step" if call.kind == "train" else "inference"
        digits = (0, 0, 0, 0, 2)
        results = (call.empty, call.empty_compiling, call.full, call.full_compiling, call.second)
        times = [f"{r.median:.{d}f} ({r.low:.{d}f} to {r.high:.{d}f})" for r, d in zip(results, digits, strict=True)]
        body.append([f"{call.network}, {call.batch}", what, *times])
        calls.append(call.to_dict())
    print_table(CALL_HEAD, body, output)
    output.result(
        {
            "command": "compile",
            "machine": machine.to_dict(),
            "load_before": before,
            "rounds": rounds,
            "import": asdict(imported),
            "first_calls": calls,
        }
    )


def show_exported(models: str | None, rounds: int, as_json: bool) -> None:
    """Print how long networks take as objects, exported C, compiled by Smelt, and as naive loops in C."""
    output = Output(as_json)
    machine, before = inspect_machine(measure=False), load()
    output.say(f"{described(machine)}, load {before:.2f} before")
    output.say(f"one sample, one thread: median and quartiles of {rounds} rounds by turns")
    comparisons = []
    for network in known_models(models) or MODELS:
        found = exported(network, rounds)
        output.say()
        output.say(network)
        show(found, output)
        comparisons.append(found.to_dict())
    output.result(
        {
            "command": "c",
            "machine": machine.to_dict(),
            "load_before": before,
            "rounds": rounds,
            "comparisons": comparisons,
        }
    )


def show_timeline(model: str, batch: int | None, threads: int | None, rounds: int, as_json: bool) -> None:
    """Print how long a training step takes with the compiler's stages switched on one after another."""
    output = Output(as_json)
    ((network, size), *_) = default_work("train", known_models(model), batch)
    machine, before = inspect_machine(measure=False), load()
    output.say(f"{described(machine)}, load {before:.2f} before")
    output.say(f"{network}, batch {size}, training steps with Adam: median and quartiles of {rounds} rounds by turns")
    found = timeline(network, size, threads or smelt.get_threads(), rounds)
    print_table(STAGE_HEAD, stages(found), output)
    for line in remarks(found):
        output.say("  " + line)
    output.result(
        {
            "command": "timeline",
            "machine": machine.to_dict(),
            "load_before": before,
            "rounds": rounds,
            **found.to_dict(),
        }
    )


def show_scaling(model: str, rounds: int, as_json: bool) -> None:
    """Print what kernels reach of the peak, what more threads gain, and what a sample costs in larger batches."""
    output = Output(as_json)
    ((network, _), *_) = default_work("train", known_models(model), None)
    machine, before = inspect_machine(measure=False), load()
    output.say(f"{described(machine)}, load {before:.2f} before")
    output.say(f"{network}, training steps with Adam: median and quartiles of {rounds} rounds by turns")
    found = scaling(network, rounds)
    for head, body in scaling_tables(found):
        output.say()
        print_table(head, body, output)
    output.result({"command": "scale", "machine": machine.to_dict(), "load_before": before, **found.to_dict()})


def scaling_tables(found: Scaling) -> list[tuple[Row, list[Row]]]:
    """Return the heads and rows of three tables: kernels, threads, batches."""

    def text(s: Spread, digits: int, scale: float = 1.0) -> str:
        low, median, high = (f"{scale * v:.{digits}f}" for v in (s.low, s.median, s.high))
        return f"{median} ({low} to {high})"

    kernels: list[Row] = [
        (k.name, text(k.gflops, 0), text(k.peak_gflops, 0), text(k.of_peak, 0, 100).replace(" (", " % (", 1))
        for k in found.kernels
    ]
    threads: list[Row] = [
        (f"{t.threads}, batch {t.batch}", text(t.milliseconds, 2), text(t.gain, 2)) for t in found.threads
    ]
    batches: list[Row] = [
        (
            str(b.batch),
            text(b.sample_microseconds, 2),
            f"{b.arena_bytes / 2**20:.2f}",
            f"{b.arena_bytes / b.batch / 1024:.1f}",
        )
        for b in found.batches
    ]
    return [(KERNEL_HEAD, kernels), (THREADS_HEAD, threads), (BATCH_HEAD, batches)]


def stages(found: Comparison) -> list[tuple[str, ...]]:
    """Return a row for each stage: its time, and how many times as fast it is as the one before and as the first."""
    rows = []
    show = milliseconds(min((r.median for r in found.results), default=1.0))
    for r, previous in zip(found.results, [*found.results[:1], *found.results], strict=False):
        gains = [f"{other.median / r.median:.2f}" for other in (previous, found.results[0])]
        rows.append((r.form, str(r.threads), show(r.median), f"{show(r.low)} to {show(r.high)}", *gains))
    return rows
