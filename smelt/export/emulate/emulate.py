"""Run an exported network on an emulated board: C and samples in; outputs and what they took out."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smelt.errors import ExportError, ShapeError, at_user_line
from smelt.export.c99.host import NUMPY, STRICT
from smelt.export.c99.network import Network
from smelt.export.emulate.boards import Board, find_board
from smelt.export.emulate.memory import Memory, linked_memory
from smelt.export.emulate.program import HEAD, INPUT, OUTPUT, OVER, Exported, program
from smelt.export.emulate.samples import in_runs, interleaved
from smelt.export.tools import compile_in, require, run, section_sizes

STACK = 4096
"""Bytes of stack for the program and the C library, beside the network's own arrays."""
LIBRARY = 64
"""Bytes of RAM for what functions of ``math.h`` keep."""
ALIGNMENT = 64
"""Bytes that a section may take beside its own."""
CODE = 64 << 10
"""Bytes of flash for code: with a network's constants, more than the board has makes it use its further memory."""
SECONDS = 300.0


@dataclass(frozen=True)
class Emulated:
    """What :func:`emulate` found.

    Attributes
    ----------
    outputs : list of numpy.ndarray
        One array per output; the first axis counts samples.
    memory : Memory
        Of the linked program.
    stack_bytes : int
        The deepest that the stack went below the caller of the network's function, the C library included.
    count : int or None
        Of the first run; None when the board's clock ran over.
    counted : str
        What ``count`` counts.
    """

    outputs: list[np.ndarray]
    memory: Memory
    stack_bytes: int
    count: int | None
    counted: str

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the outputs as JSON-able values."""
        memory = asdict(self.memory)
        return {**memory, "stack_bytes": self.stack_bytes, "count": self.count, "counted": self.counted}


def emulate(
    made: Exported,
    target: str,
    *inputs: np.ndarray,
    flags: Sequence[str] = ("-O2",),
    ram: int | None = None,
    stack: int | None = None,
    seconds: float = SECONDS,
) -> Emulated:
    """Compile an exported network for a microcontroller, and run it in an emulator on samples.

    Parameters
    ----------
    made : CExport or ObjectExport
        What :func:`smelt.export.c` or :func:`smelt.export.object` returned.
    target : str
        A name of ``smelt.export.emulate.boards.BOARDS``.
    *inputs : numpy.ndarray
        One array per input; the first axis counts samples, a whole number of the batches it was exported for.
    flags : sequence of str, default ("-O2",)
        For the C compiler, beside those of the target.
    ram : int, optional
        Bytes of RAM to link for; by default all that the board has.
    stack : int, optional
        How many of them are kept for the stack; by default 4 KiB more than the network's own arrays.
    seconds : float, default 300
        How long the emulator may take.

    Returns
    -------
    Emulated
        Outputs, bytes, and what was counted.

    Raises
    ------
    ExportError
        When the target is not emulated, a tool is missing, the program does not fit into the memory, or it fails.
    ShapeError
        When an input has another shape.

    Examples
    --------
    >>> import numpy as np
    >>> import smelt
    >>> from smelt import models
    >>> from smelt.export.emulate import emulate
    >>> made = smelt.export.c(models.autoencoder(), None, (640,))
    >>> emulate(made, "toaster", np.zeros((1, 640), np.float32))
    Traceback (most recent call last):
    smelt.errors.ExportError: target 'toaster' is not emulated here: expected one of cortex-m3, ...
    """
    board = find_board(target)
    require(f"target {target}", board.target.compiler, board.target.emulator)
    samples = in_runs(made._network, inputs, "emulate")
    if not len(samples[0]):
        raise ShapeError(at_user_line("emulate: expected at least one sample, received none"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kept = STACK + made.stack_bytes if stack is None else stack
        needed = board.ram_needed(made.plan, kept) + LIBRARY
        large = made.constant_bytes + CODE > board.flash_size or needed > board.ram_size
        if spare := large and board.spare_size >= needed:
            board = board.with_spare(needed)
        whole = board.ram_size if ram is None else ram
        if board.kind == "avr" and stack is None:
            kept = min(kept, whole // 4)
        _build(made, board, folder, samples, flags, whole, kept, spare)
        stored = sum(x.nbytes for x in samples) if board.kind == "avr" else 0
        memory = linked_memory(board, folder / "program.elf", made, stored)
        raw = _run(board, folder, samples, seconds)
        return _read(made._network, board, raw, len(samples[0]), memory, kept)


def _build(
    made: Exported,
    board: Board,
    folder: Path,
    samples: list[np.ndarray],
    flags: Sequence[str],
    ram: int,
    stack: int,
    spare: bool,
) -> None:
    """Link ``program.elf``; C of the network is compiled before, without any warning.

    With ``spare``, as many of its constants as there is room for go into the board's further memory.
    """
    files: dict[str, str | bytes] = {**made.files, "main.c": program(made, board, samples)}
    for file, content in files.items():
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    compiler = [board.target.compiler, *board.target.flags, *board.target.library]
    source, network = f"{made._form.name}.c", f"{made._form.name}.o"
    if network not in made.files:
        apart = ["-fdata-sections"] if spare else []
        compile_in(folder, [*compiler, *STRICT, *flags, *apart, "-c", source, "-o", network])
    spared = _largest(section_sizes(board.target.compiler, folder / network), board.spare_size) if spare else []
    own, linking = board.link(ram, stack, spared)
    for file, content in own.items():
        (folder / file).write_text(content)
    compile_in(folder, [*compiler, "-std=gnu99", "-O2", "-c", "main.c", "-o", "main.o"])
    compile_in(folder, [*compiler, "main.o", network, *linking, "-lm", "-o", "program.elf"])


def _largest(sections: dict[str, int], room: int) -> list[str]:
    """Return the sections of constants, the largest first, that fit into so many bytes.

    Examples
    --------
    >>> _largest({".text": 10, ".rodata.a": 300, ".rodata.b": 500, ".rodata.c": 200}, 900)
    ['.rodata.b', '.rodata.c']
    """
    out = []
    for name, size in sorted(sections.items(), key=lambda s: (-s[1], s[0])):
        padded = size + ALIGNMENT
        if name.startswith(".rodata.") and padded <= room:
            room -= padded
            out.append(name)
    return out


def _run(board: Board, folder: Path, samples: list[np.ndarray], seconds: float) -> bytes:
    """Run the program; return what it handed back."""
    if board.kind == "semihosted":
        (folder / INPUT).write_bytes(interleaved(samples))
    done = run(board.command(folder / "program.elf"), folder, seconds)
    if board.kind == "avr":
        lines = re.findall(r"^((?:[A-P]{2})+)\.$", re.sub(r"\x1b\[[0-9;]*m", "", done.stderr), re.MULTILINE)
        return bytes(
            (ord(high) - 65) << 4 | (ord(low) - 65)
            for line in lines
            for high, low in zip(line[::2], line[1::2], strict=True)
        )
    path = folder / OUTPUT
    if done.returncode or not path.exists():
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[0][:200]
        name = Path(board.target.emulator).name
        raise ExportError(at_user_line(f"{name} ended with {done.returncode} and said: {said}"))
    return path.read_bytes()


def _read(net: Network, board: Board, raw: bytes, runs: int, memory: Memory, kept: int) -> Emulated:
    sizes = [e.size * NUMPY[e.dtype].itemsize for e in net.outputs]
    each = 4 * HEAD + sum(sizes)
    if len(raw) != runs * each:
        raise ExportError(
            at_user_line(f"{board.target.name}: expected {runs * each} bytes of outputs, received {len(raw)}")
        )
    table = np.frombuffer(raw, np.uint8).reshape(runs, each)
    head = np.ascontiguousarray(table[:, : 4 * HEAD]).view("<u4")
    depth = int(head[:, 2].max())
    if depth == OVER:
        raise ExportError(at_user_line(f"{board.target.name}: the stack of {kept:,} bytes ran over"))
    multiply, divide = board.counts
    over = bool(head[0, 1]) and board.counts != (1, 1)
    count = None if over else round((int(head[0, 0]) + (int(head[0, 1]) << 32)) * multiply / divide)
    outputs, at = [], 4 * HEAD
    for end, size in zip(net.outputs, sizes, strict=True):
        data = np.ascontiguousarray(table[:, at : at + size]).view(NUMPY[end.dtype])
        outputs.append(data.reshape(runs * end.shape[0], *end.shape[1:]) if end.shape else data.reshape(runs))
        at += size
    return Emulated(outputs, memory, depth, count, board.counted)
