"""One training step, Smelt against PyTorch eager: milliseconds, side by side, in one run.

The network is ``mnist_cnn`` with Adam (lr 1e-3, weight decay 1e-4), batches of 64, float32. Every contender has a
process of its own per number of threads, because thread pools in one process slow each other down; the processes
live through the whole run and take turns, a burst of steps each, so that a change of the machine's speed hits all of
them alike. PyTorch runs in all its forms (Adam fused or not, channels last or not) and is quoted at its best.

Run ``python benchmarks/train_step.py``; PyTorch comes with ``make test-peers`` or ``pip install torch==2.13.0``.
Quartiles are over rounds; a round is the median of its burst.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BATCH = 64
BATCHES = 8  # different ones, so that no step sees the same data twice in a row
TORCH_FORMS = {
    f"{'fused' if fused else 'plain'}, {'channels last' if last else 'contiguous'}": (fused, last)
    for fused in (False, True)
    for last in (False, True)
}

# --- contenders, each in a process of its own -------------------------------------------------------------


def smelt_forms(threads: int) -> dict[str, Callable[[int], None]]:
    """Return the forms of a step in Smelt: compiled, each call given NumPy arrays."""
    import smelt
    from smelt import models, nn, optim

    smelt.set_threads(threads)
    smelt.seed(0)
    model = models.mnist_cnn()
    optimizer = optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4)
    batches = _batches()

    @smelt.compile
    def step(x, y):  # type: ignore[no-untyped-def]
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    def run(i: int) -> None:
        step(*batches[i % BATCHES]).item()

    return {"compiled": run}


def torch_forms(threads: int) -> dict[str, Callable[[int], None]]:
    """Return the forms of a step in PyTorch, all on tensors made beforehand."""
    import torch

    torch.set_num_threads(threads)

    def make(fused: bool, last: bool) -> Callable[[int], None]:
        torch.manual_seed(0)
        t = torch.nn
        model = t.Sequential(
            *(t.Conv2d(1, 32, 5, padding=2), t.ReLU(), t.MaxPool2d(2), t.Flatten()),
            *(t.Linear(6272, 128), t.ReLU(), t.Linear(128, 10)),
        )
        layout = torch.channels_last if last else torch.contiguous_format
        model = model.to(memory_format=layout)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4, fused=fused)
        batches = [(torch.from_numpy(x).to(memory_format=layout), torch.from_numpy(y)) for x, y in _batches()]

        def run(i: int) -> None:
            x, y = batches[i % BATCHES]
            optimizer.zero_grad(set_to_none=True)
            loss = t.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            loss.item()

        return run

    return {name: make(*form) for name, form in TORCH_FORMS.items()}


def _batches() -> list[tuple]:
    import numpy as np

    rng = np.random.default_rng(0)
    return [
        (rng.normal(size=(BATCH, 1, 28, 28)).astype(np.float32), rng.integers(0, 10, BATCH)) for _ in range(BATCHES)
    ]


def serve(library: str, threads: int) -> None:
    """Wait for ``form steps`` on stdin; answer the burst's median in milliseconds; end with stdin."""
    forms = {"smelt": smelt_forms, "torch": torch_forms}[library](threads)
    for run in forms.values():
        for i in range(10):
            run(i)
    print(json.dumps(list(forms)), flush=True)
    for line in sys.stdin:
        form, steps = json.loads(line)
        run = forms[form]
        for i in range(3):  # wake threads and caches
            run(i)
        taken = []
        for i in range(steps):
            start = time.perf_counter()
            run(i)
            taken.append((time.perf_counter() - start) * 1e3)
        print(statistics.median(taken), flush=True)


def compile_once(threads: int) -> None:
    """Print the milliseconds from the first call to its result."""
    run = smelt_forms(threads)["compiled"]
    import llvmlite.binding  # noqa: F401  (its import is not compilation)

    start = time.perf_counter()
    run(0)
    print((time.perf_counter() - start) * 1e3)


# --- the run ----------------------------------------------------------------------------------------------


