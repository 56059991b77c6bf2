"""The roofline as a picture: a profile in; a file with operations per byte against GFLOP/s, kernel by kernel, out."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from smelt.errors import at_user_line
from smelt.measure.roofline import Ceilings, Level

if TYPE_CHECKING:
    from smelt.measure.times import KernelTime, Profile

_COLORS = {"compute": "#c44e52", "memory": "#4c72b0", "latency": "#8c8c8c"}
_LISTED = 20  # kernels with a number
_LEAST = 0.001  # of the step; kernels below are left out
_DEPTH = 3000  # from the ceiling down to the lower edge


def draw(profile: Profile, path: str | os.PathLike[str]) -> None:
    """Draw the roofline of a profile as a picture, in the format of the path's ending (PNG, SVG, PDF).

    A circle is a kernel, its area the kernel's share of the step. Kernels without arithmetic are listed, not drawn.

    Raises
    ------
    ImportError
        Without matplotlib: ``pip install smelt[plot]``.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
    except ImportError:
        raise ImportError(at_user_line("the picture of a roofline needs matplotlib: pip install smelt[plot]")) from None
    ceilings = profile.ceilings
    shown = [k for k in profile.slowest() if k.share >= _LEAST]
    points = {i: k for i, k in enumerate(shown, 1) if k.flops}
    figure = Figure(figsize=(13, 6.4), layout="constrained")
    axes, side = figure.subplots(1, 2, width_ratios=(1.7, 1))
    top = ceilings.flops / 1e9
    low, high = _limits([k.flops / k.bytes for k in points.values()], ceilings)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(top / _DEPTH, 2.2 * top))
    for k in reversed(points.values()):
        axes.scatter(
            k.flops / k.bytes, k.gflops, _area(k), _COLORS[k.bound], alpha=0.6, linewidths=0.6, edgecolors="white"
        )
    axes.set(xlabel="operations per byte", ylabel="GFLOP/s")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(True, which="major", alpha=0.25)
    threads = f"{profile.threads} thread" + "s" * (profile.threads > 1)
    axes.set_title(f"{profile.name}: {profile.step_microseconds:,.0f} µs on {threads}", loc="left")
    marks = [Line2D([], [], marker="o", linestyle="", color=c, label=f"{b} bound") for b, c in _COLORS.items()]
    axes.legend(handles=marks, loc="lower right", frameon=False)
    _list(side, shown)
    figure.draw_without_rendering()  # the layout is needed for the slopes' angle and the numbers' places
    _number(axes, {i: k for i, k in points.items() if i <= _LISTED})
    for level in ceilings.levels:
        _roof(axes, level, ceilings, low, high)
    figure.savefig(path, dpi=120)


def _limits(intensities: Sequence[float], ceilings: Ceilings) -> tuple[float, float]:
    ridge = ceilings.flops / ceilings.levels[-1].bandwidth
    return min([0.05, *(i / 2 for i in intensities)]), max([4 * ridge, *(3 * i for i in intensities)])


def _roof(axes: Any, level: Level, ceilings: Ceilings, low: float, high: float) -> None:
    """Draw one roof: a slope that ends at the ceiling of arithmetic."""
    ridge, top = ceilings.flops / level.bandwidth, ceilings.flops / 1e9
    axes.plot([low, ridge, high], [low * level.bandwidth / 1e9, top, top], color="#333333", lw=1)
    text = {"fontsize": 8, "xytext": (0, 3), "textcoords": "offset points", "color": "#333333"}
    start = max(low, top / _DEPTH * 1e9 / level.bandwidth) * 1.2
    y = start * level.bandwidth / 1e9
    (x0, y0), (x1, y1) = axes.transData.transform([(start, y), (10 * start, 10 * y)])
    slope = math.degrees(math.atan2(y1 - y0, x1 - x0))
    name = f"{level.name} {level.bandwidth / 1e9:.0f} GB/s"
    axes.annotate(name, (start, y), rotation=slope, rotation_mode="anchor", **text)
    if level is ceilings.levels[-1]:
        axes.annotate(f"{top:.0f} GFLOP/s", (high / 1.15, top), ha="right", **text)


def _area(k: KernelTime) -> float:
    """Return the area of a kernel's circle, in square points: the share of the step."""
    return 30 + 1500 * k.share


def _number(axes: Any, points: dict[int, KernelTime]) -> None:
    """Write the kernels' numbers beside their circles, where there is room."""
    scale = 72 / axes.figure.dpi
    taken: list[tuple[float, float]] = []
    for i, k in points.items():
        at = axes.transData.transform((k.flops / k.bytes, k.gflops)) * scale
        away = math.sqrt(_area(k)) / 2 + 5
        turns = [(away * math.cos(t), away * math.sin(t)) for t in (0, math.pi, math.pi / 2, -math.pi / 2, 0.8, -0.8)]
        offset = next((o for o in turns if all(math.dist(at + o, other) > 9 for other in taken)), turns[0])
        taken.append(tuple(at + offset))
        text = {"ha": "center", "va": "center", "fontsize": 7.5, "color": _COLORS[k.bound]}
        axes.annotate(str(i), (k.flops / k.bytes, k.gflops), offset, textcoords="offset points", **text)


def _list(side: Any, kernels: Sequence[KernelTime]) -> None:
    """Name the slowest kernels beside the picture."""
    side.axis("off")
    side.set(xlim=(0, 1), ylim=(_LISTED + 1.5, -0.7))
    heads = (("", 0.04), ("µs", 0.16), ("of peak", 0.28), ("kernel", 0.31))
    rows = [(str(i), f"{k.microseconds:,.0f}", f"{100 * k.of_peak:.0f} %", k) for i, k in enumerate(kernels, 1)]
    for text, x in heads:
        side.text(x, 0, text, fontsize=8, color="#666666", ha="left" if text == "kernel" else "right", va="center")
    for i, (*cells, k) in enumerate(rows[:_LISTED], 1):
        title = k.title if len(k.title) <= 60 else k.title[:59] + "…"
        for text, (head, x) in zip([*cells, title], heads, strict=True):
            align = "left" if head == "kernel" else "right"
            side.text(x, i, text, fontsize=7.5, color=_COLORS[k.bound], ha=align, va="center")
