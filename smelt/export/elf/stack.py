"""Bytes of stack that functions take: assembly in, except for Arm with directives for unwinding; bytes out."""

from __future__ import annotations

import re

_FUNCTION = re.compile(r"^([a-z_]\w*):", re.ASCII)
_PUSHED = re.compile(r"^\s+(v?)push(?:\.w)?\s+\{(.*)\}")
_TAKEN = re.compile(r"^\s+sub(?:[qw]|\.w)?\s+(?:\$(\d+), %rsp|sp, (?:sp, )?#(\d+))")
_OFFSET = re.compile(r"\.cfi_def_cfa(?:_offset)?\s+(?:\S+,\s*)?(\d+)")
_ALIGNED = re.compile(r"\.cfi_def_cfa(?:_register)?\s+%?(?:rbp|w29|s0)\b|^\s+mov\s+sp, r")


def frames(assembly: str, alignment: int) -> dict[str, int]:
    r"""Return the bytes of every function's frame; some are aligned to ``alignment``, which then counts in full.

    Examples
    --------
    >>> frames("f:\n  push {r4, lr}\n  sub sp, #24\n  add sp, #24\n  pop {r4, pc}\n", 8)
    {'f': 32}
    """
    out: dict[str, int] = {}
    name, unwound, aligned = "", False, False
    for line in assembly.splitlines():
        if found := _FUNCTION.match(line):
            name, unwound, aligned = found[1], False, False
            out[name] = 0
        elif not name:
            continue
        elif found := _PUSHED.match(line):
            out[name] += (8 if found[1] else 4) * _registers(found[2])
        elif _ALIGNED.search(line):
            aligned = True
            out[name] += alignment
        elif found := _OFFSET.search(line):
            unwound = True
            out[name] = max(out[name], int(found[1]))
        elif (aligned or not unwound) and (found := _TAKEN.match(line)):
            out[name] += int(found[1] or found[2])
    return out


def _registers(text: str) -> int:
    """Return how many registers a list of them names; it may have ranges.

    Examples
    --------
    >>> _registers("r4, r5, lr"), _registers("d8-d15")
    (3, 8)
    """
    count = 0
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        count += int(last[1:]) - int(first[1:]) + 1 if last else 1
    return count
