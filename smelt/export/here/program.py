"""The program that measures an exported network on this machine: a network in; C out.

Its first argument says what is measured: ``stack``, how deep the stack goes, seen from what was written over a pattern
that fills it before; or instructions, by ``counter``, the processor's own, by ``steps``, one at a time, or by
``marks``, which somebody outside counts between. Instructions are those of a run less those of a function that only
returns, called in the same way.
"""

from __future__ import annotations

from smelt.compiler.emit.expressions import TYPE
from smelt.export.emulate.program import Exported

INPUT = "in.bin"
MARK = 4242
"""The number of a call of the system that there is not: it marks where a count begins and ends."""
SPARE = 256 << 10
"""Bytes of stack beside the network's own arrays, for the functions of the C library that it calls."""

_HEAD = """\
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#endif
"""

_STACK = """\
#define PATTERN 0xa5u

#if defined(__x86_64__)
#define TOP(p) __asm__ volatile("mov %%rsp, %0" : "=r"(p))
#else
#define TOP(p) __asm__ volatile("mov %0, sp" : "=r"(p))
#endif

static void *deep(void *stack)
{
  static long depth;
  volatile char *p;
  char *top, *lowest = stack;
  TOP(top);
  for (p = lowest; p < top; ++p)
    *p = (char)PATTERN;
  RUN();
  for (p = lowest; p < top && *p == (char)PATTERN; ++p)
    ;
  depth = p == lowest ? -1 : (long)(top - p);
  return &depth;
}

static int show_stack(void)
{
  pthread_attr_t how;
  pthread_t thread;
  void *stack, *depth;
  if (posix_memalign(&stack, 65536, STACK) || pthread_attr_init(&how) || pthread_attr_setstack(&how, stack, STACK))
    return 1;
  if (pthread_create(&thread, &how, deep, stack) || pthread_join(thread, &depth) || *(long *)depth < 0)
    return 1;
  return printf("%ld\\n", *(long *)depth) < 0;
}
"""

_COUNTER = """\
#ifdef __has_include
#if __has_include(<linux/perf_event.h>)
#include <linux/perf_event.h>
#define COUNTER 1
#endif
#endif

static long long between(int fd)
{
#ifdef COUNTER
  uint64_t found[3];
  if (ioctl(fd, PERF_EVENT_IOC_RESET, 0) || ioctl(fd, PERF_EVENT_IOC_ENABLE, 0))
    return -1;
  RUN();
  if (ioctl(fd, PERF_EVENT_IOC_DISABLE, 0) || read(fd, found, sizeof found) != sizeof found)
    return -1;
  return found[1] == found[2] ? (long long)found[0] : -1; /* or it was shared with others */
#else
  return fd;
#endif
}

static int show_counter(void)
{
  long long least[2] = {-1, -1};
  int fd = -1, i;
#ifdef COUNTER
  struct perf_event_attr what;
  memset(&what, 0, sizeof what);
  what.size = sizeof what;
  what.type = PERF_TYPE_HARDWARE;
  what.config = PERF_COUNT_HW_INSTRUCTIONS;
  what.disabled = what.exclude_kernel = what.exclude_hv = 1;
  what.read_format = PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING;
  fd = (int)syscall(SYS_perf_event_open, &what, 0, -1, -1, 0);
#endif
  if (fd < 0)
    return 1;
  for (i = 0; i < 10; ++i) { /* an interrupt may count as an instruction */
    long long found;
    chosen = i % 2 ? network : nothing;
    found = between(fd);
    if (found > 0 && (least[i % 2] < 0 || found < least[i % 2]))
      least[i % 2] = found;
  }
  return least[0] < 0 || least[1] <= least[0] || printf("%lld\\n", least[1] - least[0] + 1) < 0;
}
"""

