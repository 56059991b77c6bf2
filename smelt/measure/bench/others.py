"""Who else was working: process ids of our own in; processors that the rest of the machine used meanwhile out."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

SHORTEST = 0.2  # seconds; the system counts in hundredths


class Others:
    """Processor time that neither this process nor the given ones use, from now on.

    Examples
    --------
    >>> used = Others([]).processors()
    >>> used is None or used >= 0
    True
    """

    def __init__(self, processes: Sequence[int]) -> None:
        self._processes = [os.getpid(), *processes]
        self._start = time.perf_counter(), _busy(), self._own()

    def _own(self) -> float:
        return sum(map(_used_by, self._processes))

    def processors(self) -> float | None:
        """Return how many processors others kept busy on average, or None where it cannot be said."""
        since, busy, own = self._start
        now = _busy()
        seconds = time.perf_counter() - since
        if busy is None or now is None or seconds < SHORTEST:
            return None
        return max(0.0, (now - busy - (self._own() - own)) / seconds)


def _busy() -> float | None:
    """Return the seconds all processors together were busy since the start, time taken by the host included."""
    with contextlib.suppress(OSError, ValueError):
        ticks = [int(t) for t in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        idle = ticks[3] + ticks[4]
        return (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK")
    return None


def _used_by(process: int) -> float:
    with contextlib.suppress(OSError, ValueError):
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0
