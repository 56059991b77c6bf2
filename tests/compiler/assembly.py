"""Read assembly: functions, and their innermost loops.

In: the text LLVM writes for x86-64, AArch64 or Thumb. Out: the instructions of each innermost loop, to count in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LABEL = re.compile(r"^(\.?[\w$]+):")
_JUMP = re.compile(r"^(?:j\w+|b|b\.\w+|b(?:eq|ne|[gl][te])(?:\.w)?|le|cbn?z|tbn?z)\s+(?:.*,\s*)?(\.L\w+)$")
_FMA = re.compile(r"^(?:vfn?m(?:add|sub)\w*|vfma\.f32|fmla|fmls|fmadd|fmsub)\b")
_VECTOR_FMA = re.compile(r"^(?:vfn?m(?:add|sub)\d+p[sd]\b|vfma\.f32 q|fmla\b|fmls\b)")
_DOT = re.compile(r"^(?:vdpbf16ps|bfdot)\b")
_CALL = re.compile(r"^(?:callq?|bl|blr)\b")
_STACK_STORE = re.compile(r"^(?:v?mov\w*\s+%\w+, .*\(%rsp|st[rp]\s+.*\[sp)")
_WIDTH = {"zmm": 64, "ymm": 32, "xmm": 16}


@dataclass(frozen=True)
class Code:
    """Instructions in a row."""

    lines: tuple[str, ...]

    def count(self, pattern: re.Pattern[str]) -> int:
        return sum(bool(pattern.match(line)) for line in self.lines)

    @property
    def fmas(self) -> int:
        """Multiply-adds of whole vectors."""
        return self.count(_VECTOR_FMA)

    @property
    def scalar_fmas(self) -> int:
        return self.count(_FMA) - self.fmas

    @property
    def dots(self) -> int:
        """Products of pairs of bfloat16."""
        return self.count(_DOT)

    @property
    def calls(self) -> int:
        return self.count(_CALL)

    @property
    def stack_stores(self) -> int:
        return self.count(_STACK_STORE)

    @property
    def widest(self) -> int:
        """Bytes of the widest vector register named."""
        text = "\n".join(self.lines)
        if re.search(r"\bv\d+\.\d+[bhsd]\b|\bq\d+\b", text):
            return 16
        return max((w for name, w in _WIDTH.items() if f"%{name}" in text), default=0)


def functions(assembly: str) -> dict[str, list[str]]:
    """Return the lines of each function (labels and instructions), comments and directives left out."""
    out: dict[str, list[str]] = {}
    current: list[str] | None = None
    for raw in assembly.splitlines():
        line = raw.split("//")[0].split("@ ")[0].strip()
        label = _LABEL.match(line)
        if label and not label.group(1).startswith(".L"):
            current = out.setdefault(label.group(1), [])
        elif current is not None and line and (label or line[0] not in ".#"):
            current.append(re.sub(r"\s+", " ", line))
    return out


def innermost_loops(lines: list[str]) -> list[Code]:
    """Return the loops that hold no other: from a label to the last jump back to it."""
    labels = {m.group(1): i for i, line in enumerate(lines) if (m := _LABEL.match(line))}
    spans = set()
    for i, line in enumerate(lines):
        jump = _JUMP.match(line)
        if jump and labels.get(jump.group(1), i) < i:
            spans.add((labels[jump.group(1)], i))
    inner = [s for s in spans if not any(t != s and s[0] <= t[0] and t[1] <= s[1] for t in spans)]
    return [Code(tuple(x for x in lines[a : z + 1] if not _LABEL.match(x))) for a, z in sorted(inner)]


def hottest(lines: list[str]) -> Code:
    """Return the innermost loop with most multiply-adds of vectors, the longest if there is none."""
    return max(innermost_loops(lines), key=lambda c: (c.fmas + c.dots, len(c.lines)))
