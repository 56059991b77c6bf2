"""The program that runs an exported network on a board: a network and the board in; C out.

It runs the network on one sample after another. After each run it hands back what the run took, how deep the stack
went, and the outputs: every byte as it lies in memory. How deep the stack went is seen from what was written over a
pattern that fills it before.
"""

from __future__ import annotations

import numpy as np

from smelt.compiler.emit.expressions import TYPE, Needs
from smelt.compiler.loops import ITEMSIZE
from smelt.export.c99.export import CExport
from smelt.export.c99.header import Form
from smelt.export.c99.network import End, Network
from smelt.export.c99.source import array
from smelt.export.elf.export import ObjectExport
from smelt.export.emulate.boards import Board

Exported = CExport | ObjectExport
INPUT, OUTPUT = "in.bin", "out.bin"
HEAD = 3
"""Numbers of 32 bits before the outputs of a run: the clock's low half; its high half, or whether it ran over; the
bytes of stack, ``OVER`` when there were not enough."""
OVER = 0xFFFFFFFF

_STACK = """\
#define PATTERN 0xa5u
#define KEPT 64 /* bytes under the stack pointer that a call may use before the stack is looked at */

extern char __heap_end[]; /* the lowest byte of the stack */

static void paint(char *top)
{
  volatile char *p;
  for (p = __heap_end; p < top - KEPT; ++p)
    *p = (char)PATTERN;
}

static uint32_t depth(char *top)
{
  volatile char *p = __heap_end;
  while (p < top && *p == (char)PATTERN)
    ++p;
  return p == __heap_end ? 0xffffffffu : (uint32_t)(top - p);
}
"""

_SEMIHOSTED = """\
#include <semihost.h>

extern uintptr_t sys_semihost(uintptr_t operation, uintptr_t parameter);

static void finish(void)
{
  (void)sys_semihost(0x18, ADP_Stopped_ApplicationExit);
}
"""

_ARM = """\
#define TOP(p) __asm__ volatile("mov %0, sp" : "=r"(p))
#define TIMER ((volatile uint32_t *)0x40000000)

static void start_clock(uint32_t *took)
{
  (void)took;
  TIMER[0] = 0;
  TIMER[2] = 0xffffffffu;
  TIMER[1] = 0xffffffffu;
  TIMER[3] = 1;
  TIMER[0] = 9;
}

static void read_clock(uint32_t *took)
{
  took[0] = 0xffffffffu - TIMER[1];
  took[1] = TIMER[3];
}
"""

_CORSTONE = """\
#define TOP(p) __asm__ volatile("mov %0, sp" : "=r"(p))
#define COUNTER ((volatile uint32_t *)0x58100000)

static void start_clock(uint32_t *took)
{
  (void)took;
  COUNTER[0] = 0;
  COUNTER[2] = 0;
  COUNTER[3] = 0;
  COUNTER[0] = 1;
}

static void read_clock(uint32_t *took)
{
  COUNTER[0] = 0;
  took[0] = COUNTER[2];
  took[1] = COUNTER[3];
}
"""

_RISCV = """\
#define TOP(p) __asm__ volatile("mv %0, sp" : "=r"(p))

static void read_clock(uint32_t *took)
{
  uint32_t low, high;
  __asm__ volatile(".option push\\n.option arch, +zicsr\\n"
                   "csrr %0, minstreth\\ncsrr %1, minstret\\n.option pop" : "=r"(high), "=r"(low));
  took[1] = high - took[1] - (low < took[0]);
  took[0] = low - took[0];
}

static void start_clock(uint32_t *took)
{
  took[0] = took[1] = 0;
  read_clock(took);
}
"""

_CLOCK = {"riscv32": _RISCV, "cortex-m55": _CORSTONE}

