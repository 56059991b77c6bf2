"""What an exported network needs before anything is built: a network in; bytes of flash, arena and stack per call out.

A call is one function of the C file. What the arena holds during a call is what must be there at once; the arena is
larger only where blocks of different sizes cannot be packed without a gap.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from smelt.compiler.loops import ITEMSIZE
from smelt.errors import at_user_line

if TYPE_CHECKING:
    from smelt.export.c99.network import Network


@dataclass(frozen=True)
class Step:
    """One call: its function, what it computes, the layers this comes from, and bytes.

    ``flash_bytes`` counts constants that no call before has read; ``arena_bytes`` is in use while it runs.
    """

    function: str
    what: str
    layers: str
    macs: int
    flash_bytes: int
    arena_bytes: int
    stack_bytes: int


@dataclass(frozen=True)
class Region:
    """A block of an arena: its elements, and the first and last call during which it is in use.

    ``buffers`` says how many results take turns in it, each written over the one before.
    """

    dtype: str
    offset: int
    size: int
    first: int
    last: int
    buffers: int


@dataclass(frozen=True)
class MemoryPlan:
    """Memory of an exported network; ``str()`` is a table.

    Attributes
    ----------
    steps : tuple of Step
        The calls, in the order they run.
    regions : tuple of Region
        What the arena holds.
    flash_bytes, arena_bytes, stack_bytes : int
        Constants without the code; the arena; the arrays of the function that has most.
    input_bytes, output_bytes : int
        Arrays of the caller; 0 where they are parts of the arena.
    least_bytes : int
        The most that is in use at once, which no arena can be smaller than.
    proven : bool
        Whether no arena can be smaller for these loops in this order.
    code_bytes : int or None
        Machine code, where it was made; the stack is then all that the network takes.
    """

    steps: tuple[Step, ...]
    regions: tuple[Region, ...]
    flash_bytes: int
    arena_bytes: int
    stack_bytes: int
    input_bytes: int
    output_bytes: int
    least_bytes: int
    proven: bool
    code_bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        return asdict(self)

    def table(self) -> tuple[list[str], list[list[str]], list[str]]:
        """Return the headings, the cells of every call, and the cells of the line of totals."""
        head = ["call", "computes", "layers", "MACs", "flash bytes", "arena bytes", "stack bytes"]
        body = [
            [s.function, s.what, s.layers, *(f"{n:,}" for n in (s.macs, s.flash_bytes, s.arena_bytes, s.stack_bytes))]
            for s in self.steps
        ]
        macs = sum(s.macs for s in self.steps)
        total = [f"{n:,}" for n in (macs, self.flash_bytes, self.arena_bytes, self.stack_bytes)]
        return head, body, ["total", "", "", *total]

    def footer(self) -> list[str]:
        """Return the lines under the table."""
        proof = "proven the least for these calls in this order" if self.proven else "the least that was found"
        ends = "inputs and outputs are parts of the arena"
        if self.input_bytes or self.output_bytes:
            ends = f"inputs of {self.input_bytes:,} and outputs of {self.output_bytes:,} bytes are the caller's"
        return [
            f"arena: {self.arena_bytes:,} bytes, {proof}; at most {self.least_bytes:,} are in use at once; {ends}",
            *self._made(),
        ]

    def _made(self) -> list[str]:
        flash, stack = f"flash: {self.flash_bytes:,} bytes of constants", f"stack: {self.stack_bytes:,} bytes"
        if self.code_bytes is None:
            return [f"{flash}, and the code", f"{stack} of arrays, and what the compiler adds"]
        return [f"{flash} and {self.code_bytes:,} of code", stack]

    def __str__(self) -> str:
        head, body, total = self.table()
        left = 3
        widths = [max(len(line[i]) for line in (head, *body, total)) for i in range(len(head))]

        def line(cells: list[str]) -> str:
            padded = [
                c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
            ]
            return "  ".join(padded).rstrip()

        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        return "\n".join([line(head), rule, *map(line, body), rule, line(total), *self.footer()])

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Draw the arena over time, in the format of the path's ending (PNG, SVG, PDF).

        Raises
        ------
        ImportError
            Without matplotlib: ``pip install smelt[plot]``.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise ImportError(at_user_line("the picture of a plan needs matplotlib: pip install smelt[plot]")) from None
        figure = Figure(figsize=(max(7.0, 0.34 * len(self.steps) + 3), 5.2), layout="constrained")
        axes = figure.subplots()
        above = 0
        for dtype in dict.fromkeys(r.dtype for r in self.regions):
            mine = [r for r in self.regions if r.dtype == dtype]
            for i, r in enumerate(mine):
                box = (r.first - 0.5, above + r.offset * ITEMSIZE[dtype])
                width, height = r.last - r.first + 1, r.size * ITEMSIZE[dtype]
                axes.bar(
                    box[0],
                    height,
                    width,
                    box[1],
                    align="edge",
                    color=f"C{i % 10}",
                    alpha=0.55,
                    edgecolor="white",
                    lw=1.2,
                )
                if height >= 0.04 * self.arena_bytes:
                    text = f"{height:,}" + (f"\nfor {r.buffers} results in turn" if r.buffers > 1 else "")
                    axes.text(box[0] + width / 2, box[1] + height / 2, text, ha="center", va="center", fontsize=7)
            above += max(r.offset + r.size for r in mine) * ITEMSIZE[dtype]
        axes.axhline(self.arena_bytes, color="#333333", lw=1)
        axes.set_title(f"arena of {self.arena_bytes:,} bytes over the calls of one run", loc="left")
        axes.set(ylabel="bytes", xlim=(-1.0, len(self.steps) + 0.0), ylim=(0, 1.06 * max(self.arena_bytes, 1)))
        names = [f"{s.function}  {s.what}" for s in self.steps]
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        figure.savefig(path, dpi=120)


def memory_plan(net: Network, code_bytes: int | None = None) -> MemoryPlan:
    """Return the plan of a network."""
    blocks = [(a, buffers, block) for a in net.serial.arenas.values() for buffers, block in a.blocks]
    flash = {buffer: array.nbytes for buffer, array in net.constants}
    steps, in_use = [], []
    for i, call in enumerate(net.calls):
        live = sum(b.size * ITEMSIZE[a.dtype] for a, _, b in blocks if b.first <= i <= b.last)
        new = sum(flash.pop(b, 0) for b in call.buffers)
        in_use.append(live)
        steps.append(Step(call.function, call.what, call.layers, call.macs, new, live, call.stack_bytes))
    regions = tuple(
        Region(
            a.dtype,
            buffers[0].offset // ITEMSIZE[a.dtype],
            b.size,
            max(b.first, 0),
            min(b.last, len(steps) - 1),
            len(buffers),
        )
        for a, buffers, b in blocks
    )
    held = {b for _, buffers, _ in blocks for b in buffers}
    ours, theirs = (
        sum(e.size * ITEMSIZE[e.dtype] for e in side if e.buffer not in held) for side in (net.inputs, net.outputs)
    )
    return MemoryPlan(
        tuple(steps),
        regions,
        net.constant_bytes,
        net.serial.arena_bytes,
        net.unit.stack_bytes,
        ours,
        theirs,
        max(in_use, default=0),
        all(a.proven for a in net.serial.arenas.values()),
        code_bytes,
    )
