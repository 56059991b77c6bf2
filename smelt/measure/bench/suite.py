"""The benchmarks: which networks, batches, threads and libraries in; comparisons with what they depend on out."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from smelt.measure.bench.contender import Job
from smelt.measure.bench.networks import TRAIN
from smelt.measure.bench.results import OURS, Comparison
from smelt.measure.bench.turns import compare
from smelt.measure.machine import Machine, inspect_machine, load

PEERS: dict[str, tuple[str, str]] = {
    "torch": ("torch", "torch"),
    "tensorflow": ("tensorflow", "tensorflow-cpu"),
}
"""What each peer is imported as, and the package it comes in."""

PEERS_OF = {"train": ("torch", "tensorflow")}


def installed(peer: str) -> str | None:
    """Return the version of an installed peer, or None.

    Examples
    --------
    >>> installed("smelt") is None
    False
    """
    if peer == OURS:
        from smelt import __version__

        return __version__
    module, package = PEERS[peer]
    if importlib.util.find_spec(module) is None:
        return None
    for name in (package, module):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


@dataclass
class Suite:
    """A run of a benchmark: what it depends on, and its comparisons as they become known."""

    command: str
    peers: Sequence[str]
    threads: Sequence[int]
    rounds: int
    slow: bool = False
    machine: Machine = field(default_factory=lambda: inspect_machine(measure=False))
    load_before: float = field(default_factory=load)
    comparisons: list[Comparison] = field(default_factory=list)

    @property
    def versions(self) -> dict[str, str]:
        """Smelt's version and those of the installed peers."""
        found = {name: installed(name) for name in (OURS, *self.peers)}
        return {name: version for name, version in found.items() if version is not None}

    @property
    def missing(self) -> list[str]:
        """The peers that are not installed."""
        return [name for name in self.peers if installed(name) is None]

    def run(self, work: Mapping[str, int]) -> Iterator[Comparison]:
        """Measure networks at their batches, and yield each comparison."""
        for network, batch in work.items():
            jobs = [
                Job(self.command, library, network, batch, threads, self.slow)
                for threads in self.threads
                for library in self.versions
            ]
            self.comparisons.append(compare(jobs, self.rounds))
            yield self.comparisons[-1]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        return {
            "command": self.command,
            "machine": self.machine.to_dict(),
            "load_before": self.load_before,
            "versions": self.versions,
            "not_installed": self.missing,
            "rounds": self.rounds,
            "comparisons": [c.to_dict() for c in self.comparisons],
        }


def bench_train(
    models: Sequence[str] = (),
    batch: int | None = None,
    threads: Sequence[int] = (1, 2),
    rounds: int = 15,
    peers: Sequence[str] = PEERS_OF["train"],
    slow: bool = False,
) -> tuple[Suite, Iterator[Comparison]]:
    """Compare whole training steps (forward, loss, backward, Adam) in float32.

    Parameters
    ----------
    models : sequence of str
        Networks of the zoo; by default the five of :data:`smelt.measure.bench.networks.TRAIN`.
    batch : int, optional
        Samples per step; by default each network's own.
    threads : sequence of int, default (1, 2)
        Numbers of threads; each library is quoted at its best.
    rounds : int, default 15
        How often all take their turn.
    peers : sequence of str
        Of torch and tensorflow; those that are not installed are left out and listed in ``missing``.
    slow : bool, default False
        Whether forms that take tens of seconds to start are tried: torch.compile.

    Returns
    -------
    Suite
        What the run depends on; it collects the comparisons.
    iterator of Comparison
        Measures as it is read.
    """
    suite = Suite("train", peers, threads, rounds, slow)
    names = models or list(TRAIN)
    return suite, suite.run({name: batch or TRAIN.get(name, 64) for name in names})
