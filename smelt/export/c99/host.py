"""Run exported C on this machine: the files of a network in; a function on arrays out."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from smelt.errors import ExportError, ShapeError, at_user_line
from smelt.export.c99.header import Form
from smelt.export.c99.network import Network
from smelt.ops.primitive import short_dtype

COMPILERS = ("cc", "gcc", "clang", "tcc")
STRICT = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Wdouble-promotion", "-Werror")
SECONDS = 300  # a compiler may take
NUMPY: dict[str, np.dtype] = {
    short_dtype(np.dtype(name)): np.dtype(name)
    for name in ("float32", "float64", "int32", "uint32", "int64", "uint8", "int8", "bool")
}


def compiler() -> str | None:
    """Return the first C compiler that is installed, or None."""
    return next((found for name in COMPILERS if (found := shutil.which(name))), None)


def build(command: Sequence[str]) -> None:
    """Run a compiler.

    Raises
    ------
    ExportError
        When it fails: with the first line it says.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise ExportError(at_user_line(f"c: {os.path.basename(command[0])} did not run: {e}")) from None
    if done.returncode:
        said = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[:200])
        raise ExportError(at_user_line(f"c: {os.path.basename(command[0])} ended with {done.returncode}: {said}"))


def object_file(form: Form, files: dict[str, str], flags: Sequence[str], cc: str | None) -> bytes:
    """Return exported C as this machine's object file."""
    cc = cc or compiler()
    if cc is None:
        raise ExportError(at_user_line(f"c: no C compiler was found, expected one of {', '.join(COMPILERS)}"))
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            with open(os.path.join(folder, name), "w") as file:
                file.write(content)
        base = os.path.join(folder, form.name)
        build([cc, *flags, "-fPIC", "-c", f"{base}.c", "-o", f"{base}.o"])
        with open(f"{base}.o", "rb") as made:
            return made.read()


def library(image: bytes, math: bool, flags: Sequence[str], cc: str | None) -> ctypes.CDLL:
    """Return an object file, linked with ``math.h``'s functions on request, loaded into this process."""
    with tempfile.TemporaryDirectory() as folder:
        base = os.path.join(folder, "network")
        with open(f"{base}.o", "wb") as file:
            file.write(image)
        build([str(cc or compiler()), *flags, "-shared", f"{base}.o", "-o", f"{base}.so", *(["-lm"] if math else [])])
        return ctypes.CDLL(f"{base}.so")


class HostNetwork:
    """An exported network in this process; not for several threads at once.

    It takes one array per input, with the batch, and returns a list of arrays, one per output. ``functions`` gives
    those of the header by name; ``image`` is the object file they are from.
    """

    def __init__(self, net: Network, form: Form, functions: Callable[[str], Any], image: bytes) -> None:
        self._net, self._form, self._functions, self.image = net, form, functions, image
        self._memory = np.zeros(max(net.serial.arena_bytes, 1), np.uint8)

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """Run the network once.

        Raises
        ------
        ShapeError
            When an input has another shape or dtype.
        """
        run, outputs = self.bind(*inputs)
        run()
        return outputs

    def bind(self, *inputs: np.ndarray) -> tuple[Callable[[], None], list[np.ndarray]]:
        """Return a function that runs the network on these arrays, and the arrays it writes: for loops that measure."""
        expected = [(e.shape, NUMPY[e.dtype]) for e in self._net.inputs]
        given = [np.ascontiguousarray(x) for x in inputs]
        if [(x.shape, x.dtype) for x in given] != expected:
            found = ", ".join(f"{x.dtype}{list(x.shape)}" for x in given)
            wanted = ", ".join(f"{np.dtype(d)}{list(s)}" for s, d in expected)
            raise ShapeError(at_user_line(f"{self._form.name}: expected {wanted}, received {found or 'nothing'}"))
        outputs = [np.zeros(e.shape, NUMPY[e.dtype]) for e in self._net.outputs]
        arena = [self._memory] if self._net.serial.arenas and self._form.arena == "caller" else []
        if not self._form.ends:
            return self._function("run", *given, *outputs, *arena), outputs
        places = [
            self._function(end.name, *arena, result=ctypes.c_void_p) for end in (*self._net.inputs, *self._net.outputs)
        ]
        step = self._function("run", *arena)

        def run() -> None:
            for place, x in zip(places, given, strict=False):
                ctypes.memmove(place(), x.ctypes.data, x.nbytes)
            step()
            for place, y in zip(places[len(given) :], outputs, strict=True):
                ctypes.memmove(y.ctypes.data, place(), y.nbytes)

        return run, outputs

    def _function(self, name: str, *arrays: np.ndarray, result: type | None = None) -> Callable[[], Any]:
        """Return a function of the library with the addresses of these arrays, which it keeps alive."""
        function = self._functions(f"{self._form.name}_{name}")
        function.restype = result
        return functools.partial(function, *(a.ctypes.data_as(ctypes.c_void_p) for a in arrays))
