"""What takes long to show: the runtime under threads, forks, interrupts, too many threads, and for a long time.

In: names of checks, or none for all. Out: what each found, a line; status 1 where that is not good enough.

    python tests/runtime/stability.py            # all, some five minutes
    python tests/runtime/stability.py steps cycles

Each check is a process of its own with an empty cache. Short forms of all but ``crowd``, which measures times, are
among the tests of this folder.
"""

from __future__ import annotations

import gc
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

import smelt
from smelt import models, nn, optim

SECONDS = 60.0
STEPS = 100_000
CYCLES = 1_000
MOST_GROWTH = 5 * 2**20
LIMIT = 600  # seconds a check may take: it hangs
RNG = np.random.default_rng(0)


def training(model: nn.Module, lr: float = 1e-3) -> Any:
    """Return a compiled training step of a classifier."""
    optimizer = optim.Adam(model.parameters(), lr=lr)

    @smelt.compile
    def step(x: smelt.Tensor, y: smelt.Tensor) -> smelt.Tensor:
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def resident() -> int:
    """Return the bytes of memory this process has."""
    gc.collect()
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def mapped() -> int:
    """Return how many regions of memory are mapped."""
    with open("/proc/self/maps") as f:
        return sum(1 for _ in f)


def threads() -> bool:
    """Eight Python threads call one compiled model, while another trains: they get what one thread gets."""
    smelt.seed(0)
    model = models.ds_cnn().eval()
    inputs = [RNG.normal(size=(n, 1, 49, 10)).astype(np.float32) for n in (1, 1, 1, 2, 3, 4, 1, 8)]
    with smelt.no_grad():
        forms = {"smelt.compile": smelt.compile(lambda x: model(x)), "model.compile": model.compile()}
        want = {name: [f(x).numpy().tobytes() for x in reversed(inputs)][::-1] for name, f in forms.items()}
    wrong, calls = [0], [0] * len(inputs)
    end = time.monotonic() + SECONDS

    def body(i: int) -> None:
        with smelt.no_grad():
            while time.monotonic() < end:
                for name, f in forms.items():
                    wrong[0] += f(inputs[i]).numpy().tobytes() != want[name][i]
                    calls[i] += 1

    step = training(models.lenet_300_100())
    x, y = RNG.normal(size=(32, 1, 28, 28)).astype(np.float32), np.arange(32) % 10
    losses: list[float] = []

    def train() -> None:
        while time.monotonic() < end:
            losses.append(step(x, y).item())

    callers = [threading.Thread(target=body, args=(i,)) for i in range(len(inputs))]
    callers.append(threading.Thread(target=train))
    for t in callers:
        t.start()
    for t in callers:
        t.join()
    print(f"{sum(calls)} calls from 8 threads beside {len(losses)} training steps, {wrong[0]} wrong")
    return wrong[0] == 0 and min(calls) > 0 and bool(np.isfinite(losses).all())


def forks() -> bool:
    """A hundred children, forked with steps under way, go on as the parent does."""
    warnings.simplefilter("ignore")
    smelt.seed(0)
    step = training(models.lenet_300_100())
    x, y = RNG.normal(size=(32, 1, 28, 28)).astype(np.float32), np.arange(32) % 10
    good = 0
    for _ in range(100):
        for _ in range(5):
            step(x, y)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(writer, repr([step(x, y).item() for _ in range(3)]).encode())
            finally:
                os._exit(0)
        mine = repr([step(x, y).item() for _ in range(3)])
        os.close(writer)
        with open(reader, "rb") as f:
            good += f.read().decode() == mine
        os.waitpid(child, 0)
    print(f"{good} of 100 children took the parent's steps")
    return good == 100


