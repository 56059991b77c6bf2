"""A training step of a network of the zoo in Smelt: a job in, the compiled step on NumPy arrays out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

import smelt
from smelt import Trainer, nn, optim, train
from smelt.measure.bench.contender import Job
from smelt.measure.bench.networks import Network, make
from smelt.measure.bench.worker import WARM, Burst, Ready, timed

Step = Callable[[Any, Any], smelt.Tensor]


def prepare(job: Job) -> Ready:
    """Build the step; the loss comes back as a Python number, so that the step has ended."""
    smelt.set_threads(job.threads)
    network = make(job.network)
    built = ready(network, job, "compiled step", smelt.compile(training_step(network), precision=job.precision))
    built.forms["Trainer.fit"] = _fit(make(job.network), job)
    return built


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


def _fit(network: Network, job: Job) -> Burst:
    """Return a burst of ``Trainer.fit`` on arrays, which shuffles them; what is called step ends with the callback."""
    ends: list[float] = []

    class Clock(train.Callback):
        def on_step_end(self, trainer: Trainer, step: int, loss: float) -> None:
            ends.append(time.perf_counter())

    loss = nn.MSELoss() if network.learns_its_input else nn.CrossEntropyLoss()
    optimizer = optim.Adam(network.model.train().parameters(), lr=1e-3)
    trainer = Trainer(network.model, loss=loss, optimizer=optimizer, metrics=(), precision=job.precision)
    batches = network.batches(job.batch)

    def burst(calls: int) -> list[float]:
        some = [batches[i % len(batches)] for i in range(calls + WARM)]
        x, y = (np.concatenate(part) for part in zip(*some, strict=True))
        ends.clear()
        data = x if network.learns_its_input else (x, y)
        trainer.fit(data, epochs=1, batch_size=job.batch, callbacks=[Clock()], progress=False)
        return [float(t) * 1e3 for t in np.diff(ends)[WARM - 1 :]]

    return burst


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
