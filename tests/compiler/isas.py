"""Processors by name, so that what is asserted about generated code does not depend on the host."""

from __future__ import annotations

from smelt.compiler.isa import Isa

LINUX = "x86_64-unknown-linux-gnu"
ZNVER4 = Isa("avx512", LINUX, "znver4", "", 64, 32, bf16=True)
HASWELL = Isa("avx2", LINUX, "haswell", "", 32, 16)
CORTEX_A76 = Isa("neon", "aarch64-unknown-linux-gnu", "cortex-a76", "", 16, 32)
SAPPHIRE_RAPIDS = Isa("avx512", LINUX, "sapphirerapids", "-prefer-256-bit", 64, 32, bf16=True)
NEOVERSE_N2 = Isa("neon", "aarch64-unknown-linux-gnu", "neoverse-n2", "", 16, 32, bf16=True)
ISAS = {"znver4": ZNVER4, "haswell": HASWELL, "cortex-a76": CORTEX_A76}
PAIRS = {"znver4": ZNVER4, "sapphirerapids": SAPPHIRE_RAPIDS, "neoverse-n2": NEOVERSE_N2}  # that multiply bfloat16
COUNTED = {**ISAS, "sapphirerapids": SAPPHIRE_RAPIDS}  # whose code is counted
