"""A library in a process of its own: a job in, bursts of calls on demand, milliseconds out.

Every library and number of threads has its own process, because two thread pools in one process take processors from
each other; the process lives through the whole run. This is the side that gives orders; :mod:`.worker` is the other.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import smelt

PATIENCE = 600.0  # seconds without an answer after which a contender counts as hung


@dataclass(frozen=True)
class Job:
    """What a process is to measure.

    ``command`` is train, infer or timeline. ``slow`` asks for forms that take long to start; ``precision`` is that of
    Smelt's products; ``stage`` is one of the timeline.
    """

    command: str
    library: str
    network: str
    batch: int
    threads: int
    slow: bool = False
    precision: str = "f32"
    stage: str = ""

    @property
    def name(self) -> str:
        """What results are filed under: the library, and its precision if that is not float32."""
        return self.library if self.precision == "f32" else f"{self.library} {self.precision}"


class ContenderError(RuntimeError):
    """A library that cannot be measured, and why."""


class Contender:
    """A running process; after :meth:`ready` it has what :class:`.worker.Ready` has."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        self._folder = tempfile.TemporaryDirectory()
        command = [sys.executable, "-m", "smelt.measure.bench.worker", json.dumps(asdict(job)), self._folder.name]
        here = str(Path(smelt.__file__).resolve().parent.parent)  # the same Smelt, wherever it was imported from
        found = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads), "PYTHONPATH": os.pathsep.join(found)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, env=environment
        )

    @property
    def process_id(self) -> int:
        """The process's number."""
        return self._process.pid

    def ready(self) -> None:
        """Wait until everything is built and warm.

        Raises
        ------
        ContenderError
            When the process ended or failed.
        """
        answer = self._answer()
        self.forms: list[str] = answer["forms"]
        self.parameters: int = answer["parameters"]
        self.losses: list[float] = answer["losses"]
        self.outputs = np.load(Path(self._folder.name) / "outputs.npy", allow_pickle=False)

    def burst(self, form: str, calls: int) -> float:
        """Return the median milliseconds of a burst of calls.

        Raises
        ------
        ContenderError
            When the process ended or failed.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then there is no answer, which says why
            self._process.stdin.write(json.dumps([form, calls]).encode() + b"\n")
            self._process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> Any:
        out = self._process.stdout
        assert out is not None
        if not select.select([out], [], [], PATIENCE)[0]:
            self._process.kill()
            raise ContenderError(f"no answer in {PATIENCE:.0f} s")
        line = out.readline()
        if not line:
            raise ContenderError(self._last_words(self._process.wait()))
        answer = json.loads(line)
        if "error" in answer:
            raise ContenderError(answer["error"])
        return answer["value"]

    def _last_words(self, status: int) -> str:
        self._said.seek(0)
        lines = [x.strip() for x in self._said.read().decode(errors="replace").splitlines() if x.strip()]
        how = f"killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return f"{how}: {lines[-1]}" if lines else how

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()
        self._folder.cleanup()
