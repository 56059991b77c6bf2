"""A training step of a network of the zoo in Smelt: a job in, the compiled step on NumPy arrays out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import smelt
from smelt import nn, optim
from smelt.measure.bench.contender import Job
from smelt.measure.bench.networks import Network, make
from smelt.measure.bench.worker import Ready, timed

Step = Callable[[Any, Any], smelt.Tensor]


def prepare(job: Job) -> Ready:
    """Build the step; the loss comes back as a Python number, so that the step has ended."""
    smelt.set_threads(job.threads)
    network = make(job.network)
    return ready(network, job, "compiled step", smelt.compile(training_step(network), precision=job.precision))


def ready(network: Network, job: Job, form: str, step: Step) -> Ready:
    """Return what is measured of a step, whatever runs it."""
    batches = network.batches(job.batch)

    def call(i: int) -> float:
        return step(*batches[i % len(batches)]).item()

    outputs = np.array(network.model.eval()(batches[0][0][:8]).numpy())
    network.model.train()
    losses = [call(i) for i in range(3)]
    parameters = sum(p.size for p in network.model.parameters())
    return Ready({form: timed(call)}, outputs, parameters, losses)


def training_step(network: Network) -> Step:
    """Return the step as a user writes it: forward, loss, backward, Adam."""
    model = network.model.train()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    loss_of: Any = nn.functional.mse_loss if network.learns_its_input else nn.functional.cross_entropy

    def step(x: smelt.Tensor, y: smelt.Tensor) -> smelt.Tensor:
        loss = loss_of(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step
