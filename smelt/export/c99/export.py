"""``smelt.export.c``: a module and the shape of one sample in; C99 source in a folder out."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from smelt.autograd import no_grad
from smelt.compiler.emit.c import CUnit
from smelt.errors import ExportError, FileError, ShapeError, at_user_line
from smelt.export.c99.header import Form, Where, header
from smelt.export.c99.host import NUMPY, HostNetwork, library, object_file
from smelt.export.c99.network import InputShape, Network, network
from smelt.export.c99.plan import MemoryPlan, memory_plan
from smelt.export.c99.selftest import selftest
from smelt.export.c99.source import source
from smelt.files import PathLike, write_atomic
from smelt.nn.calls import leaves
from smelt.nn.module import Module
from smelt.tensor import Tensor
from smelt.train.steps import mode

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
KEYWORDS = re.compile(
    "auto|break|case|char|const|continue|default|do|double|else|enum|extern|float|for|goto|if|inline|int|long|main|"
    "register|restrict|return|short|signed|sizeof|static|struct|switch|typedef|union|unsigned|void|volatile|while"
)


@dataclass(frozen=True)
class CExport:
    """What :func:`c` made.

    Attributes
    ----------
    files : dict of str to str
        Text by file name.
    constant_bytes : int
        Weights and other constants, in flash.
    arena_bytes : int
        Intermediates; with ``ends="arena"`` inputs and outputs too.
    stack_bytes : int
        Arrays of the function that has most; what the compiler adds is not known here.
    proven : bool
        Whether no arena can be smaller for these loops in this order.
    macs : int
        Multiply-accumulates of one run.
    plan : MemoryPlan
        The same per call, and what lies where in the arena at what time; ``print`` it for a table, ``draw`` it.
    """

    files: dict[str, str]
    constant_bytes: int
    arena_bytes: int
    stack_bytes: int
    proven: bool
    macs: int
    plan: MemoryPlan
    _network: Network
    _form: Form

    def load(self, flags: Sequence[str] = ("-O3", "-march=native"), compiler: str | None = None) -> HostNetwork:
        """Compile the files for this machine; return the network as a function on arrays.

        Parameters
        ----------
        flags : sequence of str
            For the compiler.
        compiler : str, optional
            Its name; by default the first found of cc, gcc, clang and tcc.

        Raises
        ------
        ExportError
            When there is no compiler, or it ends with an error.
        """
        image = object_file(self._form, self.files, flags, compiler)
        made = library(image, self._network.unit.math, flags, compiler)
        return HostNetwork(self._network, self._form, functools.partial(getattr, made), image)

    def __str__(self) -> str:
        return (
            f"{', '.join(self.files)}: constants {self.constant_bytes:,} bytes, arena {self.arena_bytes:,} bytes, "
            f"arrays on the stack {self.stack_bytes:,} bytes, {self.macs:,} multiply-accumulates"
        )


def c(
    model: Module,
    folder: PathLike | None,
    input_shape: InputShape,
    *,
    name: str = "network",
    batch: int = 1,
    arena: Where = "caller",
    ends: Where | str = "caller",
    samples: np.ndarray | Sequence[np.ndarray] | None = None,
    dtype: str | Sequence[str] = "float32",
) -> CExport:
    """Write a network as C99: ``name.c`` and ``name.h``, which is its manual.

    The files need no library but ``math.h`` (and that only for some activations), allocate nothing and suit any width
    of ``int``. Names of layers and weights do not become names in C. The model is traced in evaluation mode, and left
    as it was.

    Parameters
    ----------
    model : Module
        What to export.
    folder : path or None
        Where the files go; made if it is missing. None writes nothing.
    input_shape : sequence of int, or mapping of str to such
        Shape of one sample, without the batch. A model of several inputs needs their names and shapes, in order.
    name : str, default "network"
        Of the files, and the prefix of every name that others see: lower-case letters, digits and ``_``.
    batch : int, default 1
        Samples per run.
    arena : {"caller", "static"}, default "caller"
        Whether the memory of the intermediates is given by the caller, or kept by the ``.c`` file.
    ends : {"caller", "arena"}, default "caller"
        Whether inputs and outputs are arrays of the caller, or parts of the arena, where others may take their place.
    samples : array or sequence of arrays, optional
        Inputs to record: with them ``name_test.c`` is written, a program that runs the network on each and compares
        the outputs with the model's. One array per input; the first axis counts samples, a whole number of batches.
    dtype : str or sequence of str, default "float32"
        Type of the inputs' elements: of all, or of one after the other.

    Returns
    -------
    CExport
        The files and what they need.

    Raises
    ------
    ExportError
        When the name is not one, or something in the network cannot be said in C.
    ShapeError
        When the model cannot take such an input.
    FileError
        When a file cannot be written.

    Examples
    --------
    >>> import smelt
    >>> from smelt import models
    >>> made = smelt.export.c(models.ds_cnn(), None, (1, 49, 10), name="keywords")
    >>> print(made)
    keywords.c, keywords.h: constants 90,416 bytes, arena 64,000 bytes, arrays on the stack 1,280 bytes, \
