"""``smelt bench``: which networks and libraries in; tables of times, or JSON, out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from smelt.cli.output import Output
from smelt.cli.recipe import nearest
from smelt.errors import RecipeError
from smelt.measure.bench import PEERS, Comparison, Result, Suite, default_work
from smelt.measure.bench.results import OURS
from smelt.measure.machine import Machine
from smelt.models import MODELS
from smelt.runtime.workers import MAX_THREADS

BUSY = 0.1  # processors used by others, above which figures are doubtful
HEAD = ("library", "threads", "form", "ms", "quartiles", "of Smelt's")


def compare_libraries(
    command: str,
    models: str | None,
    batch: int | None,
    threads: str,
    peers: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Run a comparison, and print each network's table as soon as it is known."""
    output = Output(as_json)
    work = default_work(command, known_models(models), batch)
    suite = Suite(command, work, _peers(command, peers), _threads(threads), **options)
    for line in header(suite):
        output.say(line)
    for comparison in suite.run():
        output.say()
        output.say(f"{comparison.network}, batch {comparison.batch}")
        show(comparison, output)
    if len(suite.comparisons) > 1:
        output.say()
        print_table(*summary(suite), output)
        for line in means(suite):
            output.say(line)
    output.result(suite.to_dict())


# --- options ----------------------------------------------------------------------------------------------


def _list(text: str | None) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in (text or "").split(",") if part.strip()))


def known_models(text: str | None) -> list[str]:
    """Return the networks of the zoo that ``--models`` names.

    Raises
    ------
    RecipeError
        When one is not in the zoo.

    Examples
    --------
    >>> known_models("resnet8, lenet5")
    ['resnet8', 'lenet5']
    """
    names = _list(text)
    for name in names:
        if name not in MODELS:
            raise RecipeError(f"--models {name}: no network of the zoo; {nearest(name, MODELS)}")
    return names


def _threads(text: str) -> list[int]:
    parts = _list(text)
    if not parts or not all(p.isdecimal() and 0 < int(p) <= MAX_THREADS for p in parts):
        raise RecipeError(f"--threads {text}: expected numbers from 1 to {MAX_THREADS}, such as 1,2")
    return [int(p) for p in parts]


def _peers(command: str, text: str | None) -> list[str]:
    known = PEERS[command]
    if text is None:
        return list(known)
    names = _list(text)
    for name in names:
        if name not in known:
            raise RecipeError(f"--peers {name}: expected some of {', '.join(known)}")
    return names


# --- lines ------------------------------------------------------------------------------------------------


def described(machine: Machine) -> str:
    """Return the processor in a few words."""
    return f"{machine.processor}, {machine.affinity} processors, {machine.simd}"


def header(suite: Suite) -> list[str]:
    """Return what the figures depend on, and which peers are not there."""
    lines = [
        f"{described(suite.machine)}, load {suite.load_before:.2f} before",
        ", ".join(
            [f"Python {suite.machine.python}", *(f"{name} {version}" for name, version in suite.versions.items())]
        ),
        f"median and quartiles of {suite.rounds} rounds by turns",
    ]
    return lines + [
        f"{peer} is left out, not installed: pip install {' '.join(lacks)}" for peer, lacks in suite.absent.items()
    ]


def show(comparison: Comparison, output: Output) -> None:
    """Print the table of one network, what was skipped, and the ratios."""
    body = rows(comparison)
    if not body:
        output.say("  nothing could be measured")
    elif output.fancy:
        output.table(HEAD, body, (), left=3)
    else:
        for line in aligned([HEAD, *body], left=[0, 2]):
            output.say("  " + line)
    for line in remarks(comparison):
        output.say("  " + line)
    for peer in comparison.peers:
        ratio = comparison.ratio(peer)
        if ratio is not None:
            output.say(f"  Smelt is {ratio:.2f} times as fast as {peer}")
    for name in comparison.precisions:
        ratio = comparison.ratio(name)
        if ratio is not None:
            output.say(f"  Smelt in {name.split()[1]} is {1 / ratio:.2f} times as fast as in float32")


