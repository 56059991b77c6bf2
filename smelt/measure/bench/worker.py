"""The process of one contender: a job on the command line in; on stdin orders, on stdout one line of JSON for each.

``python -m smelt.measure.bench.worker JOB FOLDER``. What the library itself prints goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from smelt.measure.bench.contender import Job

Burst = Callable[[int], list[float]]

WARM, WARM_SECONDS = 3, 0.01  # at least, before each burst: threads wake, caches fill, others' threads go to sleep
MODULES = {
    ("train", "smelt"): "smelt.measure.bench.train_smelt",
    ("train", "torch"): "smelt.measure.bench.train_torch",
    ("train", "tensorflow"): "smelt.measure.bench.train_keras",
    ("infer", "smelt"): "smelt.measure.bench.infer_smelt",
    ("infer", "onnxruntime"): "smelt.measure.bench.infer_onnxruntime",
    ("infer", "openvino"): "smelt.measure.bench.infer_openvino",
    ("infer", "litert"): "smelt.measure.bench.infer_litert",
    ("infer", "c"): "smelt.measure.bench.infer_c",
    ("infer", "naive c"): "smelt.measure.bench.infer_c",
    ("infer", "object"): "smelt.measure.bench.infer_c",
    ("timeline", "smelt"): "smelt.measure.bench.stages",
}
"""Where the function ``prepare`` of each command and library is."""


@dataclass
class Ready:
    """What a library has built for a job.

    ``forms`` are the ways to do it, each a function of a number of calls that returns the milliseconds of each;
    ``outputs`` belong to the first batch, in evaluation mode. Where it trains, ``parameters`` counts what is trained,
    and ``losses`` are those of the first three steps from the common weights.
    """

    forms: dict[str, Burst]
    outputs: np.ndarray
    parameters: int = 0
    losses: list[float] = field(default_factory=list)


def timed(call: Callable[[int], object]) -> Burst:
    """Return the burst of a function that does one call; it is given the call's number."""

    def burst(calls: int) -> list[float]:
        end, i = time.perf_counter() + WARM_SECONDS, 0
        while i < WARM or time.perf_counter() < end:
            call(i)
            i += 1
        taken = []
        for i in range(calls):
            start = time.perf_counter()
            call(i)
            taken.append((time.perf_counter() - start) * 1e3)
        return taken

    return burst


def serve(ready: Ready, orders: IO[str], answers: IO[str]) -> None:
    """Do bursts until there are no more orders."""
    for line in orders:
        form, calls = json.loads(line)
        _say(answers, value=statistics.median(ready.forms[form](calls)))


def _say(answers: IO[str], **answer: Any) -> None:
    print(json.dumps(answer), file=answers, flush=True)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def main() -> None:
    """Build what the job needs, tell about it, and serve."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print what they like
    job, folder = Job(**json.loads(sys.argv[1])), Path(sys.argv[2])
    try:
        ready: Ready = importlib.import_module(MODULES[job.command, job.library]).prepare(job)
        np.save(folder / "outputs.npy", ready.outputs, allow_pickle=False)
        for burst in ready.forms.values():
            burst(1)
    except Exception as error:
        _say(answers, error=_one_line(error))
        return
    _say(answers, value={"forms": list(ready.forms), "parameters": ready.parameters, "losses": ready.losses})
    try:
        serve(ready, sys.stdin, answers)
    except KeyboardInterrupt:
        pass
    except Exception as error:
        _say(answers, error=_one_line(error))


if __name__ == "__main__":
    main()
