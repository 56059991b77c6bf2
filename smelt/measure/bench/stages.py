"""The compiler's stages, switched on one after another: a network and the stage's name in; its training step out.

All stages train the same network on the same data. Before "whole step" a step is three programs (forward, backward,
update), which leave in memory what the next one reads; before "fused", each operation is a kernel of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

import smelt
from smelt.compiler import program
from smelt.compiler.isa import Isa, host
from smelt.graph.graph import Graph, Node, topological
from smelt.graph.trace import Tracer
from smelt.measure.bench.contender import Job
from smelt.measure.bench.cut import cut
from smelt.measure.bench.networks import Network, make
from smelt.measure.bench.train_smelt import Step, ready, training_step
from smelt.measure.bench.worker import Ready
from smelt.ops.primitive import Spec
from smelt.runtime import arena
from smelt.runtime.executable import Executable
from smelt.tensor import Tensor, wrap


@dataclass(frozen=True)
class Stage:
    """What is switched on: vectors, all threads, fusion, one program for the step, 16-bit operands."""

    compiled: bool = True
    vectors: bool = True
    threads: bool = True
    fused: bool = True
    whole: bool = True
    precision: str = "f32"


STAGES = {
    "interpreter": Stage(compiled=False, threads=False),
    "compiled, scalar": Stage(vectors=False, threads=False, fused=False, whole=False),
    "vectorized": Stage(threads=False, fused=False, whole=False),
    "threaded": Stage(fused=False, whole=False),
    "fused": Stage(whole=False),
    "whole step": Stage(),
    "bf16": Stage(precision="bf16"),
}
"""The stages, each with what those before it have."""


def prepare(job: Job) -> Ready:
    """Build the training step of the job's stage."""
    smelt.set_threads(job.threads)
    network = make(job.network)
    return ready(network, job, job.stage, stage_step(network, STAGES[job.stage], job.batch))


def stage_step(network: Network, stage: Stage, batch: int) -> Step:
    """Return the training step as a stage runs it; it works in place on the network's parameters."""
    step = training_step(network)
    if not stage.compiled:
        return lambda x, y: step(smelt.tensor(x), smelt.tensor(y))
    if stage.whole:
        return smelt.compile(step, precision=stage.precision)
    isa = host() if stage.vectors else replace(host(), name="scalar", vector_bytes=4)
    return Separate(step, network.batches(batch, 1)[0], isa, stage.fused)


class Separate:
    """A training step as three programs.

    Parameters
    ----------
    step : callable
        Forward pass, backward pass and an optimizer's step, on two tensors; returns the loss.
    example : pair of arrays
        Arguments of the shapes and dtypes that all calls will have.
    isa : Isa
        What the programs may use of the processor.
    fused : bool
        Whether operations share kernels.
    """

    def __init__(self, step: Step, example: tuple[np.ndarray, np.ndarray], isa: Isa, fused: bool) -> None:
        tracer = Tracer("step")
        with tracer:
            nodes = [tracer.input(f"x{i}", Spec(a.shape, a.dtype)) for i, a in enumerate(example)]
            loss = tracer.lift(step(*map(Tensor, nodes)))
        graph = tracer.finish([loss])
        tensors = {node: tensor for tensor, node in tracer.state.values()}
        self.parts = [
            (part, [nodes.index(n) for n in part.inputs], _executable(part, tensors, isa, fused))
            for part in forward_backward_update(graph)
        ]

    def __call__(self, x: np.ndarray, y: np.ndarray) -> Tensor:
        """Run the three programs; return the loss."""
        arrays, results = (x, y), []
        for _, inputs, executable in self.parts:
            results += executable.call([arrays[i] for i in inputs], 0)
        return wrap(results[0])


def forward_backward_update(graph: Graph) -> list[Graph]:
    """Cut a traced training step: what the loss needs, what the optimizer computes, and everything else between."""
    forward = set(topological(graph.outputs))
    optimizers = {name for name in smelt.optim.__all__ if isinstance(getattr(smelt.optim, name), type)}

    def part(node: Node) -> int:
        return 0 if node in forward else 2 if node.layer in optimizers else 1

    return cut(graph, part, 3)


def _executable(part: Graph, tensors: dict[Node, Tensor], isa: Isa, fused: bool) -> Executable:
    """Build a part's program; its state is moved where the first program that touches it wants it."""
    for node in part.states:
        if node not in tensors:
            tensors[node] = Tensor(np.zeros(node.shape, node.dtype))
    state = [tensors[node] for node in part.states]
    strides = {
        node: arena.element_strides(t.numpy()) if t._bound else None for node, t in zip(part.states, state, strict=True)
    }
    built = program.build(part, strides, isa, fused=fused)
    return Executable(built, part, arena.bind(state, built.state_strides))