def interrupts() -> bool:
    """Two hundred interrupts at random moments of training leave the process as it was."""
    smelt.seed(0)
    step = training(models.mnist_cnn())
    x, y = RNG.normal(size=(64, 1, 28, 28)).astype(np.float32), np.arange(64) % 10
    step(x, y).item()
    caught, moments = 0, np.random.default_rng(1)
    for _ in range(200):
        timer = threading.Timer(float(moments.uniform(0, 0.02)), os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            while True:
                smelt.set_threads(int(moments.integers(1, 5)))
                losses = [step(x, y) for _ in range(3)]
                losses[1].item()
        except KeyboardInterrupt:
            caught += 1
        timer.join()
    smelt.set_threads(None)
    last = [step(x, y).item() for _ in range(5)]
    print(f"{caught} interrupts, the steps after them {np.round(last, 4).tolist()}")
    return caught == 200 and bool(np.isfinite(last).all())


def crowd() -> bool:
    """More threads than processors take at most 1.5 times as long."""
    processors, worst = smelt.get_threads(), 0.0
    for make, shape in ((models.mnist_cnn, (1, 28, 28)), (models.resnet8, (3, 32, 32))):
        smelt.seed(0)
        step = training(make())
        x, y = RNG.normal(size=(64, *shape)).astype(np.float32), np.arange(64) % 10
        times: dict[int, list[float]] = {n: [] for n in (processors, 2 * processors, 4 * processors, 8 * processors)}
        for _ in range(7):
            for n, taken in times.items():
                smelt.set_threads(n)
                warm = time.perf_counter() + 0.05  # those of the turn before spin for a while
                while time.perf_counter() < warm:
                    step(x, y).item()
                start = time.perf_counter()
                for _ in range(10):
                    step(x, y).item()
                taken.append((time.perf_counter() - start) / 10)
        median = {n: statistics.median(taken) for n, taken in times.items()}
        ratios = {n: t / median[processors] for n, t in median.items()}
        worst = max(worst, *ratios.values())
        print(make.__name__, ", ".join(f"{n} threads {1e3 * median[n]:.2f} ms ({r:.2f})" for n, r in ratios.items()))
    return worst <= 1.5


def steps() -> bool:
    """A hundred thousand steps, of whole and smaller batches."""
    smelt.seed(0)
    step = training(nn.Sequential(nn.Linear(40, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10)))
    x, y = RNG.normal(size=(64, 40)).astype(np.float32), np.arange(64) % 10
    for i in range(1000):
        step(x[: 64 - i % 7], y[: 64 - i % 7])
    before, regions = resident(), mapped()
    for i in range(STEPS):
        loss = step(x[: 64 - i % 7], y[: 64 - i % 7])
        if i % 10 == 0:
            loss.item()
    grown = resident() - before
    print(f"{STEPS} steps: {grown / 2**20:+.2f} MiB, {mapped() - regions:+d} mapped regions")
    return grown < MOST_GROWTH


def cycles() -> bool:
    """A thousand times: make a network and its training step, compile it, take two steps, drop it."""
    x, y = RNG.normal(size=(16, 40)).astype(np.float32), np.arange(16) % 10
    good = True
    for what, fresh in (("from the cache", False), ("compiled anew", True)):
        for i in range(-60, CYCLES // 2):
            if i == 0:
                before, regions = resident(), mapped()
            width = 32 + (37 * i % 560 if fresh else 0)  # each of 560 once, in no order: memory is no larger in the end
            step = training(nn.Sequential(nn.Linear(40, width), nn.ReLU(), nn.Linear(width, 10)))
            for _ in range(2):
                step(x, y)
        grown = resident() - before
        print(f"{CYCLES // 2} cycles {what}: {grown / 2**20:+.2f} MiB, {mapped() - regions:+d} mapped regions")
        good = good and grown < MOST_GROWTH
    return good


CHECKS: dict[str, Callable[[], bool]] = {f.__name__: f for f in (threads, forks, interrupts, crowd, steps, cycles)}


def main(names: list[str]) -> int:
    """Run checks, each in a process of its own with an empty cache; return the status."""
    failed = []
    for name in names or list(CHECKS):
        with tempfile.TemporaryDirectory() as cache:
            start = time.monotonic()
            command = [sys.executable, __file__, "--here", name]
            try:
                good = (
                    subprocess.run(command, env={**os.environ, "XDG_CACHE_HOME": cache}, timeout=LIMIT).returncode == 0
                )
            except subprocess.TimeoutExpired:
                good = False
        print(f"{'ok' if good else 'FAILED'} {name}  ({time.monotonic() - start:.0f} s)", flush=True)
        failed += [] if good else [name]
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--here"]:
        sys.exit(0 if CHECKS[sys.argv[2]]() else 1)
    sys.exit(main(sys.argv[1:]))
