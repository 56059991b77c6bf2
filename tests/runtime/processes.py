"""Run a script in a process of its own, with the tests' helpers on its path."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

TESTS = Path(__file__).parent.parent

PRELUDE = """
import gc, os, signal, sys, threading, time
import numpy as np
import smelt
from smelt import nn, optim
from smelt.runtime import workers

X = np.random.default_rng(0).normal(size=(64, 40)).astype(np.float32)

def training(seed=0):
    smelt.seed(seed)
    model = nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 8))
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    @smelt.compile
    def step(x):
        loss = (model(x) * model(x)).mean()
        loss.backward()
        optimizer.step()
        return loss
    return step, model

def resident():
    gc.collect()
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
"""


def start(script: str, **environment: str) -> subprocess.Popen[str]:
    """Start Python on a script after PRELUDE."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], limit: float = 120) -> str:
    """Return what a process printed; it must end with status 0 and nothing on stderr."""
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"hung; printed {out!r}, {err!r}") from None
    assert process.returncode == 0, err
    assert err == ""
    return out.strip()


def run(script: str, **environment: str) -> str:
    """Run a script to its end; return what it printed."""
    return finish(start(script, **environment))
