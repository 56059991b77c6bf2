"""Programs of others that compile and run what was exported: names in; what they say out, or which package has them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from smelt.errors import ExportError, at_user_line

COMPILING = 300.0
"""Seconds that a compiler may take."""
PACKAGES = {
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
    "arm-none-eabi-gcc": "gcc-arm-none-eabi",
    "avr-gcc": "gcc-avr",
    "qemu-aarch64": "qemu-user",
    "qemu-system-arm": "qemu-system-arm",
    "qemu-system-riscv32": "qemu-system-misc",
    "qemu-x86_64": "qemu-user",
    "riscv64-unknown-elf-gcc": "gcc-riscv64-unknown-elf",
    "simavr": "simavr",
    "x86_64-linux-gnu-gcc": "gcc",
}
"""The package of Debian that has a program."""
LIBRARIES = {
    "aarch64-linux-gnu-gcc": ("libc.a", "libc6-dev-arm64-cross"),
    "arm-none-eabi-gcc": ("picolibc.specs", "picolibc-arm-none-eabi"),
    "avr-gcc": ("libm.a", "avr-libc"),
    "riscv64-unknown-elf-gcc": ("picolibc.specs", "picolibc-riscv64-unknown-elf"),
}
"""A file that a compiler finds when its C library is installed, and the package of Debian that has it."""


def missing(*programs: str) -> list[str]:
    """Return the packages of Debian that have those of these programs, and C libraries, that are not installed.

    Examples
    --------
    >>> missing("sh")
    []
    """
    out = [PACKAGES.get(name, "gcc") for name in programs if shutil.which(name) is None]
    for name in programs:
        if name in LIBRARIES and shutil.which(name) is not None:
            file, package = LIBRARIES[name]
            found = subprocess.run([name, f"-print-file-name={file}"], capture_output=True, text=True, check=False)
            out += [] if Path(found.stdout.strip()).is_absolute() else [package]
    return out


def require(what: str, *programs: str) -> None:
    """Raise an error when a program, or the C library of a compiler, is not installed.

    Raises
    ------
    ExportError
        Naming the packages of Debian that have what is missing.
    """
    if packages := missing(*programs):
        text = f"{what} needs {', '.join(programs)}: apt-get install {' '.join(packages)}"
        raise ExportError(at_user_line(text))


def run(command: Sequence[str | Path], folder: Path, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder, with a limit of time and without input.

    Raises
    ------
    ExportError
        When it cannot be started, or is not done in time.
    """
    name = Path(command[0]).name
    try:
        return subprocess.run(
            [str(c) for c in command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ExportError(at_user_line(f"{name} was not done after {seconds:g} s, and was stopped")) from None
    except OSError as e:
        raise ExportError(at_user_line(f"{name} did not start: {e}")) from None


def compile_in(folder: Path, command: Sequence[str]) -> None:
    """Run a compiler or linker in a folder.

    Raises
    ------
    ExportError
        When it fails: with the first line it says, or that which says that something does not fit.
    """
    done = run(command, folder, COMPILING)
    if not done.returncode:
        return
    lines = [line for line in done.stderr.splitlines() if re.search("error|region|undefined", line)]
    full = [line for line in lines if re.search("overflowed|not within region|is too large", line)]
    said = re.sub(r"^\S*ld: ", "", (full or lines or [done.stderr.strip()[:200]])[0])
    raise ExportError(at_user_line(f"{Path(command[0]).name}: {'does not fit: ' * bool(full)}{said}"))


def section_sizes(compiler: str, path: Path) -> dict[str, int]:
    """Return the bytes of every section of an object or a program that a compiler of GNU made.

    Raises
    ------
    ExportError
        When it is neither.
    """
    size = f"{compiler.removesuffix('gcc')}size" if compiler.endswith("-gcc") else "size"
    done = run([size, "-A", path], path.parent, 60)
    rows = [line.split() for line in done.stdout.splitlines()]
    out: dict[str, int] = {}
    for row in rows:
        if len(row) == 3 and row[0].startswith("."):
            out[row[0]] = out.get(row[0], 0) + int(row[1])
    if done.returncode or not out:
        raise ExportError(at_user_line(f"{size}: {done.stderr.strip() or 'no sections'}"))
    return out
