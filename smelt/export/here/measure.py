"""What an exported network takes on this machine: its object file and inputs in; bytes and instructions out."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from smelt.errors import ExportError
from smelt.export.c99.host import NUMPY, compiler
from smelt.export.elf.export import ObjectExport
from smelt.export.elf.image import read_image
from smelt.export.emulate.program import Exported
from smelt.export.here.counts import SECONDS, by_counter, by_emulator, by_steps, read_number
from smelt.export.here.program import INPUT, program
from smelt.export.targets import TARGETS, Target, kind_of_machine
from smelt.export.tools import compile_in

Other = Callable[[], tuple[Exported, bytes]]


@dataclass(frozen=True)
class Measured:
    """What :func:`measure` found; None is what could not be known.

    Attributes
    ----------
    code_bytes : int or None
        Of the object: machine code and what belongs to it, without the network's constants.
    stack_bytes : int or None
        The deepest that the stack went below the caller of the network's function, the C library included.
    count : int or None
        Instructions of one run, of the C library too.
    counted : str
        Who counted which instructions, or why nobody did.
    """

    code_bytes: int | None
    stack_bytes: int | None
    count: int | None
    counted: str


def measure(
    made: Exported, image: bytes, inputs: Sequence[np.ndarray], other: Other | None = None, seconds: float = SECONDS
) -> Measured:
    """Run an exported network in a program of its own, and measure that.

    Instructions are counted by the processor where it lets itself be asked, else by QEMU, which does not know those of
    the newest processors, else in single steps as long as these take no more than ``seconds``.

    Parameters
    ----------
    made : CExport or ObjectExport
        What was exported; inputs, outputs and arena are the caller's.
    image : bytes
        The object file that it became: ``image`` of what ``load`` returns.
    inputs : sequence of numpy.ndarray
        One array per input: a batch.
    other : callable, optional
        Returns the same for the processor that QEMU knows (:func:`~smelt.export.targets.kind_of_machine`).
    seconds : float, default 10
        Of single steps.

    Returns
    -------
    Measured
        Bytes and instructions.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> made = smelt.export.c(nn.ReLU(), None, (8,))
    >>> found = measure(made, b"what is not ELF", [np.zeros((1, 8), np.float32)])
    >>> found.code_bytes, found.count
    (None, None)
    """
    code = _code_bytes(made, image)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            build(folder, made, image, inputs)
        except ExportError as e:
            return Measured(code, None, None, f"by nobody: {str(e).splitlines()[0]}")
        stack = read_number(folder, "stack")
        count, counted = by_counter(folder), "by the processor"
        if count is None:
            count, counted = _emulated(folder, made, inputs, other)
        if count is None:
            count, counted = by_steps(folder, seconds), "by single steps"
    if count is None:
        counted = f"by nobody: {_reasons(seconds)}"
    return Measured(code, stack, count, counted)


def _reasons(seconds: float) -> str:
    target = TARGETS.get(kind_of_machine() or "")
    emulator = "no emulator" if target is None else f"no {target.emulator} (package qemu-user) that knows the code"
    return f"no counter of the processor, {emulator}, single steps refused or not done in {seconds:g} s"


def _code_bytes(made: Exported, image: bytes) -> int | None:
    """Return what an object takes of flash beside constants; systems whose objects are not ELF have others."""
    if image[:6] not in (b"\x7fELF\x01\x01", b"\x7fELF\x02\x01"):
        return None
    found = read_image(image)
    return found.code_bytes + found.constant_bytes + found.data_bytes - made.constant_bytes


def _emulated(
    folder: Path, made: Exported, inputs: Sequence[np.ndarray], other: Other | None
) -> tuple[int | None, str]:
    """Return what QEMU counts of what runs here, or else of the other object; and who counted what."""
    target = TARGETS.get(kind_of_machine() or "")
    if target is None or shutil.which(target.emulator) is None:
        return None, ""
    if (count := by_emulator(folder, target.emulator)) is not None or other is None:
        return count, f"by {target.emulator}"
    beside = folder / "other"
    beside.mkdir()
    try:
        build(beside, *other(), inputs)
    except ExportError:
        return None, ""
    return by_emulator(beside, target.emulator), f"by {target.emulator}, of code for {target.isa.cpu}"


def measure_emulated(made: ObjectExport, target: Target, inputs: Sequence[np.ndarray]) -> Measured:
    """Run an object for Linux on another processor in a program of its own, by QEMU, and measure that.

    Parameters
    ----------
    made : ObjectExport
        What was exported; inputs, outputs and arena are the caller's.
    target : Target
        Its processor, whose compiler and emulator are installed.
    inputs : sequence of numpy.ndarray
        One array per input: a batch.

    Returns
    -------
    Measured
        Bytes and instructions.

    Raises
    ------
    ExportError
        When the program does not compile.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = made.files[f"{made._form.name}.o"]
        build(folder, made, image, inputs, [target.compiler, "-static", *target.flags])
        stack = read_number(folder, "stack", emulator=target.emulator)
        count = by_emulator(folder, target.emulator)
    counted = f"by {target.emulator}" if count is not None else f"by nobody: {target.emulator} took no plugin"
    return Measured(made.code_bytes, stack, count, counted)


def build(
    folder: Path, made: Exported, image: bytes, inputs: Sequence[np.ndarray], command: Sequence[str] | None = None
) -> None:
    """Link ``program`` and write its inputs; ``command`` begins that of the compiler, this machine's by default.

    Raises
    ------
    ExportError
        When there is no C compiler, or it fails.
    """
    header = f"{made._form.name}.h"
    text = made.files[header]
    (folder / header).write_bytes(text if isinstance(text, bytes) else text.encode())
    (folder / "network.o").write_bytes(image)
    (folder / "main.c").write_text(program(made))
    pairs = zip(made._network.inputs, inputs, strict=True)
    (folder / INPUT).write_bytes(b"".join(np.ascontiguousarray(x, NUMPY[end.dtype]).tobytes() for end, x in pairs))
    if command is None and compiler() is None:
        raise ExportError("there is no C compiler")
    command = command or [str(compiler())]
    compile_in(folder, [*command, "-std=gnu99", "-O2", "main.c", "network.o", "-lm", "-lpthread", "-o", "program"])
