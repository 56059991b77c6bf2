"""How many instructions a run takes: a compiled program of ``smelt.export.here.program`` in; a count out.

Three ways, each of which counts what is executed: the processor's own counter, which virtual machines often hide; QEMU
translating the program for one process, with a plugin that counts; single steps, each a stop of the program.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from smelt.errors import ExportError
from smelt.export.c99.host import compiler
from smelt.export.here.program import MARK
from smelt.export.tools import compile_in, run

SECONDS = 10.0
"""How long single steps may take; an emulator takes as long as :data:`PATIENCE`."""
PATIENCE = 120.0
PLUGIN_VERSIONS = (1, 2)
"""Of the interface to plugins: that of QEMU up to 8, and the oldest that later ones take."""

_PLUGIN = """\
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef uint64_t plugin;
typedef uint64_t argument;
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin, void (*)(plugin, struct qemu_plugin_tb *));
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, void (*)(unsigned, void *), int, void *);
extern void qemu_plugin_register_vcpu_syscall_cb(plugin, void (*)(plugin, unsigned, int64_t, argument, argument,
  argument, argument, argument, argument, argument, argument));

int qemu_plugin_version = VERSION;
static uint64_t count;

static void executed(unsigned cpu, void *nothing)
{
  (void)cpu, (void)nothing;
  ++count;
}

static void translated(plugin id, struct qemu_plugin_tb *block)
{
  size_t i;
  (void)id;
  for (i = 0; i < qemu_plugin_tb_n_insns(block); ++i) /* one by one: the size of a block is not always what runs */
    qemu_plugin_register_vcpu_insn_exec_cb(qemu_plugin_tb_get_insn(block, i), executed, 0, NULL);
}

static void called(plugin id, unsigned cpu, int64_t number, argument a, argument b, argument c, argument d, argument e,
  argument f, argument g, argument h)
{
  (void)id, (void)cpu, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
  if (number == MARK)
    fprintf(stderr, "mark %llu\\n", (unsigned long long)count);
}

int qemu_plugin_install(plugin id, const void *about, int given, char **arguments)
{
  (void)about, (void)given, (void)arguments;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_vcpu_syscall_cb(id, called);
  return 0;
}
"""


def by_counter(folder: Path) -> int | None:
    """Return what the processor counts, or None where it does not let itself be asked."""
    return read_number(folder, "counter")


def by_steps(folder: Path, seconds: float = SECONDS) -> int | None:
    """Return the number of single steps, or None when so many seconds are too few, or steps are not allowed."""
    return read_number(folder, "steps", f"{seconds:g}")


def by_emulator(folder: Path, emulator: str) -> int | None:
    """Return what QEMU counts, or None when it is not installed, or does not know all the instructions.

    Examples
    --------
    >>> by_emulator(Path("."), "qemu-toaster") is None
    True
    """
    if shutil.which(emulator) is None:
        return None
    for version in PLUGIN_VERSIONS:
        plugin = folder / f"plugin{version}.so"
        (folder / "plugin.c").write_text(_PLUGIN)
        defined = [f"-DVERSION={version}", f"-DMARK={MARK}"]
        try:
            compile_in(folder, [str(compiler()), "-O2", "-shared", "-fPIC", *defined, "plugin.c", "-o", plugin.name])
            done = run([emulator, "-plugin", f"./{plugin.name}", "./program", "marks"], folder, PATIENCE)
        except ExportError:
            return None
        marks = [int(n) for n in re.findall(r"^mark (\d+)$", done.stderr, re.MULTILINE)]
        if not done.returncode and len(marks) == 4:
            return marks[3] - marks[2] - (marks[1] - marks[0]) + 1
    return None


def read_number(folder: Path, *arguments: str, emulator: str | None = None) -> int | None:
    """Return the number that the program prints, or None when it does not."""
    command = [emulator] if emulator else []
    try:
        done = run([*command, "./program", *arguments], folder, PATIENCE)
    except ExportError:
        return None
    return int(done.stdout) if not done.returncode and done.stdout.strip().isdecimal() else None
