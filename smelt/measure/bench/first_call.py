"""First calls: a network in; milliseconds of a first call, with an empty cache and a full one, and of a second, out;
and how much of the first was compiling.

Every call is made in a fresh process that has imported everything before. ``python -m smelt.measure.bench.first_call
KIND NETWORK BATCH`` is that process: KIND is train or infer.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import smelt
from smelt.measure.bench.networks import make
from smelt.measure.bench.results import OURS, Result
from smelt.measure.bench.train_smelt import training_step

IMPORT = "import time; start = time.perf_counter(); import smelt; print((time.perf_counter() - start) * 1e3)"


FORMS = ("first call, empty cache", "compiling", "first call, full cache", "finding", "second call")


@dataclass(frozen=True)
class FirstCall:
    """Milliseconds of the first call of a training step or of inference, and of the call after it.

    Of each first call there is also what tracing, compiling or finding the code, and linking took. The rest is running,
    and memory that is touched for the first time.
    """

    network: str
    batch: int
    kind: str
    empty: Result
    empty_compiling: Result
    full: Result
    full_compiling: Result
    second: Result

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        return asdict(self)


def import_time(rounds: int) -> Result:
    """Return the milliseconds of ``import smelt`` in a fresh process, NumPy included, Python's own start left out."""
    _run(["-c", IMPORT], None)  # leaves byte code, as an installation does
    return Result.of(OURS, 1, "import", [_run(["-c", IMPORT], None)[0] for _ in range(rounds)])


def first_calls(networks: Sequence[tuple[str, int]], kinds: Sequence[str], rounds: int) -> Iterator[FirstCall]:
    """Measure networks at their batches; each round has an empty cache, and then the one the first call filled."""
    for network, batch in networks:
        for kind in kinds:
            times: list[tuple[float, ...]] = []
            for _ in range(rounds):
                with tempfile.TemporaryDirectory() as cache:
                    call = ["-m", "smelt.measure.bench.first_call", kind, network, str(batch)]
                    compiling, first, _ = _run(call, cache)
                    linking, again, second = _run(call, cache)
                    times.append((first, compiling, again, linking, second))
            results = [
                Result.of(OURS, smelt.get_threads(), form, taken)
                for form, taken in zip(FORMS, zip(*times, strict=True), strict=True)
            ]
            yield FirstCall(network, batch, kind, *results)


def _run(arguments: list[str], cache: str | None) -> list[float]:
    """Return the numbers a process prints; ``cache`` stands in for the user's folder of caches."""
    here = str(Path(smelt.__file__).resolve().parent.parent)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {"PYTHONPATH": here}
    if cache is not None:
        environment |= {"XDG_CACHE_HOME": cache, **({"HOME": cache} if sys.platform == "darwin" else {})}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"a first call failed: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    return [float(word) for word in done.stdout.split()]


def main(kind: str, name: str, batch: int) -> None:
    """Print the milliseconds of compiling, and of the first two calls in this process."""
    import llvmlite.binding  # noqa: F401  (its import is not compilation)

    network = make(name)
    (x, y), *_ = network.batches(batch, 1)
    compiled = smelt.compile(training_step(network)) if kind == "train" else network.model.compile()
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        compiled(*([x, y] if kind == "train" else [x])).numpy()
        taken.append((time.perf_counter() - start) * 1e3)
    print(compiled.compile_seconds * 1e3, *taken)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