class Contender:
    """A process that runs bursts of steps when told to."""

    def __init__(self, library: str, threads: int) -> None:
        self.library, self.threads = library, threads
        command = [sys.executable, __file__, "--serve", library, "--threads", str(threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.forms: list[str] = json.loads(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.library} on {self.threads} threads ended with {self.process.wait()}")
        return line

    def burst(self, form: str, steps: int) -> float:
        """Return the median milliseconds of a burst."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([form, steps]) + "\n")
        self.process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@dataclass
class Result:
    """Milliseconds per step of one form: quartiles over the rounds."""

    library: str
    threads: int
    form: str
    low: float
    median: float
    high: float


def measure(threads: list[int], rounds: int, steps: int, libraries: list[str]) -> list[Result]:
    """Return the results of all forms; contenders take turns, in another order every round."""
    contenders = [Contender(library, t) for t in threads for library in libraries]
    turns = [(c, form) for c in contenders for form in c.forms]
    taken: dict[tuple[str, int, str], list[float]] = {(c.library, c.threads, f): [] for c, f in turns}
    for i in range(rounds):
        for c, form in turns[i % len(turns) :] + turns[: i % len(turns)]:
            taken[(c.library, c.threads, form)].append(c.burst(form, steps))
    for c in contenders:
        c.close()
    results = []
    for key, values in taken.items():
        low, median, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
        results.append(Result(*key, low, median, high))
    return results


def compile_times(runs: int) -> dict[str, float]:
    """Return milliseconds of the first call with an empty cache, and with the object in it (medians)."""
    cold, cached = [], []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            for into in (cold, cached):
                command = [sys.executable, __file__, "--compile-once", "--threads", "2"]
                out = subprocess.run(
                    command, env={**os.environ, "XDG_CACHE_HOME": folder}, capture_output=True, text=True, check=True
                )
                into.append(float(out.stdout))
    return {"cold": statistics.median(cold), "cached": statistics.median(cached)}


def machine() -> dict[str, str | int]:
    """Return what the figures depend on."""
    from smelt.compiler.isa import host

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [x.split(":", 1)[1].strip() for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        model = names[0] if names else model
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return {
        "processor": model,
        "cores": os.cpu_count() or 1,
        "simd": host().name,
        "cpu": host().cpu,
        "system": platform.system(),
        "python": platform.python_version(),
        "load before": f"{load:.2f}",
    }


def best(results: list[Result], library: str, threads: int) -> Result | None:
    """Return the fastest form of a library."""
    mine = [r for r in results if (r.library, r.threads) == (library, threads)]
    return min(mine, key=lambda r: r.median, default=None)


def report(about: dict, compiled: dict[str, float], results: list[Result], threads: list[int]) -> str:
    """Return the figures as lines to read."""
    lines = [", ".join(f"{k} {v}" for k, v in about.items())]
    lines += [f"mnist_cnn, Adam, batch {BATCH}: ms per step, median (quartiles)"]
    for r in sorted(results, key=lambda r: (r.threads, r.median)):
        lines.append(
            f"  {r.threads} threads  {r.library:<6} {r.form:<22} {r.median:7.3f}  ({r.low:.3f} to {r.high:.3f})"
        )
    for t in threads:
        ours, theirs = best(results, "smelt", t), best(results, "torch", t)
        if ours and theirs:
            lines.append(
                f"{t} threads: Smelt is {theirs.median / ours.median:.2f} times as fast as PyTorch's best form"
            )
    lines.append(
        f"first call: {compiled['cold']:.0f} ms with an empty cache, {compiled['cached']:.0f} ms from the cache"
    )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20, help="steps of one burst")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", choices=["smelt", "torch"], help=argparse.SUPPRESS)
    parser.add_argument("--compile-once", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve, options.threads[0])
    if options.compile_once:
        return compile_once(options.threads[0])
    import importlib.util

    libraries = ["smelt", "torch"] if importlib.util.find_spec("torch") else ["smelt"]
    about = machine()
    compiled = compile_times(3)
    results = measure(options.threads, options.rounds, options.steps, libraries)
    if options.json:
        ratios = {
            str(t): theirs.median / ours.median
            for t in options.threads
            if (ours := best(results, "smelt", t)) and (theirs := best(results, "torch", t))
        }
        figures = [vars(r) for r in results]
        print(json.dumps({"machine": about, "compile_ms": compiled, "step_ms": figures, "times_as_fast": ratios}))
    else:
        print(report(about, compiled, results, options.threads))
        if "torch" not in libraries:
            print("PyTorch is not installed: pip install torch==2.13.0")
    return None


if __name__ == "__main__":
    main()
