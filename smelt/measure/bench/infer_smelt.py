"""Inference of a network of the zoo in Smelt: a job in, the compiled network on a NumPy array out."""

from __future__ import annotations

import smelt
from smelt.measure.bench.contender import Job
from smelt.measure.bench.networks import make
from smelt.measure.bench.worker import Ready, timed


def prepare(job: Job) -> Ready:
    """Build the network in evaluation mode; a call takes an array and returns a new one."""
    smelt.set_threads(job.threads)
    network = make(job.network)
    model = network.model.eval()
    (x, _), *_ = network.batches(job.batch, 1)

    @smelt.compile
    def forward(x: smelt.Tensor) -> smelt.Tensor:
        with smelt.no_grad():
            return model(x)

    return Ready({"compiled": timed(lambda i: forward(x).numpy())}, forward(x).numpy())
