"""Processors by name, so that what is asserted about generated code does not depend on the host."""

from __future__ import annotations

from smelt.compiler.isa import Isa

LINUX = "x86_64-unknown-linux-gnu"
ZNVER4 = Isa("avx512", LINUX, "znver4", "", 64, 32)
HASWELL = Isa("avx2", LINUX, "haswell", "", 32, 16)
CORTEX_A76 = Isa("neon", "aarch64-unknown-linux-gnu", "cortex-a76", "", 16, 32)
ISAS = {"znver4": ZNVER4, "haswell": HASWELL, "cortex-a76": CORTEX_A76}
