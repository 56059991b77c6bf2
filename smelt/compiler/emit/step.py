"""Write the function that runs a whole step: every thread's share of each kernel, and barriers between phases.

In: the phases of kernels. Out: LLVM text of ``step(ctx, thread, threads)`` and of the barrier it calls. Where threads
work apart, each takes its samples a slice at a time through all kernels, in an arena of its own, without barriers:
what a slice leaves in the cache, the next kernel finds there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from smelt.compiler.emit.barrier import emit_barrier
from smelt.compiler.emit.denormals import denormals
from smelt.compiler.emit.llvm import CTX_ARENA, CTX_ARENAS, CTX_TABLE, CTX_TEAM, Module
from smelt.compiler.emit.rounds import InRounds, advance, emit_phase_of, emit_rounds, emit_stamped_rounds
from smelt.compiler.emit.rows import emit_rows
from smelt.compiler.emit.stamps import Adder, Clock, clock_counter, stamper, timed
from smelt.compiler.emit.turns import emit_turns
from smelt.compiler.loops import Buffer, Kernel, Range
from smelt.compiler.passes.bands import takes_turns
from smelt.compiler.passes.memory import Memory
from smelt.compiler.passes.rows import has_own_places, in_turn, slices_of, together

Shares = dict[tuple[Range, int, bool], int]  # shares by range, slices of the phase, own places; numbered
_TEAM = [f"  %teamslot = getelementptr i8, ptr %ctx, i64 {CTX_TEAM}", "  %team = load ptr, ptr %teamslot, align 8"]
# A function, because LLVM writes a division in two widths and a branch: 0.06 s less to compile where there are 200.
_SHARE = """define internal i64 @share(i64 %units, i64 %part, i64 %parts) {
  %before = mul i64 %units, %part
  %first = sdiv i64 %before, %parts
  ret i64 %first
}"""
_PREAMBLE = [
    "  %next = add i64 %thread, 1",
    "  %rows = load i64, ptr %ctx, align 8",
    f"  %arenaslot = getelementptr i8, ptr %ctx, i64 {CTX_ARENA}",
    "  %arena = load ptr, ptr %arenaslot, align 8",
]


class StepEmitter:
    """Emits the step of one module; ``capacity`` is how many rows a batch has at most, ``memory`` its arena."""

    def __init__(self, module: Module, capacity: int, memory: Memory) -> None:
        self.isa, self.declare, self.calls = module.isa, module.declare, module.calls
        self.capacity, self.memory = capacity, memory
        self._named = 0
        self._texts: list[str] = []

    def emit(self, phases: Sequence[Sequence[Kernel]], stamps: bool = False) -> list[str]:
        """Return ``step`` and ``barrier``: each thread does its share of every kernel, and waits after each phase.

        With ``stamps``, each thread writes the cycle counter at the start, after every kernel and after every barrier.
        """
        lines = ["define void @step(ptr %ctx, i64 %thread, i64 %threads) {", "entry:", *self._preamble(), *_TEAM]
        before, after = denormals(self.isa.triple, self.declare, flush=True)
        lines += before
        shares: Shares = {}
        calls = 0
        count = 1 + sum(len(p) for p in phases) + max(len(phases) - 1, 0)
        stamp = stamper(self._counter(), count) if stamps else list
        lines += stamp()
        failed = False
        text: list[str] = []
        for i, phase in enumerate(phases):
            if i:
                lines.append("  call void @barrier(ptr %team, i64 %threads)")
                lines += stamp()
                status = [k.status for k in phases[i - 1] if k.status >= 0]
                lines += _leave_if_failed(status, i)
                failed = failed or bool(status)
            if takes_turns(phase):
                text.append(self._turns(i, phase, stamps))
                lines += self._both_halves(i, len(phase), stamp if stamps else None)
                continue
            for run in together(phase, self.capacity):
                calls += 1
                lines += self._shared(run, phase, shares, calls, text, stamp if stamps else None)
        if failed:
            lines += ["  br label %end", "end:"]
        lines += [*after, "  ret void", "}"]
        return [_SHARE, *text, "\n".join(lines), emit_barrier(self.isa.triple, self.declare)]

    def emit_phases(self, phases: Sequence[Sequence[Kernel]]) -> list[str]:
        """Return ``phase(ctx, number, thread, threads)``, a ``step`` that calls it for each, and ``barrier``.

        With the first, whichever threads have time can run a step bit by bit; it leaves the mode of denormals alone.
        """
        text = self._any_phase("define void @phase", phases)
        before, after = denormals(self.isa.triple, self.declare, flush=True)
        step = [
            "define void @step(ptr %ctx, i64 %thread, i64 %threads) {",
            "entry:",
            *_TEAM,
            *before,
            "  call void @phase(ptr %ctx, i64 0, i64 %thread, i64 %threads)",
            "  br label %next",
            "next:",
            "  %number = phi i64 [1, %entry], [%later, %one]",
            f"  %more = icmp ult i64 %number, {len(phases)}",
            "  br i1 %more, label %one, label %out",
            "one:",
            "  call void @barrier(ptr %team, i64 %threads)",
            "  call void @phase(ptr %ctx, i64 %number, i64 %thread, i64 %threads)",
            "  %later = add i64 %number, 1",
            "  br label %next",
            "out:",
            *after,
            "  ret void",
            "}",
        ]
        return [_SHARE, *text, "\n".join(step), emit_barrier(self.isa.triple, self.declare)]

    def emit_in_rounds(
        self,
        phases: Sequence[Sequence[Kernel]],
        once: int,
        before: int,
        slots: int,
        steps: Sequence[int],
        stamps: bool = False,
    ) -> list[str]:
        """Return ``phase`` and ``step`` as of :meth:`emit_phases`, for batches of any size.

        They are cut into rounds of at most as many rows as ``capacity`` says. The first phases, ``once`` in number, are
        for all rounds but the last, and the next, ``before``, of each of these. ``slots`` and ``steps`` are as of
        :meth:`emit_apart`, ``stamps`` of :meth:`emit`, with the time of all rounds summed per kernel.
        """
        rounds = InRounds(len(phases), once, before, self.capacity, slots, steps)
        stamp = Adder(self._counter(), 1 + sum(map(len, phases)) + len(phases) - 1) if stamps else None
        text = self._any_phase("define internal void @part", phases, stamp)
        flush = denormals(self.isa.triple, self.declare, flush=True)
        step = emit_stamped_rounds(rounds, phases, self._counter(), flush) if stamps else emit_rounds(rounds, flush)
        self.declare("void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)")
        self.declare("i64 @llvm.smin.i64(i64, i64)")
        self.declare("i64 @llvm.smax.i64(i64, i64)")
        return [_SHARE, *text, *emit_phase_of(rounds), step, emit_barrier(self.isa.triple, self.declare)]

    def _any_phase(self, head: str, phases: Sequence[Sequence[Kernel]], stamp: Adder | None = None) -> list[str]:
        """Return the functions of runs, and one ``(ctx, number, thread, threads)`` that does a thread's share."""
        cases = " ".join(f"i64 {i}, label %phase{i}" for i in range(len(phases)))
        lines = [f"{head}(ptr %ctx, i64 %number, i64 %thread, i64 %threads) {{", "entry:", *self._preamble()]
        lines += stamp.find() if stamp else []
        lines.append(f"  switch i64 %number, label %out [{cases}]")
        calls = 0
        text: list[str] = []
        for i, phase in enumerate(phases):
            lines.append(f"phase{i}:")
            lines += stamp.begin(barrier=i > 0) if stamp else []
            shares: Shares = {}
            for run in together(phase, self.capacity):
                calls += 1
                lines += self._shared(run, phase, shares, calls, text, stamp)
            lines.append("  br label %out")
        return [*text, "\n".join([*lines, "out:", "  ret void", "}"])]

    def _preamble(self) -> list[str]:
        """Return the lines that find the arena, and this thread's own places in it: for so many threads as it has."""
        lines = [*_PREAMBLE]
        if self.memory.own:
            self.declare("i64 @llvm.smin.i64(i64, i64)")
            lines += [
                f"  %placesslot = getelementptr i8, ptr %ctx, i64 {CTX_ARENAS}",
                "  %places = load i64, ptr %placesslot, align 8",
                "  %few = call i64 @llvm.smin.i64(i64 %threads, i64 %places)",
                "  %fewthread = call i64 @llvm.smin.i64(i64 %thread, i64 %few)",
                "  %fewnext = call i64 @llvm.smin.i64(i64 %next, i64 %few)",
                f"  %ownof = mul i64 %thread, {self.memory.own}",
                f"  %ownat = add i64 %ownof, {self.memory.shared}",
                "  %own = getelementptr i8, ptr %arena, i64 %ownat",
            ]
        return lines

    def _shared(
        self,
        run: Sequence[Kernel],
        phase: Sequence[Kernel],
        shares: Shares,
        number: int,
        text: list[str],
        stamp: Callable[..., list[str]] | None = None,
    ) -> list[str]:
        """Return the lines that do a thread's share of one kernel, or of several that take turns on the batch.

        ``shares`` numbers the shares computed before; the function of a run is added to ``text``.
        """
        cut = slices_of(phase)
        range_ = run[0].range if len(run) == 1 else Range(cut) if cut else Range(per=1)
        key = (range_, cut if len(run) == 1 else 0, has_own_places(phase))
        lines = []
        if key not in shares:
            shares[key] = self._named
            self._named += 1
            lines += _share(*key, shares[key])
        s = shares[key]
        if len(run) == 1:
            return [*lines, *self._call(run[0], number, s), *(stamp() if stamp else [])]
        self.declare("i64 @llvm.smin.i64(i64, i64)")
        name = f"rows{len(self._texts)}"
        counter = self._counter() if stamp else ""
        turn = in_turn(run, self.capacity, cut)
        text.append(emit_rows(name, run, cut, turn, self.calls, _pointer, counter))
        self._texts.append(name)
        sums = f"%sums.{name}"
        own = "%own" if has_own_places(run) else "null"
        arguments = f"ptr %ctx, ptr %arena, ptr {own}, i64 %lo{s}, i64 %hi{s}, ptr {sums if stamp else 'null'}"
        call = f"  call void @{name}({arguments})"
        return [*lines, *(timed(name, len(run), [call], counter, stamp) if stamp else [call])]

    def _call(self, kernel: Kernel, number: int, s: int) -> list[str]:
        """Return the lines that run share ``s`` of a kernel."""
        function, buffers = self.calls[kernel.name]
        pointers = [f"%b{number}.{j}" for j in range(len(buffers))]
        arguments = "".join(f", ptr {p}" for p in pointers)
        return [
            f"  %some{number} = icmp slt i64 %lo{s}, %hi{s}",
            f"  br i1 %some{number}, label %do{number}, label %done{number}",
            f"do{number}:",
            *(line for p, b in zip(pointers, buffers, strict=True) for line in _pointer(p, b)),
            f"  call void @{function}(ptr %ctx, i64 %lo{s}, i64 %hi{s}{arguments})",
            f"  br label %done{number}",
            f"done{number}:",
        ]

    def emit_apart(
        self,
        phases: Sequence[Sequence[Kernel]],
        slots: int,
        steps: Sequence[int],
        stamps: bool = False,
    ) -> list[str]:
        """Return ``step`` for threads that work apart, on slices of at most as many rows as a batch has.

        Kernels of one phase take turns.

        The table has ``slots`` pointers; its first are those of inputs and outputs, which advance by ``steps`` bytes
        from one row to the next. ``stamps`` are as of :meth:`emit`, with the time of all slices summed per kernel.
        """
        size = CTX_TABLE + 8 * slots
        before, after = denormals(self.isa.triple, self.declare, flush=True)
        kernels = [k for phase in phases for k in phase]
        clock = Clock(self._counter(), len(kernels)) if stamps else None
        lines = [
            "define void @step(ptr %ctx, i64 %thread, i64 %all) {",
            "entry:",
            f"  %mine = alloca [{size} x i8], align 64",
            f"  %arenas = getelementptr i8, ptr %ctx, i64 {CTX_ARENAS}",
            "  %most = load i64, ptr %arenas, align 8",
            "  %threads = call i64 @llvm.smin.i64(i64 %all, i64 %most)",
            "  %idle = icmp sge i64 %thread, %threads",
            "  br i1 %idle, label %out, label %begin",
            "out:",
            "  ret void",
            "begin:",
            *before,
            f"  call void @llvm.memcpy.p0.p0.i64(ptr %mine, ptr %ctx, i64 {size}, i1 false)",
            f"  %arenaslot = getelementptr i8, ptr %mine, i64 {CTX_ARENA}",
            "  %arena = load ptr, ptr %arenaslot, align 8",
            f"  %arenaof = mul i64 %thread, {self.memory.own}",
            "  %myarena = getelementptr i8, ptr %arena, i64 %arenaof",
            "  store ptr %myarena, ptr %arenaslot, align 8",
            "  %rows = load i64, ptr %ctx, align 8",
            "  %next = add i64 %thread, 1",
            *_share(Range(per=1), 0, False, 0),
            *(clock.begin() if clock else ()),
            "  br label %slice",
            "slice:",
            "  %start = phi i64 [%lo0, %begin], [%stop, %work]",
            "  %left = sub i64 %hi0, %start",
            "  %some = icmp sgt i64 %left, 0",
            "  br i1 %some, label %work, label %done",
            "work:",
            f"  %count = call i64 @llvm.smin.i64(i64 %left, i64 {self.capacity})",
            "  %stop = add i64 %start, %count",
            "  store i64 %count, ptr %mine, align 8",
        ]
        lines += advance(steps)
        sizes: dict[Range, str] = {}
        lines += clock.read() if clock else []
        units: dict[Kernel, str] = {}
        arguments: dict[Kernel, str] = {}
        for kernel in kernels:
            r = kernel.range
            if r not in sizes:
                n = len(sizes)
                lines += [f"  %all{n} = {f'mul i64 %count, {r.per}' if r.per else f'add i64 0, {r.const}'}"]
                if r.grain != 1:
                    lines += [f"  %up{n} = add i64 %all{n}, {r.grain - 1}", f"  %units{n} = sdiv i64 %up{n}, {r.grain}"]
                sizes[r] = f"%units{n}" if r.grain != 1 else f"%all{n}"
            _, buffers = self.calls[kernel.name]
            pointers = [f"%{kernel.name}.{j}" for j in range(len(buffers))]
            for pointer, buffer in zip(pointers, buffers, strict=True):
                lines += _pointer(pointer, buffer, "%mine", "%myarena")
            arguments[kernel] = "".join(f", ptr {p}" for p in pointers)
            units[kernel] = sizes[r]
        text = []
        for i, phase in enumerate(phases):
            if takes_turns(phase):
                text.append(self._turns(i, phase, stamps))
                call = f"  call void @turns{i}(ptr %mine, ptr %myarena, i64 0, i64 1, i64 0, ptr {{}})".format
                lines += clock.around(len(phase), call) if clock else [call("null")]
                continue
            for kernel in phase:
                function, _ = self.calls[kernel.name]
                lines.append(f"  call void @{function}(ptr %mine, i64 0, i64 {units[kernel]}{arguments[kernel]})")
                lines += clock.read() if clock else []
        lines += ["  br label %slice", "done:", *(clock.end() if clock else ()), *after, "  ret void", "}"]
        self.declare("void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)")
        self.declare("i64 @llvm.smin.i64(i64, i64)")
        return [_SHARE, *text, "\n".join(lines)]

    def _turns(self, number: int, run: Sequence[Kernel], stamps: bool) -> str:
        return emit_turns(number, run, self.calls, _pointer, self._counter() if stamps else "")

    def _counter(self) -> str:
        return clock_counter(self.isa.triple, self.declare)

    def _both_halves(self, number: int, kernels: int, stamp: Callable[..., list[str]] | None) -> list[str]:
        """Return the lines that do a thread's turns, wait for all, and do the others."""
        name = f"turns{number}"
        sums = f"%sums.{name}" if stamp else "null"
        lines = []
        for half in (0, 1):
            arguments = f"ptr %ctx, ptr %arena, i64 %thread, i64 %threads, i64 {half}, ptr {sums}"
            lines.append(f"  call void @{name}({arguments})")
            lines += ["  call void @barrier(ptr %team, i64 %threads)"] * (half == 0)
        return timed(name, kernels, lines, self._counter(), stamp) if stamp else lines


