"""Processors that networks are exported for: a name in; what LLVM, a C compiler and an emulator call it out.

The one table of ``--target``: objects are made for its triple and processor, C is compiled with its flags, and what
was made is run on its machine.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace

from smelt.compiler.isa import Isa, host
from smelt.errors import ExportError, at_user_line


@dataclass(frozen=True)
class Target:
    """A processor.

    Attributes
    ----------
    name : str
        What users call it.
    title : str
        What it is, in a few words.
    isa : Isa
        LLVM's triple, processor and features, and the vectors there are.
    abi : str
        LLVM's name of the calling convention, where the triple does not say it.
    compiler : str
        The C compiler of Debian that makes code for it.
    flags : tuple of str
        What tells that compiler the same processor and calling convention as ``isa``.
    library : tuple of str
        What tells it which C library to use.
    emulator : str
        The program that runs it on another machine; empty where there is none.
    machine : str
        Its board in that program, or its name there.
    constants_in_ram : bool
        Whether compilers copy ``const`` data to RAM, for want of instructions that read flash like RAM.
    """

    name: str
    title: str
    isa: Isa
    abi: str
    compiler: str
    flags: tuple[str, ...]
    library: tuple[str, ...] = ()
    emulator: str = ""
    machine: str = ""
    constants_in_ram: bool = False


_PICOLIBC = ("--specs=picolibc.specs",)
_LACKS = {"soft": frozenset({"max", "round", "fma"}), "fpv4": frozenset({"max", "round"}), "fpv5": frozenset({"max"})}


def _isa(
    name: str,
    triple: str,
    cpu: str,
    features: str,
    vector_bytes: int,
    registers: int,
    pointer_bytes: int = 8,
    lacks: frozenset[str] = frozenset(),
) -> Isa:
    more = {"serial": True, "pointer_bytes": pointer_bytes, "lacks": lacks}
    return Isa(name, triple, cpu, features, vector_bytes, registers, **more)  # type: ignore[arg-type]


def _arm(number: str, title: str, triple: str, fpu: str, machine: str, registers: int, vector_bytes: int = 4) -> Target:
    name = f"cortex-m{number}"
    lacks = _LACKS["fpv5" if fpu == "auto" else fpu[:4] or "soft"]
    isa = _isa(name, triple, name, "", vector_bytes, registers, 4, lacks)
    flags = (f"-mcpu={name}", "-mthumb", f"-mfloat-abi={'hard' if fpu else 'soft'}", *([f"-mfpu={fpu}"] if fpu else []))
    return Target(name, title, isa, "", "arm-none-eabi-gcc", flags, _PICOLIBC, "qemu-system-arm", machine)


_ALL = (
    _arm("3", "Arm Cortex-M3, no FPU", "thumbv7m-unknown-none-eabi", "", "mps2-an385", 8),
    _arm("4", "Arm Cortex-M4, FPU of 32 bits", "thumbv7em-unknown-none-eabihf", "fpv4-sp-d16", "mps2-an386", 32),
    _arm("7", "Arm Cortex-M7, FPU of 64 bits", "thumbv7em-unknown-none-eabihf", "fpv5-d16", "mps2-an500", 32),
    _arm("55", "Arm Cortex-M55, Helium vectors", "thumbv8.1m.main-unknown-none-eabihf", "auto", "mps3-an547", 9, 16),
    Target(
        "riscv32",
        "RISC-V RV32IMAC, no FPU",
        _isa("riscv32", "riscv32-unknown-none-elf", "generic-rv32", "+m,+a,+c", 4, 16, 4, _LACKS["soft"]),
        "ilp32",
        "riscv64-unknown-elf-gcc",
        ("-march=rv32imac", "-mabi=ilp32"),
        _PICOLIBC,
        "qemu-system-riscv32",
        "virt",
    ),
    Target(
        "avr",
        "AVR ATmega1284P, 8 bits, int of 16 bits",
        _isa("avr", "avr", "atmega1284p", "", 4, 4, 2, _LACKS["soft"]),
        "",
        "avr-gcc",
        ("-mmcu=atmega1284p",),
        (),
        "simavr",
        "atmega1284p",
        constants_in_ram=True,
    ),
    Target(
        "aarch64",
        "Arm 64 bits with NEON, Linux",
        _isa("aarch64", "aarch64-unknown-linux-gnu", "generic", "", 16, 32),
        "",
        "aarch64-linux-gnu-gcc",
        (),
        (),
        "qemu-aarch64",
    ),
    Target(
        "x86-64",
        "x86 64 bits with AVX2 and FMA, Linux",
        _isa("x86-64", "x86_64-unknown-linux-gnu", "x86-64-v3", "", 32, 16),
        "",
        "x86_64-linux-gnu-gcc",
        ("-march=x86-64-v3",),
        (),
        "qemu-x86_64",
    ),
)
TARGETS: dict[str, Target] = {t.name: t for t in _ALL}
NATIVE = "native"


def native() -> Target:
    """Return the processor this program runs on."""
    isa = replace(host(), name=NATIVE, serial=True)
    return Target(NATIVE, f"the processor it was made on ({isa.cpu})", isa, "", "cc", ("-march=native",))


def kind_of_machine() -> str | None:
    """Return the name of the target that is this machine's kind of processor, without what only newer ones have."""
    names = {"x86_64": "x86-64", "amd64": "x86-64", "aarch64": "aarch64", "arm64": "aarch64"}
    return names.get(platform.machine().lower())


def find_target(name: str) -> Target:
    """Return the processor of this name, or this one for ``"native"``.

    Raises
    ------
    ExportError
        When there is none.

    Examples
    --------
    >>> find_target("cortex-m4").title
    'Arm Cortex-M4, FPU of 32 bits'
    """
    if name == NATIVE:
        return native()
    if name not in TARGETS:
        raise ExportError(at_user_line(f"target {name!r}: expected one of {', '.join(TARGETS)}"))
    return TARGETS[name]
