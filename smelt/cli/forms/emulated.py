"""An exported network on an emulated board, as ``smelt validate --target`` runs it: an export in; its outputs out."""

from __future__ import annotations

from typing import Any

import numpy as np

from smelt.cli.forms.form import Built
from smelt.export.emulate import Emulated, emulate
from smelt.export.emulate.boards import find_board
from smelt.export.emulate.program import Exported
from smelt.export.tools import require

SAMPLES = 20
"""How many samples are run where nothing else is said: an emulator needs a second for some."""
_STORED = 32 << 10
"""Bytes of samples for one program, where they have to lie in its flash."""


def on_board(made: Exported, target: str) -> Built:
    """Return an exported network as something to run; how much memory and how many instructions are then figures.

    Raises
    ------
    ExportError
        When the target is not emulated, or a tool is missing.
    """
    board = find_board(target)
    require(f"target {target}", board.target.compiler, board.target.emulator)
    figures: dict[str, Any] = {}

    def run(*inputs: np.ndarray) -> list[np.ndarray]:
        batch, samples = made._network.inputs[0].shape[0], len(inputs[0])
        fit = _STORED // max(sum(x[:batch].nbytes for x in inputs), 1) * batch if board.kind == "avr" else samples
        at_once = max(fit, batch)
        parts = [emulate(made, target, *(x[i : i + at_once] for x in inputs)) for i in range(0, samples, at_once)]
        figures.update(_figures(max(parts, key=lambda p: p.stack_bytes)))
        return [np.concatenate(outputs) for outputs in zip(*(p.outputs for p in parts), strict=True)]

    return Built(run, f"{board.target.emulator} ({board.target.machine})", figures)


def _figures(found: Emulated) -> dict[str, Any]:
    memory = found.memory
    return {
        "flash": memory.flash_bytes,
        "constants": memory.constant_bytes,
        "ram": memory.ram_bytes + found.stack_bytes,
        "arena": memory.arena_bytes,
        "stack": found.stack_bytes,
        found.counted: found.count,
    }