_STEPS = """\
static long long steps(function *what, double seconds)
{
  struct timespec start, now;
  long long count = 0;
  int state;
  pid_t child = fork();
  chosen = what;
  if (child == 0) {
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL))
      _exit(1);
    kill(getpid(), SIGUSR1);
    RUN();
    kill(getpid(), SIGUSR1);
    _exit(0);
  }
  if (child < 0 || waitpid(child, &state, 0) != child || !WIFSTOPPED(state))
    return -1;
  clock_gettime(CLOCK_MONOTONIC, &start);
  for (;; ++count) {
    if (ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) || waitpid(child, &state, 0) != child)
      count = -1;
    if (count < 0 || !WIFSTOPPED(state) || WSTOPSIG(state) != SIGTRAP)
      break;
    if (count % 1024 == 0 && !clock_gettime(CLOCK_MONOTONIC, &now) && now.tv_sec - start.tv_sec >= seconds) {
      count = -1;
      break;
    }
  }
  count = count < 0 || !WIFSTOPPED(state) || WSTOPSIG(state) != SIGUSR1 ? -1 : count;
  kill(child, SIGKILL);
  waitpid(child, &state, 0);
  return count;
}

static int show_steps(double seconds)
{
  cpu_set_t one; /* the two take turns, and need not wake each other on another processor */
  long long none, all;
  CPU_ZERO(&one);
  CPU_SET(sched_getcpu(), &one);
  sched_setaffinity(0, sizeof one, &one);
  none = steps(nothing, seconds);
  all = none < 0 ? -1 : steps(network, seconds);
  return all < 0 || printf("%lld\\n", all - none + 1) < 0;
}

static int show_marks(void)
{
  int i;
  for (i = 0; i < 2; ++i) {
    chosen = i ? network : nothing;
    syscall(MARK);
    RUN();
    syscall(MARK);
  }
  return 0;
}
"""

_MAIN = """\
int main(int count, char **arguments)
{
  const char *what = count > 1 ? arguments[1] : "";
  chosen = network;
  if (read_inputs())
    return 2;
  RUN(); /* what is only done the first time is done */
  if (!strcmp(what, "stack"))
    return show_stack();
#ifdef __linux__
  if (!strcmp(what, "counter"))
    return show_counter();
  if (!strcmp(what, "steps"))
    return show_steps(count > 2 ? atof(arguments[2]) : 1.0);
  if (!strcmp(what, "marks"))
    return show_marks();
#endif
  return 2;
}
"""


def program(made: Exported) -> str:
    """Return the text; the program reads one array after the other from ``INPUT``.

    Examples
    --------
    >>> import smelt
    >>> from smelt import models
    >>> text = program(smelt.export.c(models.autoencoder(), None, (640,)))
    >>> [line for line in text.splitlines() if "chosen(" in line]
    ['#define RUN() chosen(x, y, &arena)']
    """
    net, form = made._network, made._form
    ends = (*net.inputs, *net.outputs)
    static = [f"static {form.name}_arena arena;"] if net.serial.arenas else []
    static += [f"static {TYPE[e.dtype]} {e.name}[{e.size}];" for e in ends]
    given = ", ".join([*(e.name for e in ends), *(["&arena"] if net.serial.arenas else [])])
    reads = [f"fread({e.name}, sizeof {e.name}, 1, in) != 1" for e in net.inputs]
    return "\n".join(
        [
            _HEAD,
            f'#include "{form.name}.h"',
            "",
            f"#define STACK {(made.stack_bytes + SPARE + 65535) // 65536 * 65536}",
            f"#define MARK {MARK}",
            f"#define network {form.name}_run",
            *static,
            "",
            f"typedef __typeof__({form.name}_run) function;",
            "#ifdef __linux__",
            '__asm__(".text\\nnothing: ret\\n");',
            "extern function nothing;",
            "#endif",
            "static function *volatile chosen;",
            "",
            f"#define RUN() chosen({given})",
            "",
            "static int read_inputs(void)",
            "{",
            f'  FILE *in = fopen("{INPUT}", "rb");',
            f"  return !in || {' || '.join(reads)};",
            "}",
            "",
            _STACK,
            "#ifdef __linux__",
            _COUNTER,
            _STEPS,
            "#endif",
            "",
            _MAIN,
        ]
    )