def remarks(comparison: Comparison) -> list[str]:
    """Return who was left out, and whether other programs disturbed."""
    lines = [f"{s.library}, {threads_of(s.threads)}, is left out: {s.reason}" for s in comparison.skipped]
    if comparison.others is not None and comparison.others > BUSY:
        lines.append(f"other programs kept {comparison.others:.1f} processors busy meanwhile: measure again")
    return lines


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Return the results as text, the fastest first; the first one's time decides the unit of all."""
    found = sorted(comparison.results, key=lambda r: r.median)
    ours = comparison.best(OURS)
    show = milliseconds(found[0].median) if found else str

    def row(r: Result) -> tuple[str, ...]:
        ratio = f"{r.median / ours.median:.2f}" if ours else ""
        return r.library, str(r.threads), r.form, show(r.median), f"{show(r.low)} to {show(r.high)}", ratio

    return [row(r) for r in found]


def milliseconds(least: float) -> Callable[[float], str]:
    """Return how to print times of which ``least`` is the smallest: with three of its digits.

    Examples
    --------
    >>> show = milliseconds(0.0284)
    >>> show(0.0284), show(1.5)
    ('0.0284', '1.5000')
    """
    digits = min(max(2 - math.floor(math.log10(max(least, 1e-4))), 0), 5)
    return lambda time: f"{time:.{digits}f}"


def summary(suite: Suite) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of one table for all networks: each library at its best, and the ratio."""
    libraries = list(dict.fromkeys(r.library for c in suite.comparisons for r in c.results))
    body = []
    for c in suite.comparisons:
        cells = [f"{c.network}, {c.batch}"]
        for library in libraries:
            best = c.best(library)
            cells.append(_cell(best) if best else "")
        ratio = c.ratio(c.peers[0]) if c.peers else None
        body.append([*cells, "no peer" if ratio is None else f"{ratio:.2f}"])
    return ["network, batch", *(f"{name}, ms" for name in libraries), "ratio to the best peer"], body


def _cell(r: Result) -> str:
    show = milliseconds(r.median)
    return f"{show(r.median)} ({show(r.low)} to {show(r.high)}), {threads_of(r.threads)}, {r.form}"


def means(suite: Suite) -> list[str]:
    """Return the geometric mean of the ratios, apart for batch 1 where there are both."""
    every, one, more = (suite.geometric_mean(b) for b in (None, True, False))
    if every is None:
        return []
    apart = f" (batch 1: {one:.2f}, larger: {more:.2f})" if one is not None and more is not None else ""
    return [f"geometric mean of the ratios: {every:.2f}{apart}"]


def threads_of(count: int) -> str:
    """Return how many threads, in words."""
    return "1 thread" if count == 1 else f"{count} threads"


def print_table(head: Sequence[str], body: Sequence[Sequence[str]], output: Output) -> None:
    """Print a table, the first column to the left; where nobody watches, such that a page can take it as it is."""
    if output.fancy:
        output.table(head, body, (), left=1)
        return
    rule = ["-" * max(len(row[i]) for row in (head, *body)) for i in range(len(head))]
    for line in aligned([head, rule, *body], [0], " | "):
        output.say(f"| {line} |")


def aligned(table: Sequence[Sequence[str]], left: Sequence[int], between: str = "  ") -> list[str]:
    """Return lines whose columns are aligned, those listed to the left.

    Examples
    --------
    >>> aligned([("a", "1", "form"), ("bcd", "10", "f")], left=[0, 2])
    ['a     1  form', 'bcd  10  f']
    """
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    cells = [
        [t.ljust(w) if i in left else t.rjust(w) for i, (t, w) in enumerate(zip(row, widths, strict=True))]
        for row in table
    ]
    return [between.join(row).rstrip() for row in cells]
