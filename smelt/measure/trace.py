"""A profile's time line in other programs' formats: a profile in; a Chrome trace, or collapsed stacks, out.

Perfetto (ui.perfetto.dev) and chrome://tracing open the one, flame-graph programs the other.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smelt.measure.times import KernelTime, Profile

STEPS = 20  # of a profile, in a trace


def chrome_trace(profile: Profile) -> dict[str, Any]:
    """Return the first measured steps as a Chrome trace: one track per thread, an event per kernel and barrier.

    Times are microseconds since the first event.
    """
    tracks: list[dict[str, Any]] = [{"ph": "M", "pid": 1, "name": "process_name", "args": {"name": profile.name}}]
    for t in range(profile.threads):
        tracks.append({"ph": "M", "pid": 1, "tid": t, "name": "thread_name", "args": {"name": f"thread {t}"}})
    events = []
    for i, step in enumerate(profile.timeline[:STEPS]):
        for t, stamps in enumerate(step):
            whole = {"ph": "X", "pid": 1, "tid": t, "name": f"step {i}", "cat": "step"}
            events.append({**whole, "ts": float(stamps[0]), "dur": float(stamps[-1] - stamps[0])})
            for segment, start, end in zip(profile.segments, stamps[:-1], stamps[1:], strict=True):
                event: dict[str, Any] = {"ph": "X", "pid": 1, "tid": t, "name": segment.name, "cat": "barrier"}
                if segment.kernel is not None:
                    k = profile.kernels[segment.kernel]
                    event |= {"cat": "kernel", "args": _facts(k)}
                events.append({**event, "ts": float(start), "dur": float(end - start)})
    return {"traceEvents": [*tracks, *events], "displayTimeUnit": "ns"}


def _facts(k: KernelTime) -> dict[str, Any]:
    return {
        "layers": ", ".join(k.layers),
        "operations": k.operations,
        "line": "; ".join(k.lines),
        "phase": k.phase,
        "flops": k.flops,
        "bytes": k.bytes,
        "bound": k.bound,
    }


def collapsed_stacks(profile: Profile) -> str:
    """Return one line per kernel: the function, the parts of its layer's path, the kernel, and whole microseconds.

    Times are those of all threads together, so that waiting has its share.
    """
    lines = []
    for k in profile.kernels:
        path, _, kind = k.layer.rpartition(" ")
        frames = [profile.name, *(p for p in path.split(".") if p), kind, k.name]
        lines.append(_stack(frames, sum(k.thread_microseconds)))
    for p in profile.phases if profile.threads > 1 else ():
        lines.append(_stack([profile.name, "waiting", f"after phase {p.number}"], sum(p.waiting_microseconds)))
    return "".join(f"{line}\n" for line in lines)


def _stack(frames: list[str], microseconds: float) -> str:
    return f"{';'.join(f.replace(';', ',') for f in frames if f)} {round(microseconds)}"


def write_chrome(profile: Profile, path: str | os.PathLike[str]) -> None:
    """Write a Chrome trace."""
    Path(path).write_text(json.dumps(chrome_trace(profile)), encoding="utf-8")


def write_stacks(profile: Profile, path: str | os.PathLike[str]) -> None:
    """Write collapsed stacks."""
    Path(path).write_text(collapsed_stacks(profile), encoding="utf-8")
