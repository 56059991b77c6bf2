"""``smelt bench``: which networks and libraries in; a table of times, or JSON, out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from smelt.cli.output import Output
from smelt.cli.recipe import nearest
from smelt.errors import RecipeError
from smelt.measure.bench import Comparison, Result, Suite, bench_train
from smelt.measure.bench.results import OURS
from smelt.measure.bench.suite import PEERS, PEERS_OF
from smelt.models import MODELS

MOST_THREADS = 64
BUSY = 0.1  # processors used by others, above which figures are doubtful
HEAD = ("library", "threads", "form", "ms", "quartiles", "of Smelt's time")


def compare_libraries(
    command: str, models: str | None, threads: str, peers: str | None, as_json: bool, **options: Any
) -> None:
    """Run a comparison, and print each network's table as soon as it is known."""
    output = Output(as_json)
    names = _list(models)
    for name in names:
        if name not in MODELS:
            raise RecipeError(f"--models {name}: no network of the zoo; {nearest(name, MODELS)}")
    suite, comparisons = bench_train(names, threads=_threads(threads), peers=_peers(command, peers), **options)
    for line in header(suite):
        output.say(line)
    for comparison in comparisons:
        output.say()
        output.say(f"{comparison.network}, batch {comparison.batch}")
        show(comparison, output)
    output.result(suite.to_dict())


def _list(text: str | None) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in (text or "").split(",") if part.strip()))


def _threads(text: str) -> list[int]:
    parts = _list(text)
    if not parts or not all(p.isdecimal() and 0 < int(p) <= MOST_THREADS for p in parts):
        raise RecipeError(f"--threads {text}: expected numbers from 1 to {MOST_THREADS}, such as 1,2")
    return [int(p) for p in parts]


def _peers(command: str, given: str | None) -> list[str]:
    known = PEERS_OF[command]
    if given is None:
        return list(known)
    for name in _list(given):
        if name not in known:
            raise RecipeError(f"--peers {name}: expected some of {', '.join(known)}")
    return _list(given)


def header(suite: Suite) -> list[str]:
    """Return what the figures depend on, and which peers are not there."""
    m = suite.machine
    lines = [
        f"{m.processor}, {m.affinity} processors, {m.simd}, load {suite.load_before:.2f} before",
        ", ".join([f"Python {m.python}", *(f"{name} {version}" for name, version in suite.versions.items())]),
        f"median and quartiles of {suite.rounds} rounds by turns",
    ]
    return lines + [f"{name} is not installed: pip install {PEERS[name][1]}" for name in suite.missing]


def show(comparison: Comparison, output: Output) -> None:
    """Print the table of one network, what was skipped, and the ratios."""
    body = rows(comparison)
    if output.fancy:
        output.table(HEAD, body, (), left=3)
    else:
        for line in aligned([HEAD, *body]):
            output.say("  " + line)
    for s in comparison.skipped:
        output.say(f"  {s.library}, {s.threads} threads, is left out: {s.reason}")
    if comparison.others is not None and comparison.others > BUSY:
        output.say(f"  other programs kept {comparison.others:.1f} processors busy meanwhile: measure again")
    for peer in comparison.peers:
        ratio = comparison.ratio(peer)
        if ratio is not None:
            output.say(f"  Smelt is {ratio:.2f} times as fast as {peer}")


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Return the results as text, the fastest first."""
    ours = comparison.best(OURS)

    def row(r: Result) -> tuple[str, ...]:
        ratio = f"{r.median / ours.median:.2f}" if ours else ""
        return r.library, str(r.threads), r.form, f"{r.median:.3f}", f"{r.low:.3f} to {r.high:.3f}", ratio

    return [row(r) for r in sorted(comparison.results, key=lambda r: r.median)]


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Return lines whose columns are aligned, the first and third to the left.

    Examples
    --------
    >>> aligned([("a", "1", "form"), ("bcd", "10", "f")])
    ['a     1  form', 'bcd  10  f']
    """
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    cells = [
        [t.ljust(w) if i in (0, 2) else t.rjust(w) for i, (t, w) in enumerate(zip(row, widths, strict=True))]
        for row in table
    ]
    return ["  ".join(row).rstrip() for row in cells]
