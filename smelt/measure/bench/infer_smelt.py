"""Inference of a network of the zoo in Smelt: a job in, the compiled network on a NumPy array out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import smelt
from smelt.measure.bench.contender import Job
from smelt.measure.bench.networks import Network, make
from smelt.measure.bench.worker import Ready, timed


def prepare(job: Job) -> Ready:
    """Build the network; a call takes an array and returns a new one."""
    smelt.set_threads(job.threads)
    network = make(job.network)
    (x, _), *_ = network.batches(job.batch, 1)
    forward = inference(network)
    return Ready({"model.compile()": timed(lambda i: forward(x))}, forward(x))


def inference(network: Network) -> Callable[[np.ndarray], np.ndarray]:
    """Return the network, compiled for inference, as a function of arrays."""
    compiled = network.model.compile()
    return lambda x: compiled(x).numpy()
