"""How far two forms of one network agree: a module, another way to run it, and samples in; figures out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from smelt.nn.calls import leaves
from smelt.nn.module import Module

Run = Callable[..., Sequence[np.ndarray]]
"""One array of samples per input in, the arrays of all outputs out."""
LARGEST = 1e-4
"""Largest difference, relative to the largest output, that counts as agreement of two float32 programs."""


@dataclass
class Agreement:
    """What :func:`compare` found.

    Attributes
    ----------
    samples : int
        How many were run through both.
    difference : float
        Largest difference of two outputs.
    relative : float
        The same, divided by the largest output.
    same_class : int or None
        For how many samples the largest of the first outputs is the same one; None where the outputs are no classes.
    right, right_here : int or None
        How many samples the other form and the module give their label; None without labels.
    """

    samples: int = 0
    difference: float = 0.0
    relative: float = 0.0
    same_class: int | None = None
    right: int | None = None
    right_here: int | None = None

    @property
    def agrees(self) -> bool:
        """Whether the difference is what the rounding of float32 explains."""
        return self.relative <= LARGEST

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        return {**asdict(self), "agrees": self.agrees}


def compare(
    model: Module, run: Run, *inputs: np.ndarray, labels: np.ndarray | None = None, batch: int = 64
) -> Agreement:
    """Run samples through a module, compiled, and through another form of it.

    Parameters
    ----------
    model : Module
        Run as ``model.compile()``.
    run : callable
        The other form: one array of samples per input in, the arrays of all outputs out.
    *inputs : numpy.ndarray
        One array per input; samples along the first axis.
    labels : numpy.ndarray, optional
        The class of each sample.
    batch : int, default 64
        How many are run at once.

    Returns
    -------
    Agreement
        Not-a-number agrees with itself, and with nothing else.

    Examples
    --------
    >>> from smelt import nn
    >>> x = np.array([[1.0, -2.0], [3.0, 4.0]], np.float32)
    >>> compare(nn.ReLU(), lambda x: [np.maximum(x, 0)], x).difference
    0.0
    """
    fast = model.compile()
    out, largest = Agreement(samples=len(inputs[0])), 0.0
    for start in range(0, len(inputs[0]), batch):
        part = [np.ascontiguousarray(x[start : start + batch]) for x in inputs]
        here = [t.numpy() for t in leaves(fast(*part))]
        there = run(*part)
        for mine, other in zip(here, there, strict=True):
            out.difference = max(out.difference, _difference(mine, other))
            finite = np.abs(mine[np.isfinite(mine)]) if mine.dtype.kind == "f" else np.abs(mine)
            largest = max(largest, float(finite.max(initial=0)))
        if here[0].ndim == 2 and here[0].shape[1] > 1 and here[0].shape not in [x.shape for x in part]:
            _count(
                out, here[0].argmax(1), there[0].argmax(1), None if labels is None else labels[start : start + batch]
            )
    out.relative = out.difference / largest if largest else out.difference
    return out


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        return float("inf")
    if a.dtype.kind != "f":
        return float(np.abs(a.astype(np.float64) - b).max(initial=0))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        gaps = np.where(same, 0, np.abs(a.astype(np.float64) - b))
    return float(np.nan_to_num(gaps, nan=np.inf).max(initial=0))


def _count(out: Agreement, here: np.ndarray, there: np.ndarray, labels: np.ndarray | None) -> None:
    out.same_class = (out.same_class or 0) + int((here == there).sum())
    if labels is not None:
        out.right = (out.right or 0) + int((there == labels).sum())
        out.right_here = (out.right_here or 0) + int((here == labels).sum())
