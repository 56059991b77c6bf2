"""What a C compiler makes of an exported network: the source and a processor in; bytes of code and of stack out.

The files are compiled and thrown away. Nothing is linked: what the compiler takes from its own library (``math.h``,
arithmetic without an FPU) is not counted.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from smelt.export.c99.host import STRICT
from smelt.export.c99.plan import MemoryPlan
from smelt.export.targets import Target
from smelt.export.tools import compile_in, require, section_sizes

_FRAME = re.compile(r"^.*:(\w+)(?:\.[\w.]+)?\t(\d+)\t", re.MULTILINE)


@dataclass(frozen=True)
class Code:
    """Code of an exported network.

    Attributes
    ----------
    code_bytes : int
        Of all its functions.
    frames : dict of str to int
        Bytes of stack that each function takes, by its name; what was written into its caller is not there.
    """

    code_bytes: int
    frames: dict[str, int]

    @property
    def stack_bytes(self) -> int:
        """The most that its functions take while they call one another: three of them, at most."""
        kinds: dict[str, int] = {}
        for name, size in self.frames.items():
            kind = "run" if name.endswith("_run") else "kernel" if re.fullmatch(r"k\d+", name) else "helper"
            kinds[kind] = max(kinds.get(kind, 0), size)
        return sum(kinds.values())


def compiled(files: Mapping[str, str], target: Target, flags: Sequence[str] = ("-O2",)) -> Code:
    """Compile the source of a network for a processor, and say what it takes.

    Raises
    ------
    ExportError
        When the compiler or its C library is not installed, or it fails.
    """
    require(f"target {target.name}", target.compiler)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, text in files.items():
            (folder / file).write_text(text)
        source = next(file for file in files if file.endswith(".c") and not file.endswith("_test.c"))
        flags = [*target.flags, *target.library, *STRICT, *flags, "-fstack-usage"]
        compile_in(folder, [target.compiler, *flags, "-c", source, "-o", "network.o"])
        found = section_sizes(target.compiler, folder / "network.o")
        frames: dict[str, int] = {}
        for usage in folder.glob("*.su"):
            for function, size in _FRAME.findall(usage.read_text()):
                frames[function] = max(frames.get(function, 0), int(size))
    return Code(sum(size for section, size in found.items() if section.startswith(".text")), frames)


def planned(plan: MemoryPlan, code: Code) -> MemoryPlan:
    """Return a plan with what the code takes: bytes of flash, and of stack during every call."""
    run = max((size for name, size in code.frames.items() if name.endswith("_run")), default=0)
    steps = tuple(replace(s, stack_bytes=run + code.frames.get(s.function, 0)) for s in plan.steps)
    return replace(plan, steps=steps, code_bytes=code.code_bytes, stack_bytes=code.stack_bytes)
