"""Tune: try the cost model's next best tiles inside the real step, and keep those that are faster.

In: a compiled function and its arguments. Out: the same function with the tiles that were fastest, and a
:class:`Tuned` that says what was gained. A tile is how many sums of a product a kernel holds in registers; it changes
no bit of a result. What was found is kept beside the compiled code: another process takes it without measuring.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import repeat
from statistics import median
from typing import Any

import numpy as np

from smelt.compiler import jit
from smelt.compiler.isa import host
from smelt.compiler.loops import Kernel
from smelt.compiler.lower.tiles import RANKS
from smelt.compiler.program import Lowered, Ranks, graph_key
from smelt.errors import at_user_line
from smelt.measure.profile import Batch, run_stamped, segments_of, stamped, step_microseconds
from smelt.runtime.step import Compiled

LEAST_SHARE = 0.01  # of the step, for a kernel to be tried with other tiles
ROUNDS = 8  # in each, every choice of tiles takes a turn
STEPS = 6  # of a turn, after a few that do not count


@dataclass(frozen=True)
class Choice:
    """A kernel that is faster with another tile.

    Attributes
    ----------
    name : str
        The kernel's function in the machine code.
    before, after : str
        The tiles, in words.
    before_microseconds, after_microseconds : float
        Medians over the rounds.
    """

    name: str
    before: str
    after: str
    before_microseconds: float
    after_microseconds: float


@dataclass(frozen=True)
class Tuned:
    """What tuning found; ``print`` it.

    Attributes
    ----------
    name : str
        Of the function.
    tried : int
        Kernels that were tried with other tiles.
    choices : tuple of Choice
        Those that keep another tile.
    before_microseconds, after_microseconds : float
        The whole step with the cost model's tiles and with those kept: medians over the rounds.
    """

    name: str
    tried: int
    choices: tuple[Choice, ...]
    before_microseconds: float
    after_microseconds: float

    def __str__(self) -> str:
        out = [f"{self.name}: {self.tried} kernels tried with up to {RANKS} tiles each, {len(self.choices)} changed"]
        for c in self.choices:
            out.append(f"  {c.before_microseconds:8.1f} -> {c.after_microseconds:8.1f} µs  {c.name}")
            out.append(f"      {c.before} -> {c.after}")
        out.append(f"step: {self.before_microseconds:,.1f} -> {self.after_microseconds:,.1f} µs")
        return "\n".join(out)


def tune(step: Compiled, *args: Any, **kwargs: Any) -> Tuned:
    """Choose the tiles of a compiled function's matrix products and convolutions by measuring.

    The function is called once, as always, then some hundred times more, after which its state is put back. A kernel
    keeps another tile if three quarters of its times are below all but a quarter of those with the cost model's tile,
    and if the whole step is faster with all that are kept. Results keep their bits. What was found is kept beside the
    compiled code, and taken from there in other processes. Tune on a machine that does nothing else.

    Parameters
    ----------
    step : Compiled
        From :func:`smelt.compile`.
    *args, **kwargs
        Of a call, with the largest batch.

    Returns
    -------
    Tuned
        Printable.

    Raises
    ------
    TypeError
        When ``step`` is something else.

    Examples
    --------
    >>> import numpy as np, smelt
    >>> from smelt.measure import tune
    >>> w = smelt.Parameter(np.ones((64, 64), np.float32))
    >>> f = smelt.compile(lambda x: x @ w)
    >>> x = np.ones((32, 64), np.float32)
    >>> before = f(x).numpy().tobytes()
    >>> found = tune(f, x)
    >>> f(x).numpy().tobytes() == before
    True
    """
    if not isinstance(step, Compiled):
        raise TypeError(at_user_line(f"tune: expected a function from smelt.compile, received {type(step).__name__}"))
    step(*args, **kwargs)
    key = graph_key(step.graph, None, host(), "tiles")
    data = jit.read_cache(key)
    if data is None:
        with step.unchanged():
            tuned, ranks = _measured(step, (args, kwargs))
        jit.write_cache(key, json.dumps([asdict(tuned), list(ranks.items())]).encode())
    else:
        known, pairs = json.loads(data)
        choices = tuple(Choice(**c) for c in known.pop("choices"))
        tuned, ranks = Tuned(choices=choices, **known), dict(pairs)
    if ranks:
        step.take_tiles(ranks)
    return tuned


class _Forms:
    """Forms of a step that differ in their tiles, run by turns in the place of the step."""

    def __init__(self, step: Compiled, batch: Batch, forms: Sequence[Ranks]) -> None:
        self.step, self.batch = step, batch
        self.lowered = [step.lowered(ranks) for ranks in forms]
        self.libraries = [stamped(lowered) for lowered in self.lowered]
        self.whole: list[list[float]] = [[] for _ in forms]  # microseconds of the step
        self.groups: list[list[dict[int, float]]] = [[] for _ in forms]  # of each contraction, by its group's number

    def run(self, rounds: int) -> None:
        """Let every form have ``rounds`` turns, in another order every round."""
        for turn in range(rounds):
            for i in np.roll(range(len(self.lowered)), turn):
                timeline, *_ = run_stamped(self.step, self.lowered[i], self.libraries[i], repeat(self.batch), STEPS)
                spans = np.median(np.diff(timeline, axis=2), axis=0).max(axis=0)
                kinds = zip(segments_of(self.lowered[i]), spans, strict=True)
                times = {s.name: float(t) for s, t in kinds if s.kernel is not None}
                found = {n: sum(times[k.name] for k in kernels) for n, kernels in contractions(self.lowered[i]).items()}
                self.whole[i].append(step_microseconds(timeline))
                self.groups[i].append(found)

    def times(self, form: int, group: int) -> list[float]:
        """Return the microseconds of a contraction in every round."""
        return [found[group] for found in self.groups[form]]


def contractions(lowered: Lowered) -> dict[int, list[Kernel]]:
    """Return the kernels of each contraction by its group's number."""
    return {group.number: kernels for group, kernels in lowered.of.items() if group.kind == "contract"}


def _measured(step: Compiled, batch: Batch) -> tuple[Tuned, Ranks]:
    first = _Forms(step, batch, [{}])
    first.run(1)
    least = LEAST_SHARE * first.whole[0][0]
    hot = [n for n, microseconds in first.groups[0][0].items() if microseconds >= least]
    forms = _Forms(step, batch, [dict.fromkeys(hot, rank) for rank in range(RANKS if hot else 1)])
    forms.run(ROUNDS)
    ranks = {}
    for n in hot:
        best = min(range(RANKS), key=lambda rank: median(forms.times(rank, n)))
        if _is_faster(forms.times(best, n), forms.times(0, n)):
            ranks[n] = best
    before = after = median(forms.whole[0])
    if ranks:
        both = _Forms(step, batch, [{}, ranks])
        both.run(ROUNDS)
        before, after = map(median, both.whole)
        if after >= before:
            ranks, after = {}, before
    choices = []
    for n, rank in ranks.items():
        kernels = [contractions(forms.lowered[r])[n][0] for r in (0, rank)]
        old, new = (" and ".join(text for what, text in k.choices if what == "registers") for k in kernels)
        choices.append(Choice(kernels[0].name, old, new, median(forms.times(0, n)), median(forms.times(rank, n))))
    return Tuned(step.name, len(hot), tuple(choices), before, after), ranks


def _is_faster(times: Sequence[float], than: Sequence[float]) -> bool:
    """Return whether three quarters of the times are below all but a quarter of the others."""
    return bool(np.quantile(times, 0.75) < np.quantile(than, 0.25))
