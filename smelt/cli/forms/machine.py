"""An exported network run by this machine, or as a program of Linux for another: an export in; outputs out.

The first is what ``smelt validate`` does without a target.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from smelt.cli.forms.form import Built
from smelt.export.c99.host import HostNetwork
from smelt.export.elf.export import ObjectExport
from smelt.export.emulate.linux import run_program
from smelt.export.emulate.program import Exported
from smelt.export.here import Measured, measure, measure_emulated
from smelt.export.here.measure import Other
from smelt.export.targets import Target


def on_machine(made: Exported, network: HostNetwork, runner: str, other: Other) -> Built:
    """Return a loaded network as something to run; memory and instructions of its first batch are then figures."""
    figures: dict[str, Any] = {}
    batch = made._network.inputs[0].shape[0]

    def run(*inputs: np.ndarray) -> list[np.ndarray]:
        parts = [network(*(x[i : i + batch] for x in inputs)) for i in range(0, len(inputs[0]), batch)]
        if not figures:
            found = measure(made, network.image, [x[:batch] for x in inputs], other)
            figures.update(machine_figures(made, found, batch))
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

    return Built(run, runner, figures)


def on_linux(made: ObjectExport, target: Target) -> Built:
    """Return an object for Linux on another processor as something to run; figures are those of its first batch."""
    figures: dict[str, Any] = {}
    batch = made._network.inputs[0].shape[0]

    def run(*inputs: np.ndarray) -> list[np.ndarray]:
        outputs = run_program(made, *inputs)
        if not figures:
            found = measure_emulated(made, target, [x[:batch] for x in inputs])
            figures.update(machine_figures(made, found, batch))
        return outputs

    return Built(run, target.emulator, figures)


def machine_figures(made: Exported, found: Measured, batch: int) -> dict[str, Any]:
    """Return figures by the names that those of emulated boards have; None is what is not known."""
    of = f" of {batch} samples" if batch > 1 else ""
    ends = made.plan.input_bytes + made.plan.output_bytes
    stack = made.stack_bytes if found.stack_bytes is None and isinstance(made, ObjectExport) else found.stack_bytes
    return {
        "flash": None if found.code_bytes is None else made.constant_bytes + found.code_bytes,
        "constants": made.constant_bytes,
        "code": found.code_bytes,
        "ram": None if stack is None else made.arena_bytes + ends + stack,
        "arena": made.arena_bytes,
        "stack": stack,
        "instructions": found.count,
        "counted": found.counted if found.count is None else f"in one run{of} {found.counted}",
    }
