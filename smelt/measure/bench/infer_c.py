"""Inference of a network of the zoo, exported: a job in; compiled C, naive loops of C, or an object out."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Callable

import numpy as np

import smelt
from smelt.autograd import no_grad
from smelt.compiler.passes.freeze import freeze
from smelt.export.c99.host import build
from smelt.graph.trace import Tracer
from smelt.measure.bench.contender import Job
from smelt.measure.bench.naive_c import naive_source
from smelt.measure.bench.networks import Network, make
from smelt.measure.bench.worker import Ready, timed
from smelt.ops import Spec
from smelt.tensor import Tensor

FLAGS = ("-O3", "-march=native")
Forms = dict[str, tuple[Callable[[], object], np.ndarray]]  # what runs each, and where its outputs are


def prepare(job: Job) -> Ready:
    """Build the network, C with every compiler there is; a call runs it on an array that stays."""
    network = make(job.network)
    network.model.eval()
    (x, _), *_ = network.batches(job.batch, 1)
    compilers = [name for name in ("gcc", "clang") if shutil.which(name)] or ["cc"]
    forms = _FORMS[job.library](network, x, compilers)
    for run, _ in forms.values():
        run()
    (_, outputs), *_ = forms.values()
    return Ready({name: timed(lambda i, run=run: run()) for name, (run, _) in forms.items()}, outputs)  # type: ignore[misc]


def _object(network: Network, x: np.ndarray, compilers: list[str]) -> Forms:
    made = smelt.export.object(network.model, None, network.shape, batch=len(x), target="native")
    run, (y,) = made.load().bind(x)
    return {"object": (run, y)}


def _exported(network: Network, x: np.ndarray, compilers: list[str]) -> Forms:
    made = smelt.export.c(network.model, None, network.shape, batch=len(x))
    out: Forms = {}
    for name in compilers:
        run, (y,) = made.load(FLAGS, name).bind(x)
        out[" ".join((name, *FLAGS))] = run, y
    return out


def _naive(network: Network, x: np.ndarray, compilers: list[str]) -> Forms:
    tracer = Tracer(network.name)
    with no_grad(), tracer:
        (result,) = [network.model(Tensor(tracer.input("x", Spec(x.shape, x.dtype))))]
        graph = tracer.finish([tracer.lift(result)])
    frozen = freeze(graph)
    text = naive_source(frozen.graph, frozen.evaluate([t.numpy() for t, _ in tracer.state.values()]))
    out: Forms = {}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "naive.c")
        with open(path, "w") as file:
            file.write(text)
        for name in compilers:
            library = os.path.join(folder, f"{name}.so")
            build([name, *FLAGS, "-shared", "-fPIC", path, "-o", library])
            run = ctypes.CDLL(library).run
            y = np.zeros(graph.outputs[0].shape, np.float32)
            addresses = [a.ctypes.data_as(ctypes.c_void_p) for a in (x, y)]
            out[" ".join((name, *FLAGS))] = lambda run=run, addresses=addresses: run(*addresses), y  # type: ignore[misc]
    return out


_FORMS: dict[str, Callable[[Network, np.ndarray, list[str]], Forms]] = {
    "object": _object,
    "c": _exported,
    "naive c": _naive,
}
