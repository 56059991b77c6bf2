"""What the processor offers: vector bytes, registers, and the names LLVM knows it by.

In: the host, or a processor named for a static test. Out: an :class:`Isa` that lowerings ask for lanes and tile
sizes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from smelt.compiler.loops import ITEMSIZE


@dataclass(frozen=True)
class Isa:
    """A processor as the lowerings see it.

    ``vector_bytes`` is the widest useful vector, ``registers`` the number of vector registers. ``bf16`` says that it
    rounds to bfloat16 and adds up products of pairs of them in one instruction each, ``f16`` that it converts float16.
    What is ``serial`` runs on one thread in the least memory. A language without vectors computes a ``block`` of
    results in one innermost loop instead. ``lacks`` names operations it has no instruction for: ``max`` (that keeps
    NaN), ``round``, ``fma``.
    """

    name: str
    triple: str
    cpu: str
    features: str
    vector_bytes: int
    registers: int
    bf16: bool = False
    f16: bool = True
    serial: bool = False
    block: int = 0
    pointer_bytes: int = 8
    lacks: frozenset[str] = frozenset()

    @property
    def picks(self) -> bool:
        """Whether an instruction picks each of 16 lanes from 16 numbers by variable indices."""
        return self.vector_bytes == 64 and not self.serial

    def lanes(self, dtype: str) -> int:
        """Return how many elements of ``dtype`` one vector holds."""
        return max(1, self.vector_bytes // max(ITEMSIZE[dtype], 4))

    def width(self, dtype: str, extent: int) -> int:
        """Return how many of ``extent`` contiguous results are computed together: a vector, or a block without rest."""
        if not self.block:
            return self.lanes(dtype)
        widest = max(w for w in range(1, self.block + 1) if extent % w == 0)
        return widest if widest * 4 >= min(self.block, extent) else self.block


PLAIN_C = Isa("c", "", "", "", vector_bytes=4, registers=16, serial=True, block=64)


@functools.cache
def host() -> Isa:
    """Return the processor this program runs on."""
    import llvmlite.binding as llvm

    triple = llvm.get_process_triple()
    have = {k for k, v in llvm.get_host_cpu_features().items() if v}
    features = llvm.get_host_cpu_features().flatten()
    cpu = llvm.get_host_cpu_name()
    if "avx512f" in have and "avx512vl" in have:
        return Isa("avx512", triple, cpu, features + ",-prefer-256-bit", 64, 32, "avx512bf16" in have)
    if "avx2" in have and "fma" in have:
        return Isa("avx2", triple, cpu, features, 32, 16)
    if triple.startswith(("aarch64", "arm64")):
        return Isa("neon", triple, cpu, features, 16, 32, "bf16" in have)
    return Isa("generic", triple, cpu, features, 16, 16, f16="f16c" in have)