def _leave_if_failed(slots: Sequence[int], phase: int) -> list[str]:
    """Return the lines that end the step, in every thread alike, when a user's function of the phase before failed."""
    lines = []
    for i, slot in enumerate(slots):
        name = f"{phase}.{i}"
        lines += [
            f"  %statusslot{name} = getelementptr i8, ptr %ctx, i64 {CTX_TABLE + 8 * slot}",
            f"  %status{name} = load i64, ptr %statusslot{name}, align 8",
            f"  %failed{name} = icmp ne i64 %status{name}, 0",
            f"  br i1 %failed{name}, label %end, label %went{name}",
            f"went{name}:",
        ]
    return lines


def _pointer(name: str, buffer: Buffer, ctx: str = "%ctx", arena: str = "%arena") -> list[str]:
    """Return the lines that make the address of a buffer."""
    if buffer.kind == "arena":
        return [f"  {name} = getelementptr i8, ptr {arena}, i64 {buffer.offset}"]
    return [
        f"  {name}.slot = getelementptr i8, ptr {ctx}, i64 {CTX_TABLE + 8 * buffer.slot}",
        f"  {name} = load ptr, ptr {name}.slot, align 8",
    ]


def _share(range: Range, cut: int, few: bool, s: int) -> list[str]:
    """Return the lines that compute this thread's [lo, hi) of a range; ``cut`` is into how many slices its phase cuts.

    With ``few``, it is shared by those threads that have places of their own. The same as
    :func:`smelt.compiler.passes.rows.units_of`.
    """
    if range.caller:
        return [
            f"  %lo{s} = add i64 0, 0",
            f"  %first{s} = icmp eq i64 %thread, 0",
            f"  %hi{s} = select i1 %first{s}, i64 {range.const}, i64 0",
        ]
    lines, units, each = [], f"%size{s}", 1
    if cut and (range.rows or range.slices):
        lines.append(f"  {units} = add i64 0, {cut}")
        each = range.const // cut if range.slices else 0
    else:
        lines.append(f"  {units} = " + (f"mul i64 %rows, {range.per}" if range.per else f"add i64 0, {range.const}"))
        if range.grain != 1:
            units = f"%units{s}"
            lines += [f"  %up{s} = add i64 %size{s}, {range.grain - 1}", f"  {units} = sdiv i64 %up{s}, {range.grain}"]
    ends = (("lo", "%fewthread"), ("hi", "%fewnext")) if few else (("lo", "%thread"), ("hi", "%next"))
    threads = "%few" if few else "%threads"
    for end, thread in ends:
        whole = f"%{end}{s}" if each == 1 else f"%{end}s{s}"
        lines.append(f"  {whole} = call i64 @share(i64 {units}, i64 {thread}, i64 {threads})")
        if each > 1:
            lines.append(f"  %{end}{s} = mul i64 {whole}, {each}")
        elif each == 0:
            lines.append(f"  %{end}{s} = call i64 @share(i64 %rows, i64 {whole}, i64 {cut})")
    return lines
