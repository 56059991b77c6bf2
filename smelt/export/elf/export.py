"""``smelt.export.object``: a module, the shape of one sample and a processor in; an object file and its header out."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from smelt._version import __version__
from smelt.compiler.isa import host
from smelt.errors import ExportError, at_user_line
from smelt.export.c99.export import make_form, record, write_files
from smelt.export.c99.header import Code, Form, Where, header
from smelt.export.c99.host import HostNetwork
from smelt.export.c99.network import InputShape, Network, network
from smelt.export.c99.plan import MemoryPlan, memory_plan
from smelt.export.c99.selftest import selftest
from smelt.export.elf.image import Image, read_image
from smelt.export.elf.machine import compile_assembly, compile_object
from smelt.export.elf.module import ObjectUnit, module_text
from smelt.export.elf.stack import frames
from smelt.export.targets import NATIVE, TARGETS, Target, find_target, kind_of_machine
from smelt.files import PathLike
from smelt.nn.module import Module

OBJECTS = tuple(name for name, target in TARGETS.items() if target.isa.pointer_bytes > 2)
"""Targets that objects are made for; for others there is C."""


@dataclass(frozen=True)
class ObjectExport:
    """What :func:`export` made.

    Attributes
    ----------
    files : dict of str to bytes
        Content by file name.
    target : str
        The processor.
    constant_bytes : int
        Weights and other constants, in flash.
    code_bytes : int
        Machine code and what belongs to it, in flash.
    arena_bytes : int
        Intermediates; with ``ends="arena"`` inputs and outputs too.
    stack_bytes : int
        All that a run takes; what functions of ``calls`` take is not known here.
    calls : tuple of str
        Functions that the object needs: of ``math.h``, and arithmetic that the processor has no instructions for.
    proven : bool
        Whether no arena can be smaller for these loops in this order.
    macs : int
        Multiply-accumulates of one run.
    plan : MemoryPlan
        The same per call, and what lies where in the arena at what time; ``print`` it for a table, ``draw`` it.
    """

    files: dict[str, bytes]
    target: str
    constant_bytes: int
    code_bytes: int
    arena_bytes: int
    stack_bytes: int
    calls: tuple[str, ...]
    proven: bool
    macs: int
    plan: MemoryPlan
    _network: Network
    _form: Form

    @property
    def runs_here(self) -> bool:
        """Whether this machine runs code for the target."""
        wide = self.target != "x86-64" or host().name in ("avx2", "avx512")
        return self.target == NATIVE or (self.target == kind_of_machine() and wide)

    def load(self) -> HostNetwork:
        """Link the object into this process; return the network as a function on arrays.

        Raises
        ------
        ExportError
            When this machine does not run code for the target.
        """
        return HostNetwork(self._network, self._form, _linked(self), self.files[f"{self._form.name}.o"])

    def __str__(self) -> str:
        return (
            f"{', '.join(self.files)}: constants {self.constant_bytes:,} bytes, code {self.code_bytes:,} bytes, "
            f"arena {self.arena_bytes:,} bytes, stack {self.stack_bytes:,} bytes, {self.macs:,} multiply-accumulates"
        )


def export(
    model: Module,
    folder: PathLike | None,
    input_shape: InputShape,
    *,
    target: str,
    name: str = "network",
    batch: int = 1,
    arena: Where = "caller",
    ends: Where | str = "caller",
    samples: np.ndarray | Sequence[np.ndarray] | None = None,
    dtype: str | Sequence[str] = "float32",
) -> ObjectExport:
    """Write a network as an object file: ``name.o``, and ``name.h``, which is its manual.

    The header is that of :func:`smelt.export.c`, and so are the functions and the memory. The code is made by LLVM,
    with the processor's vectors. The object allocates nothing, and calls nothing but functions of ``math.h`` (for few
    operations) and arithmetic that the processor lacks: ``calls`` names them.

    Parameters
    ----------
    model : Module
        What to export.
    folder : path or None
        Where the files go; made if it is missing. None writes nothing.
    input_shape : sequence of int, or mapping of str to such
        Shape of one sample, without the batch. A model of several inputs needs their names and shapes, in order.
    target : str
        The processor: a name of ``smelt.export.targets.TARGETS``, or ``"native"`` for this one.
    name : str, default "network"
        Of the files, and the prefix of every name that others see: lower-case letters, digits and ``_``.
    batch : int, default 1
        Samples per run.
    arena : {"caller", "static"}, default "caller"
        Whether the memory of the intermediates is given by the caller, or kept by the object.
    ends : {"caller", "arena"}, default "caller"
        Whether inputs and outputs are arrays of the caller, or parts of the arena, where others may take their place.
    samples : array or sequence of arrays, optional
        Inputs to record: with them ``name_test.c`` is written, a program that runs the network on each and compares
        the outputs with the model's. One array per input; the first axis counts samples, a whole number of batches.
    dtype : str or sequence of str, default "float32"
        Type of the inputs' elements: of all, or of one after the other.

    Returns
    -------
    ObjectExport
        The files and what they need.

    Raises
    ------
    ExportError
        When there is no such target, the name is none for C, or something in the network cannot be exported.
    ShapeError
        When the model cannot take such an input.
    FileError
        When a file cannot be written.

    Examples
    --------
    >>> import smelt
    >>> from smelt import models
    >>> made = smelt.export.object(models.ds_cnn(), None, (1, 49, 10), target="cortex-m4", name="keywords")
    >>> print(made)
    keywords.o, keywords.h: constants 90,416 bytes, code ... bytes, arena 64,000 bytes, stack ... bytes, \
