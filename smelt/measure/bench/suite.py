"""The benchmarks: which networks, batches, threads and libraries in; comparisons with what they depend on out."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from smelt._version import __version__
from smelt.measure.bench.contender import Job
from smelt.measure.bench.networks import INFER, TRAIN
from smelt.measure.bench.results import OURS, Comparison
from smelt.measure.bench.stages import STAGES
from smelt.measure.bench.turns import compare
from smelt.measure.machine import Machine, inspect_machine
from smelt.measure.system import load

PACKAGES: dict[str, dict[str, str]] = {
    "torch": {"torch": "torch"},
    "tensorflow": {"tensorflow": "tensorflow-cpu", "keras": "keras"},
    "onnxruntime": {"onnxruntime": "onnxruntime", "onnx": "onnx"},
    "openvino": {"openvino": "openvino", "onnx": "onnx"},
    "litert": {"ai_edge_litert": "ai-edge-litert", "tensorflow": "tensorflow-cpu"},
}
"""What each peer needs: names of modules, and of the packages they come in."""

PEERS = {"train": ("torch", "tensorflow"), "infer": ("onnxruntime", "openvino", "litert")}
"""The peers of each command."""


def missing(peer: str) -> list[str]:
    """Return the packages a peer needs that are not installed.

    Examples
    --------
    >>> set(missing("litert")) <= {"ai-edge-litert", "tensorflow-cpu"}
    True
    """
    return [package for module, package in PACKAGES[peer].items() if importlib.util.find_spec(module) is None]


def version(peer: str) -> str:
    """Return the version of an installed peer, as its package says."""
    module, package = next(iter(PACKAGES[peer].items()))
    for name in (package, module):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "of unknown version"


@dataclass
class Suite:
    """A run of a benchmark: what it depends on, and its comparisons as they become known.

    Parameters
    ----------
    command : str
        train or infer.
    work : sequence of (str, int)
        Networks of the zoo and their batches.
    peers : sequence of str
        Of those in ``PEERS[command]``. Those that are not installed are left out.
    threads : sequence of int, default (1, 2)
        Numbers of threads; each library is quoted at its best.
    rounds : int, default 15
        How often all take their turn.
    slow : bool, default False
        Whether forms that take tens of seconds to start are tried: torch.compile.
    precision : str, default "f32"
        When it is another, Smelt takes part in it too, as ``"smelt bf16"``; ratios remain those of float32.
    """

    command: str
    work: Sequence[tuple[str, int]]
    peers: Sequence[str]
    threads: Sequence[int] = (1, 2)
    rounds: int = 15
    slow: bool = False
    precision: str = "f32"
    machine: Machine = field(default_factory=lambda: inspect_machine(measure=False))
    load_before: float = field(default_factory=load)
    comparisons: list[Comparison] = field(default_factory=list)

    @property
    def absent(self) -> dict[str, list[str]]:
        """The peers that are left out, and which packages they lack."""
        return {peer: lacks for peer in self.peers if (lacks := missing(peer))}

    @property
    def versions(self) -> dict[str, str]:
        """The versions of Smelt and of the peers that are there."""
        absent = self.absent
        return {OURS: __version__, **{peer: version(peer) for peer in self.peers if peer not in absent}}

    def run(self) -> Iterator[Comparison]:
        """Measure, and yield each network's comparison as soon as it is known."""
        for network, batch in self.work:
            jobs = [
                Job(self.command, library, network, batch, threads, self.slow)
                for threads in self.threads
                for library in self.versions
            ]
            if self.precision != "f32":
                jobs += [replace(j, precision=self.precision) for j in jobs if j.library == OURS]
            self.comparisons.append(compare(jobs, self.rounds))
            yield self.comparisons[-1]

    def geometric_mean(self, batch_1: bool | None = None) -> float | None:
        """Return the mean of the ratios against each best peer: of all, of batch 1 alone, or of the others."""
        chosen = [c for c in self.comparisons if c.peers and batch_1 in (None, c.batch == 1)]
        known = [r for c in chosen if (r := c.ratio(c.peers[0])) is not None]
        return statistics.geometric_mean(known) if known else None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        return {
            "command": self.command,
            "machine": self.machine.to_dict(),
            "load_before": self.load_before,
            "versions": self.versions,
            "not_installed": self.absent,
            "rounds": self.rounds,
            "comparisons": [c.to_dict() for c in self.comparisons],
            "geometric_mean": {
                "all": self.geometric_mean(),
                "batch_1": self.geometric_mean(True),
                "larger_batches": self.geometric_mean(False),
            },
        }


def timeline(network: str, batch: int, threads: int, rounds: int) -> Comparison:
    """Train a network with the compiler's stages switched on one after another; results are in that order.

    Parameters
    ----------
    network : str
        Of the zoo.
    batch : int
        Samples per step.
    threads : int
        Of the stages that have more than one.
    rounds : int
        How often all take their turn.
    """
    jobs = [
        Job("timeline", OURS, network, batch, threads if s.threads else 1, precision=s.precision, stage=name)
        for name, s in STAGES.items()
    ]
    return compare(jobs, rounds)


def exported(network: str, rounds: int) -> Comparison:
    """Compare a network as an object and as C with itself compiled and with naive loops in C: one sample, one thread.

    Parameters
    ----------
    network : str
        Of the zoo.
    rounds : int
        How often all take their turn.
    """
    return compare([Job("infer", library, network, 1, 1) for library in (OURS, "object", "c", "naive c")], rounds)


def default_work(command: str, networks: Sequence[str], batch: int | None) -> list[tuple[str, int]]:
    """Return networks with their batches: by default those of the command, each with its own.

    Examples
    --------
    >>> default_work("infer", ["mobilenet_v2"], None)
    [('mobilenet_v2', 1), ('mobilenet_v2', 8)]
    >>> default_work("train", ["lenet5", "autoencoder"], None)
    [('lenet5', 64), ('autoencoder', 128)]
    """
    own = INFER if command == "infer" else {name: (size,) for name, size in TRAIN.items()}
    other = (1, 64) if command == "infer" else (64,)
    return [(n, size) for n in networks or own for size in ((batch,) if batch else own.get(n, other))]
