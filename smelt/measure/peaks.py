"""What the processor reaches: a number of threads in; measured float32 operations or bytes per second out.

The kernels are built, emitted and run like those of a training step. The peak of arithmetic is a set of chains of fused
multiply-adds that never leave the registers; the bandwidth is that of a triad over arrays that are far larger than the
caches, or that fit into one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from smelt.compiler import jit
from smelt.compiler.builder import Builder
from smelt.compiler.emit.barrier import emit_barrier
from smelt.compiler.emit.llvm import CTX_TABLE, CTX_TEAM, Module
from smelt.compiler.emit.step import StepEmitter
from smelt.compiler.isa import Isa, host
from smelt.compiler.loops import Buffer, Kernel, Range, var
from smelt.compiler.passes.memory import Memory
from smelt.runtime import workers
from smelt.runtime.arena import aligned_bytes

UNITS = 64  # pieces of work that the threads share
ROUNDS = 20_000
BARRIERS = 5_000  # of one run, which is then so long that it waits for threads that sleep
_BARRIERS = f"""define void @step(ptr %ctx, i64 %thread, i64 %threads) {{
entry:
  %teamp = getelementptr i8, ptr %ctx, i64 {CTX_TEAM}
  %team = load ptr, ptr %teamp, align 8
  br label %meet
meet:
  %i = phi i64 [0, %entry], [%next, %meet]
  call void @barrier(ptr %team, i64 %threads)
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, {BARRIERS}
  br i1 %more, label %meet, label %done
done:
  ret void
}}"""
LEAST_BYTES, MOST_BYTES = 64 << 20, 256 << 20  # of each of the three arrays of the triad


def peak_flops(threads: int = 1, seconds: float = 0.15, paired: bool = False) -> float:
    """Return float32 operations per second of fused multiply-adds in registers; each is two operations.

    Parameters
    ----------
    threads : int, default 1
        Threads that run at the same time.
    seconds : float, default 0.15
        How long to measure; the best repetition counts.
    paired : bool, default False
        Whether to measure sums of products of two pairs of bfloat16 instead: four operations in each lane.

    Examples
    --------
    >>> peak_flops(1, seconds=0.01) > 1e8
    True
    """
    isa = host()
    lanes, chains = isa.lanes("f32"), 12 if isa.registers <= 16 else 24
    out = Buffer("out", "f32", UNITS * lanes, "output", 0)
    kernel = _fma_kernel(isa, out, chains, paired)
    result = np.zeros(out.size, np.float32)
    return (4 if paired else 2) * UNITS * ROUNDS * chains * lanes / _best_time(kernel, [result], threads, seconds)


def bandwidth(threads: int = 1, last_cache: int = 0, seconds: float = 0.3) -> float:
    """Return bytes per second of ``a = b + 3 c``, counted as the STREAM benchmark counts: three arrays, each once.

    Parameters
    ----------
    threads : int, default 1
        Threads that run at the same time.
    last_cache : int, default 0
        Bytes of the largest cache; each array has twice as many, from 64 to 256 MiB.
    seconds : float, default 0.3
        How long to measure; the best repetition counts.
    """
    return _triad(threads, min(max(LEAST_BYTES, 2 * last_cache), MOST_BYTES) // 4, 1, seconds)


def cache_bandwidth(threads: int, cache: int, seconds: float = 0.1) -> float:
    """Return bytes per second of the same while it stays in the caches: arrays that take half of them.

    Parameters
    ----------
    threads : int
        Threads that run at the same time.
    cache : int
        Bytes of the caches of one level that these threads have together.
    seconds : float, default 0.1
        How long to measure; the best repetition counts.

    Examples
    --------
    >>> cache_bandwidth(1, 1 << 20, seconds=0.01) > 1e8
    True
    """
    size = cache // 24
    return _triad(threads, size, max(1, LEAST_BYTES // (12 * size)), seconds)


def _triad(threads: int, size: int, rounds: int, seconds: float) -> float:
    isa = host()
    piece = 4 * isa.lanes("f32") * UNITS
    size = max(size - size % piece, piece)
    arrays = [aligned_bytes(4 * size).view(np.float32) for _ in range(3)]
    for i, array in enumerate(arrays):
        array[...] = i
    return 12 * size * rounds / _best_time(_triad_kernel(isa, size, rounds), arrays, threads, seconds)


def barrier_seconds(threads: int, seconds: float = 0.1) -> float:
    """Return how long threads take to meet at a barrier, as between two phases of a step, none waiting for work.

    It is a few journeys of a line of memory from one processor's cache to another's, and tells whether they are near:
    on a virtual machine of two processors 0.04 µs while they share a cache, and 0.3 while they do not.

    Parameters
    ----------
    threads : int
        Threads that meet; one alone has no barrier.
    seconds : float, default 0.1
        How long to measure; the best repetition counts.

    Examples
    --------
    >>> barrier_seconds(1)
    0.0
    """
    if threads == 1:
        return 0.0
    isa = host()
    module = Module(isa)
    module.add_text(_BARRIERS, emit_barrier(isa.triple, module.declare))
    library = jit.Library(jit.compile_object(module.text(), isa), ("step",))
    team = workers.team()
    table = np.zeros(CTX_TABLE // 8, np.int64)
    table[2] = team.address
    return _best(lambda: team.run_on(library.address["step"], table.ctypes.data, threads), seconds) / BARRIERS


def matmul_flops(size: int = 768, seconds: float = 0.4) -> float:
    """Return operations per second of NumPy's float32 matrix product, with the threads NumPy takes."""
    a = np.full((size, size), 0.5, np.float32)
    out = np.empty_like(a)
    return 2 * size**3 / _best(lambda: np.matmul(a, a, out=out), seconds)