_AVR = """\
#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/pgmspace.h>
#include <avr/sleep.h>

#define TOP(p) ((p) = (char *)SP)

static void start_clock(uint32_t *took)
{
  (void)took;
  TCCR1B = 5;
  TCNT1 = 0;
  TIFR1 = 1 << TOV1;
}

static void read_clock(uint32_t *took)
{
  took[0] = TCNT1;
  took[1] = TIFR1 & (1 << TOV1);
}

static void send(uint8_t byte)
{
  while (!(UCSR0A & (1 << UDRE0)))
    ;
  UDR0 = byte;
}

static void hand_back(const void *data, uint16_t size)
{
  const uint8_t *p = (const uint8_t *)data;
  for (; size; ++p, --size) {
    send((uint8_t)('A' + (*p >> 4)));
    send((uint8_t)('A' + (*p & 15)));
    if (size % 64 == 1)
      send('\\n'); /* simavr shows whole lines of at most 256 */
  }
}

static void finish(void)
{
  cli();
  sleep_enable();
  sleep_cpu();
}
"""


def program(made: Exported, board: Board, samples: list[np.ndarray]) -> str:
    """Return the text; the samples, one array per input with a first axis of runs, are only part of it on an AVR."""
    net, form = made._network, made._form
    avr = board.kind == "avr"
    system = _AVR if avr else _SEMIHOSTED + _CLOCK.get(board.target.name, _ARM)
    lines = [f"/* Runs the network of {form.name}.h on samples. */", f'#include "{form.name}.h"', "", system, _STACK]
    given = _given(net, samples) if avr else []
    static = [f"static {form.name}_arena arena;"] if net.serial.arenas and form.arena == "caller" else []
    if not form.ends:
        static += [f"static {TYPE[e.dtype]} {e.name}[{e.size}];" for e in (*net.inputs, *net.outputs)]
    body = _avr_body(net, form, len(samples[0])) if avr else _semihosted_body(net, form)
    return "\n".join([*lines, *given, *static, "", "int main(void)", "{", *(f"  {b}" for b in body), "}"]) + "\n"


def _given(net: Network, samples: list[np.ndarray]) -> list[str]:
    needs = Needs()
    pairs = zip(net.inputs, samples, strict=True)
    return [array(f"static const PROGMEM {TYPE[e.dtype]} given_{e.name}", v, e.dtype, needs) for e, v in pairs]


def _bytes(end: End) -> int:
    return end.size * ITEMSIZE[end.dtype]


def _arena(net: Network, form: Form) -> list[str]:
    return ["&arena"] if net.serial.arenas and form.arena == "caller" else []


def _place(net: Network, form: Form, end: End) -> str:
    return f"{form.name}_{end.name}({', '.join(_arena(net, form))})" if form.ends else end.name


def _measured(net: Network, form: Form) -> list[str]:
    ends = [] if form.ends else [e.name for e in (*net.inputs, *net.outputs)]
    return [
        "  paint(top);",
        "  start_clock(took);",
        f"  {form.name}_run({', '.join(ends + _arena(net, form))});",
        "  read_clock(took);",
        "  took[2] = depth(top);",
    ]


def _semihosted_body(net: Network, form: Form) -> list[str]:
    reads = [f"sys_semihost_read(in, {_place(net, form, e)}, {_bytes(e)}) == 0" for e in net.inputs]
    return [
        f'const int in = sys_semihost_open("{INPUT}", SH_OPEN_R_B), out = sys_semihost_open("{OUTPUT}", SH_OPEN_W_B);',
        "uint32_t took[3];",
        "char *top;",
        "TOP(top);",
        f"while ({' && '.join(reads)}) {{",
        *_measured(net, form),
        "  (void)sys_semihost_write(out, took, sizeof took);",
        *(f"  (void)sys_semihost_write(out, {_place(net, form, e)}, {_bytes(e)});" for e in net.outputs),
        "}",
        "finish();",
        "return 0;",
    ]


def _avr_body(net: Network, form: Form, runs: int) -> list[str]:
    return [
        "uint16_t run;",
        "uint32_t took[3];",
        "char *top;",
        "TOP(top);",
        "UCSR0B = 1 << TXEN0;",
        f"for (run = 0; run < {runs}; ++run) {{",
        *(
            f"  memcpy_P({_place(net, form, e)}, (const char *)given_{e.name} + run * {_bytes(e)}, {_bytes(e)});"
            for e in net.inputs
        ),
        *_measured(net, form),
        "  hand_back(took, sizeof took);",
        *(f"  hand_back({_place(net, form, e)}, {_bytes(e)});" for e in net.outputs),
        "}",
        "finish();",
        "return 0;",
    ]