2,656,768 multiply-accumulates
    """
    form = make_form("c", name, arena, ends)
    net = network(model, input_shape, batch, dtype, form.ends, CUnit())
    files = {f"{name}.c": source(net, form), f"{name}.h": header(net, form)}
    if samples is not None:
        files[f"{name}_test.c"] = selftest(net, form, *record(model, net, samples))
    if folder is not None:
        write_files(folder, {file: text.encode() for file, text in files.items()})
    arenas = net.serial.arenas.values()
    return CExport(
        files,
        net.constant_bytes,
        net.serial.arena_bytes,
        net.unit.stack_bytes,
        all(a.proven for a in arenas),
        net.macs,
        memory_plan(net),
        net,
        form,
    )


def make_form(what: str, name: str, arena: Where, ends: Where | str) -> Form:
    """Return how a network appears in C.

    Raises
    ------
    ExportError
        When the name is not one for C, or there is no such form.
    """
    if not _NAME.fullmatch(name) or KEYWORDS.fullmatch(name):
        raise ExportError(at_user_line(f"{what}: name: expected lower-case letters, digits and _, received {name!r}"))
    for key, value, choices in (("arena", arena, ("caller", "static")), ("ends", ends, ("caller", "arena"))):
        if value not in choices:
            raise ExportError(at_user_line(f"{what}: {key}: expected one of {choices}, received {value!r}"))
    return Form(name, arena, ends == "arena")


def write_files(folder: PathLike, files: dict[str, bytes]) -> None:
    """Write files into a folder, which is made if it is missing.

    Raises
    ------
    FileError
        When one cannot be written.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as e:
        raise FileError(f"{os.fspath(folder)}: cannot make the folder: {e.strerror}") from None
    for file, content in files.items():
        write_atomic(os.path.join(os.fspath(folder), file), content)


def record(
    model: Module, net: Network, samples: np.ndarray | Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the samples cut into batches, and the model's outputs for each."""
    given, what = [samples] if isinstance(samples, np.ndarray) else list(samples), net.unit.what
    inputs = []
    for end, x in zip(net.inputs, given, strict=False):
        x = np.asarray(x, NUMPY[end.dtype])
        runs, rest = divmod(len(x), end.shape[0]) if x.ndim else (0, 0)
        if x.shape[1:] != end.shape[1:] or rest or not runs:
            raise ShapeError(at_user_line(f"{what}: samples: expected (a multiple of {end.shape}), received {x.shape}"))
        inputs.append(x.reshape(runs, *end.shape))
    if len(given) != len(net.inputs) or len({len(x) for x in inputs}) != 1:
        raise ShapeError(
            at_user_line(f"{what}: samples: expected {len(net.inputs)} arrays of equal length, received {len(given)}")
        )
    with no_grad(), mode(model, False):
        results = [[t.numpy() for t in leaves(model(*map(Tensor, run)))] for run in zip(*inputs, strict=True)]
    return inputs, [np.stack(r) for r in zip(*results, strict=True)]
