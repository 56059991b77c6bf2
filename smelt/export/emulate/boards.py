"""Boards that emulators have: a target's name in; where its memory lies, how to link for it and how to run out.

Instructions are counted by QEMU itself: with ``-icount shift=N`` each one takes 2**N ns of the board's time, which a
counter of the board shows. Cycles of the AVR are simavr's, which knows how long each instruction takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from smelt.errors import ExportError, at_user_line
from smelt.export.c99.plan import MemoryPlan
from smelt.export.targets import TARGETS, Target

Kind = Literal["semihosted", "avr"]


@dataclass(frozen=True)
class Board:
    """A board in an emulator.

    Attributes
    ----------
    target : Target
        Its processor.
    kind : {"semihosted", "avr"}
        How a program on it reads samples and hands back outputs: files of this machine, or its own flash and a UART.
    flash, flash_size, ram, ram_size : int
        Addresses and bytes.
    startup_bytes : int
        Static data of the code that runs before ``main``, as the C library of Debian has it.
    counts : tuple of int
        What to multiply the board's clock with, and divide it by, to have what is counted.
    counted : str
        What that is, in words.
    spare, spare_size : int
        A further memory, slower on a real board, for C that is too large for the others; 0 where there is none.
    """

    target: Target
    kind: Kind
    flash: int
    flash_size: int
    ram: int
    ram_size: int
    startup_bytes: int
    counts: tuple[int, int]
    counted: str
    spare: int = 0
    spare_size: int = 0

    def with_spare(self, ram: int) -> Board:
        """Return the board with ``ram`` bytes of RAM at the beginning of its further memory, the rest for constants."""
        rest = self.spare_size - ram
        return replace(self, ram=self.spare, ram_size=ram, spare=self.spare + ram, spare_size=rest)

    def link(self, ram: int, stack: int, spared: Sequence[str] = ()) -> tuple[dict[str, str], list[str]]:
        """Return files to write, and arguments, to link for ``ram`` bytes; the stack gets the last ``stack``.

        Sections that are ``spared`` go into the further memory.
        """
        if self.kind == "avr":
            room = ram - stack  # the linker knows of no stack
            end = self.ram + ram
            symbols = {"__DATA_REGION_LENGTH__": max(room, 0), "__stack": end - 1, "__heap_end": 0x800000 + end - stack}
            return {}, ["-Wl" + "".join(f",--defsym={name}={value:#x}" for name, value in symbols.items())]
        numbers = {"flash": self.flash, "flash_size": self.flash_size, "ram": self.ram, "ram_size": ram}
        script = [f"__{name} = {value:#x};" for name, value in {**numbers, "stack_size": stack}.items()]
        if spared:
            script += [
                f"MEMORY {{ spare (r) : ORIGIN = {self.spare:#x}, LENGTH = {self.spare_size:#x} }}",
                "PHDRS { spare PT_LOAD; }",
                f"SECTIONS {{ .spare : {{ {' '.join(f'*({name})' for name in spared)} }} >spare :spare }}",
            ]
        return {"board.ld": "\n".join([*script, "INCLUDE picolibc.ld", ""])}, ["--oslib=semihost", "-Tboard.ld"]

    def ram_needed(self, plan: MemoryPlan, stack: int) -> int:
        """Return the bytes of RAM that a network and a stack of so many bytes need: with one less, it does not link.

        A network that calls functions of ``math.h`` may need a little more, for what these keep.
        """
        constants = plan.flash_bytes if self.target.constants_in_ram else 0
        static = constants + plan.arena_bytes + plan.input_bytes + plan.output_bytes + self.startup_bytes
        return (static if self.kind == "avr" else -(-static // 8) * 8) + stack

    def command(self, program: Path) -> list[str]:
        """Return what runs a program."""
        if self.kind == "avr":
            return [self.target.emulator, "-m", self.target.machine, "-f", "16000000", str(program)]
        shift = "6" if self.counts != (1, 1) else "0"
        machine = [self.target.emulator, "-machine", self.target.machine, "-nographic", "-monitor", "none"]
        bios = ["-bios", "none"] if self.target.emulator == "qemu-system-riscv32" else []
        semihosting = ["-semihosting-config", "enable=on,target=native"]
        return [*machine, *bios, "-icount", f"shift={shift}", *semihosting, "-kernel", str(program)]


_MIB = 1 << 20
_COUNTED = "instructions"


def _mps2(name: str, psram: int) -> Board:
    ticks = (5, 8)  # the board's timer ticks every 40 ns, an instruction is made to take 64
    spare = (psram, 16 * _MIB)
    return Board(TARGETS[name], "semihosted", 0, 4 * _MIB, 0x20000000, 4 * _MIB, 8, ticks, _COUNTED, *spare)


BOARDS: dict[str, Board] = {
    "cortex-m3": _mps2("cortex-m3", 0x21000000),
    "cortex-m4": _mps2("cortex-m4", 0x21000000),
    "cortex-m7": _mps2("cortex-m7", 0x60000000),
    "cortex-m55": Board(
        TARGETS["cortex-m55"],
        "semihosted",
        *(0x10000000, _MIB // 2, 0x30000000, _MIB // 2),  # as the secure side, where it starts, sees its two memories
        8,
        (125, 256),  # the system's counter ticks every 31.25 ns
        _COUNTED,
    ),
    "riscv32": Board(
        TARGETS["riscv32"], "semihosted", 0x80000000, 64 * _MIB, 0x84000000, 32 * _MIB, 0, (1, 1), _COUNTED
    ),
    "avr": Board(TARGETS["avr"], "avr", 0, 128 << 10, 0x100, 16 << 10, 0, (1024, 1), "cycles, to 1,024"),
}


def find_board(name: str) -> Board:
    """Return the board of a target.

    Raises
    ------
    ExportError
        When no emulator runs it.

    Examples
    --------
    >>> find_board("cortex-m4").target.machine
    'mps2-an386'
    """
    if name not in BOARDS:
        raise ExportError(at_user_line(f"target {name!r} is not emulated here: expected one of {', '.join(BOARDS)}"))
    return BOARDS[name]
