"""Time stamps: what the instruments read of a step, as each thread writes it down.

In: how many kernels there are. Out: LLVM lines that read the processor's clock and store it, or add to a kernel's sum
where kernels take turns. A step that is not profiled has none of them.
"""

from __future__ import annotations

from collections.abc import Callable

from smelt.compiler.emit.llvm import CTX_STAMPS


def clock_counter(triple: str, declare: Callable[[str], None]) -> str:
    """Return the name of the function that reads the processor's clock, and declare it."""
    name = "readcyclecounter" if triple.startswith("x86_64") else "readsteadycounter"
    declare(f"i64 @llvm.{name}()")
    return f"@llvm.{name}"


def stamper(counter: str, count: int) -> Callable[..., list[str]]:
    """Return a function that gives the lines of the next of ``count`` time stamps: now, or a time it is given."""
    done = 0

    def lines(now: str = "") -> list[str]:
        nonlocal done
        out = [
            *(_find(count) if done == 0 else []),
            *([] if now else [f"  %now{done} = call i64 {counter}()"]),
            f"  %stamp{done} = getelementptr i64, ptr %mystamps, i64 {done}",
            f"  store i64 {now or f'%now{done}'}, ptr %stamp{done}, align 8",
        ]
        done += 1
        return out

    return lines


def timed(name: str, kernels: int, calls: list[str], counter: str, stamp: Callable[..., list[str]]) -> list[str]:
    """Return calls that sum up times, and the stamps of the kernels: as far apart as their turns took together."""
    lines = [
        f"  %sums.{name} = alloca [{kernels} x i64], align 8",
        f"  store [{kernels} x i64] zeroinitializer, ptr %sums.{name}, align 8",
        f"  %clock.{name} = call i64 {counter}()",
        *calls,
    ]
    before = f"%clock.{name}"
    for i in range(kernels):
        lines += [
            f"  %sum.{name}.{i} = getelementptr i64, ptr %sums.{name}, i64 {i}",
            f"  %took.{name}.{i} = load i64, ptr %sum.{name}.{i}, align 8",
            f"  %then.{name}.{i} = add i64 {before}, %took.{name}.{i}",
        ]
        before = f"%then.{name}.{i}"
        lines += stamp(before)
    return lines


def clock_before(name: str, counter: str) -> list[str]:
    """Return the line that reads the clock before a call, if there is a ``counter`` of cycles."""
    return [f"  %clock{name} = call i64 {counter}()"] if counter else []


def clock_after(name: str, kernel: str, counter: str) -> list[str]:
    """Return the lines that add to ``sums`` what a call of ``kernel``, a number with its type, took."""
    if not counter:
        return []
    read = f"  %now{name} = call i64 {counter}()"
    return [read, *add_time(name, "%sums", kernel, f"%clock{name}", f"%now{name}")]


def add_time(name: str, sums: str, slot: str, start: str, end: str) -> list[str]:
    """Return the lines that add what lies between two times to one of ``sums``, whose number comes with its type."""
    return [
        f"  %took{name} = sub i64 {end}, {start}",
        f"  %sum{name} = getelementptr i64, ptr {sums}, {slot}",
        f"  %sofar{name} = load i64, ptr %sum{name}, align 8",
        f"  %longer{name} = add i64 %sofar{name}, %took{name}",
        f"  store i64 %longer{name}, ptr %sum{name}, align 8",
    ]


def _find(count: int) -> list[str]:
    """Return the lines that find this thread's ``count`` stamps."""
    return [
        f"  %stampslot = getelementptr i8, ptr %ctx, i64 {CTX_STAMPS}",
        "  %stamps = load ptr, ptr %stampslot, align 8",
        f"  %stamprow = mul i64 %thread, {count}",
        "  %mystamps = getelementptr i64, ptr %stamps, i64 %stamprow",
    ]


class Adder:
    """Adds to each kernel's sum in a function of phases that run several times; the sums follow a thread's start.

    Called like what :func:`stamper` returns: with a time, or else now, up to which the next kernel took.
    """

    def __init__(self, counter: str, count: int) -> None:
        self.counter, self.count = counter, count
        self.next = 0
        self._before = ""

    def find(self) -> list[str]:
        """Return the lines that find this thread's sums."""
        return _find(self.count)

    def begin(self, barrier: bool) -> list[str]:
        """Return the lines that begin a phase, one behind a ``barrier``, whose time somebody else adds."""
        self.next += barrier
        self._before = f"%begun{self.next}"
        return [f"  {self._before} = call i64 {self.counter}()"]

    def __call__(self, now: str = "") -> list[str]:
        """Return the lines that add the time since the last call to the next sum."""
        self.next += 1
        i, before, self._before = self.next, self._before, now or f"%now{self.next}"
        read = [] if now else [f"  {self._before} = call i64 {self.counter}()"]
        return [*read, *add_time(f"{i}", "%mystamps", f"i64 {i}", before, self._before)]


class Clock:
    """Sums up what each kernel takes over all slices, where :func:`stamper` has a stamp after every one."""

    def __init__(self, counter: str, kernels: int) -> None:
        self.counter, self.kernels = counter, kernels
        self.count = 1 + kernels
        self.reads = 0

    def begin(self) -> list[str]:
        """Return the lines that find this thread's stamps and clear them."""
        lines = _find(self.count)
        for i in range(self.count):
            lines += [self._at("clear", i), f"  store i64 0, ptr %clear{i}, align 8"]
        return lines

    def read(self) -> list[str]:
        """Return the lines that add the time since the last reading to the kernel that ran."""
        i = self.reads
        self.reads += 1
        lines = [f"  %now{i} = call i64 {self.counter}()"]
        if i:
            lines += [
                f"  %took{i} = sub i64 %now{i}, %now{i - 1}",
                self._at("sum", i),
                f"  %sofar{i} = load i64, ptr %sum{i}, align 8",
                f"  %longer{i} = add i64 %sofar{i}, %took{i}",
                f"  store i64 %longer{i}, ptr %sum{i}, align 8",
            ]
        return lines

    def around(self, kernels: int, call: Callable[[str], str]) -> list[str]:
        """Return the lines of a call that adds up the times of the next ``kernels`` itself, where it is told."""
        sums = f"%sum{self.reads}"
        lines = [self._at("sum", self.reads), call(sums)]
        self.reads += kernels
        return [*lines, f"  %now{self.reads - 1} = call i64 {self.counter}()"]

    def end(self) -> list[str]:
        """Return the lines that turn times into stamps that follow one another."""
        lines, before = [], "0"
        for i in range(self.count):
            lines += [
                self._at("last", i),
                f"  %one{i} = load i64, ptr %last{i}, align 8",
                f"  %stamp{i} = add i64 {before}, %one{i}",
                f"  store i64 %stamp{i}, ptr %last{i}, align 8",
            ]
            before = f"%stamp{i}"
        return lines

    def _at(self, name: str, i: int) -> str:
        return f"  %{name}{i} = getelementptr i64, ptr %mystamps, i64 {i}"
