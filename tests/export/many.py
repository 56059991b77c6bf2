"""Many small networks as one C file: they compile in one run of a compiler, which is what takes the time."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from smelt.export.c99.header import Form, header
from smelt.export.c99.host import NUMPY
from smelt.export.c99.network import Network
from smelt.export.c99.source import source

from .compilers import STRICT, run

STATIC = re.compile(r"^static (?:const )?\w+ (\w+)[(\[]", re.MULTILINE)


def one_file(nets: Sequence[Network], folder: Path) -> Path:
    """Write all networks into one file: what is static in each gets its network's prefix."""
    parts = []
    for i, net in enumerate(nets):
        form = Form(f"n{i}", "static", False)
        (folder / f"n{i}.h").write_text(header(net, form))
        text = source(net, form)
        for name in set(STATIC.findall(text)) | {"arena"}:
            text = re.sub(rf"(?<![\w.]){name}\b(?!_)", f"n{i}_{name}_", text)
        parts.append(text)
    path = folder / "all.c"
    path.write_text("\n".join(parts))
    return path


def load(nets: Sequence[Network], compiler: str, folder: Path) -> list[Callable[..., list[np.ndarray]]]:
    """Compile networks without a warning; return each as a function from arrays to arrays."""
    run(compiler, *STRICT, "-shared", "-fPIC", one_file(nets, folder), "-o", folder / "all.so", "-lm")
    library = ctypes.CDLL(str(folder / "all.so"))

    def bound(i: int, net: Network) -> Callable[..., list[np.ndarray]]:
        def call(*inputs: np.ndarray) -> list[np.ndarray]:
            given = [np.asarray(a, NUMPY[e.dtype], order="C") for a, e in zip(inputs, net.inputs, strict=True)]
            assert [a.shape for a in given] == [e.shape for e in net.inputs]
            found = [np.zeros(e.shape, NUMPY[e.dtype]) for e in net.outputs]
            library[f"n{i}_run"](*(ctypes.c_void_p(a.ctypes.data) for a in (*given, *found)))
            return found

        return call

    return [bound(i, net) for i, net in enumerate(nets)]