2,656,768 multiply-accumulates
    >>> made.calls
    ()
    """
    processor = _find(target)
    form = make_form("object", name, arena, ends)
    net = network(model, input_shape, batch, dtype, form.ends, ObjectUnit(processor.isa))
    data = compile_object(module_text(net, form), processor)
    if not data.startswith(b"\x7fELF"):
        raise ExportError(
            at_user_line(f"object: {target}: this system's objects are not ELF, expected a processor's name")
        )
    image = read_image(data)
    code = image.code_bytes + image.constant_bytes - net.constant_bytes
    net = _with_stack(net, form, processor)
    files = {f"{name}.o": data, f"{name}.h": header(net, form, _words(net, form, processor, image, code)).encode()}
    if samples is not None:
        files[f"{name}_test.c"] = selftest(net, form, *record(model, net, samples)).encode()
    if folder is not None:
        write_files(folder, files)
    plan = memory_plan(net, code)
    return ObjectExport(
        files,
        target,
        net.constant_bytes,
        code,
        net.serial.arena_bytes,
        net.unit.stack_bytes,
        image.calls,
        plan.proven,
        net.macs,
        plan,
        net,
        form,
    )


def _find(name: str) -> Target:
    if name not in (*OBJECTS, NATIVE):
        why = "objects are not made for it, export it as C; " if name in TARGETS else ""
        raise ExportError(at_user_line(f"object: target {name!r}: {why}expected one of {', '.join(OBJECTS)}, {NATIVE}"))
    return find_target(name)


def _with_stack(net: Network, form: Form, target: Target) -> Network:
    """Return the network with what each call takes of the stack; the unit then knows what a run takes."""
    taken = frames(compile_assembly(module_text(net, form, weights=False), target), target.isa.vector_bytes)
    calls = tuple(replace(c, stack_bytes=taken[c.function]) for c in net.calls)
    assert isinstance(net.unit, ObjectUnit)
    net.unit.stack_bytes = taken[f"{form.name}_run"] + max((c.stack_bytes for c in calls), default=0)
    return replace(net, calls=calls)


def _words(net: Network, form: Form, target: Target, image: Image, code: int) -> Code:
    """Return what the manual says of an object."""
    stack = f"{net.unit.stack_bytes:,} bytes" + (", and what the functions it calls take" if image.calls else "")
    flags = " ".join(target.flags)
    return Code(
        f"a neural network for {target.title}, compiled by Smelt {__version__}",
        f"It calls {', '.join(image.calls)}" if image.calls else "No library",
        f"{net.constant_bytes:,} bytes of constants and {code:,} of code",
        stack,
        f"Link {form.name}.o with code for the same processor" + (f": {flags}" if flags else "."),
    )


def _linked(made: ObjectExport) -> Callable[[str], Any]:
    """Return the functions of an object in this process, by name."""
    from smelt.compiler.jit import Library

    if not made.runs_here:
        target = made.target
        raise ExportError(at_user_line(f"object: {target}: its code does not run on this machine, expected {NATIVE}"))
    form, net = made._form, made._network
    names = [f"{form.name}_run"]
    names += [f"{form.name}_{e.name}" for e in (*net.inputs, *net.outputs)] if form.ends else []
    code = Library(made.files[f"{form.name}.o"], tuple(names))

    def function(name: str) -> Any:
        kind = ctypes.CFUNCTYPE(None)
        made_of = kind(code.address[name])
        made_of.argtypes = None  # type: ignore[assignment]  # any number of pointers
        made_of.code = code  # type: ignore[attr-defined]  # as long as the function
        return made_of

    return function
