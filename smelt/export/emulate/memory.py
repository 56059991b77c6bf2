"""Bytes of a linked program: an ELF file in; what of flash and RAM the network takes, and what the rest does, out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from smelt.export.emulate.boards import Board
from smelt.export.emulate.program import Exported
from smelt.export.tools import section_sizes


@dataclass(frozen=True)
class Memory:
    """Bytes of a linked program.

    Attributes
    ----------
    flash_bytes : int
        All that is stored: code, constants, and first values of static data.
    constant_bytes, code_bytes : int
        Of which the network's constants, and all other: its code, the C library's, and the program around it.
    ram_bytes : int
        Static data, without the stack.
    arena_bytes, ends_bytes, other_bytes : int
        Of which the arena; inputs and outputs of the caller; and what the C library adds, with the constants where the
        processor wants them in RAM.
    """

    flash_bytes: int
    constant_bytes: int
    code_bytes: int
    ram_bytes: int
    arena_bytes: int
    ends_bytes: int
    other_bytes: int


def linked_memory(board: Board, program: Path, made: Exported, samples: int) -> Memory:
    """Return what a linked program takes, without ``samples`` bytes of flash."""
    found = section_sizes(board.target.compiler, program)
    data = found.get(".data", 0)
    flash = sum(found.get(name, 0) for name in (".init", ".text", ".spare")) + data - samples
    ram = data + sum(found.get(name, 0) for name in (".tbss_space", ".bss", ".noinit"))
    ends = made.plan.input_bytes + made.plan.output_bytes
    code = flash - made.constant_bytes
    return Memory(flash, made.constant_bytes, code, ram, made.arena_bytes, ends, ram - made.arena_bytes - ends)
