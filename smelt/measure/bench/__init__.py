"""Benchmarks: Smelt and other libraries side by side, in one run; names of networks in, times and ratios out.

How a comparison is made fair:

- Every library and number of threads has a process of its own, and only one works at a time: :mod:`.contender`.
- The processes live through the whole run and take turns in rotating order: :mod:`.turns`.
- Each library is quoted at its best: all its forms are tried, at every number of threads.
- All do the same work with the same weights, which is checked before anything is timed.
"""

from smelt.measure.bench.results import Comparison, Result, Skipped
from smelt.measure.bench.suite import PEERS, Suite, default_work, exported, timeline

__all__ = ["PEERS", "Comparison", "Result", "Skipped", "Suite", "default_work", "exported", "timeline"]