def _fma_kernel(isa: Isa, out: Buffer, chains: int, paired: bool = False) -> Kernel:
    lanes = isa.lanes("f32")
    b = Builder("fma")
    factor, term = b.const(0.999, "f32", lanes), b.const(0.001, "f32", lanes)
    pair = b.const(0x3A803A80, "pair", lanes)  # 2**-10 twice
    with b.loop("u", var("lo"), var("hi")) as u:
        first = [b.index(u + i, "f32", lanes) for i in range(chains)]
        with b.carry("i", 0, ROUNDS, first) as (_, values):
            values[:] = [b.op("dot", v, pair, pair) if paired else b.op("fma", v, factor, term) for v in values]
        total = values[0]
        for v in values[1:]:
            total = b.op("add", total, v)
        b.store(out, u * lanes, total)
    return b.finish(Range(const=UNITS))


def _triad_kernel(isa: Isa, size: int, rounds: int) -> Kernel:
    lanes = isa.lanes("f32")
    a, x, y = (Buffer(n, "f32", size, "input", i) for i, n in enumerate("axy"))
    b = Builder("triad")
    factor = b.const(3.0, "f32", lanes)
    piece = size // UNITS
    with b.loop("r", 0, rounds), b.loop("u", var("lo"), var("hi")) as u, b.loop("i", 0, piece, 4 * lanes) as i:
        at = u * piece + i
        for k in range(0, 4 * lanes, lanes):
            b.store(a, at + k, b.op("fma", b.load(y, at + k, lanes), factor, b.load(x, at + k, lanes)))
    return b.finish(Range(const=UNITS))


def _best_time(kernel: Kernel, arrays: list[np.ndarray], threads: int, seconds: float) -> float:
    """Compile a kernel and return the shortest time of one run on all threads."""
    isa = host()
    module = Module(isa)
    module.add(kernel)
    module.add_text(*StepEmitter(module, 0, Memory(0, 0)).emit([[kernel]]))
    library = jit.Library(jit.compile_object(module.text(), isa), ("step",))
    team = workers.team()
    table = np.zeros(CTX_TABLE // 8 + len(arrays), np.int64)
    table[2] = team.address
    for i, array in enumerate(arrays):
        table[CTX_TABLE // 8 + i] = array.ctypes.data
    return _best(lambda: team.run_on(library.address["step"], table.ctypes.data, threads), seconds)


def _best(run: Callable[[], object], seconds: float) -> float:
    run()
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        run()
        now = time.perf_counter()
        best = min(best, now - start)
        if now > end:
            return best
