"""What was measured: times of forms of contenders in; quartiles, the best of each library, and ratios out."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

OURS = "smelt"


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile.

    Examples
    --------
    >>> quartiles([4.0, 1.0, 2.0])
    (1.5, 2.0, 3.0)
    """
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    return low, median, high


@dataclass(frozen=True)
class Result:
    """Milliseconds of one call of one form: the median and the quartiles over the rounds."""

    library: str
    threads: int
    form: str
    low: float
    median: float
    high: float

    @staticmethod
    def of(library: str, threads: int, form: str, times: Sequence[float]) -> Result:
        """Return the quartiles of the rounds' times.

        Examples
        --------
        >>> Result.of("smelt", 2, "compiled step", [3.0, 1.0, 2.0]).median
        2.0
        """
        return Result(library, threads, form, *quartiles(times))


@dataclass(frozen=True)
class Skipped:
    """A contender that was not measured, and why."""

    library: str
    threads: int
    reason: str


@dataclass
class Comparison:
    """All results for one network and batch; ``others`` are the processors other programs used meanwhile."""

    network: str
    batch: int
    results: list[Result] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    others: float | None = None

    def best(self, library: str) -> Result | None:
        """Return a library's fastest form at its best number of threads."""
        return min((r for r in self.results if r.library == library), key=lambda r: r.median, default=None)

    def ratio(self, library: str) -> float | None:
        """Return how many times as long a library takes as Smelt, each at its best.

        Examples
        --------
        >>> c = Comparison("lenet5", 1, [Result.of("smelt", 1, "", [2.0]), Result.of("torch", 2, "", [5.0])])
        >>> c.ratio("torch")
        2.5
        """
        ours, theirs = self.best(OURS), self.best(library)
        return theirs.median / ours.median if ours and theirs else None

    def _others(self, ours: bool) -> list[str]:
        """Return what else was measured, of our own or not, the fastest first."""
        names = {r.library: self.best(r.library) for r in self.results if r.library != OURS}
        mine = [n for n in names if n.startswith(f"{OURS} ") == ours]
        return sorted(mine, key=lambda n: names[n].median)  # type: ignore[union-attr]

    @property
    def peers(self) -> list[str]:
        """The other libraries that were measured, the fastest first."""
        return self._others(ours=False)

    @property
    def precisions(self) -> list[str]:
        """Smelt in other precisions than float32: ``"smelt bf16"``."""
        return self._others(ours=True)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values; times are milliseconds."""
        ratios = {name: self.ratio(name) for name in [*self.peers, *self.precisions]}
        against = {"best_peer": self.peers[0], "ratio": ratios[self.peers[0]]} if self.peers else {}
        return {**asdict(self), "ratios": ratios, **against}
