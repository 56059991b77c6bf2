"""A training step of a network of the zoo in Smelt: a job in, the compiled step on NumPy arrays out."""

from __future__ import annotations

from typing import Any

import numpy as np

import smelt
from smelt import nn, optim
from smelt.measure.bench.contender import Job
from smelt.measure.bench.networks import make
from smelt.measure.bench.worker import Ready, timed


def prepare(job: Job) -> Ready:
    """Build the step; the loss comes back as a Python number, so that the step has ended."""
    smelt.set_threads(job.threads)
    network = make(job.network)
    model, batches = network.model, network.batches(job.batch)
    outputs = model.eval()(batches[0][0][:8]).numpy()
    optimizer = optim.Adam(model.train().parameters(), lr=1e-3)
    loss_of: Any = nn.functional.mse_loss if network.learns_its_input else nn.functional.cross_entropy

    def step(x: smelt.Tensor, y: smelt.Tensor) -> smelt.Tensor:
        loss = loss_of(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    compiled = smelt.compile(step)

    def call(i: int) -> float:
        return compiled(*batches[i % len(batches)]).item()

    losses = [] if network.drops else [call(i) for i in range(3)]
    parameters = sum(p.size for p in model.parameters())
    return Ready({"compiled step": timed(call)}, np.array(outputs), parameters, losses)
