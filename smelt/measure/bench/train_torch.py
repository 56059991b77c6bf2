"""A training step in PyTorch: a job in, the same step in all forms PyTorch has for it out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from smelt.measure.bench.contender import Job
from smelt.measure.bench.networks import make
from smelt.measure.bench.to_torch import to_torch
from smelt.measure.bench.worker import Ready, timed


def prepare(job: Job) -> Ready:
    """Build the forms: Adam fused or not, channels last or not; compiled ones too when the job allows slow starts."""
    import torch

    torch.set_num_threads(job.threads)
    network = make(job.network)
    arrays = network.batches(job.batch)
    loss_of: Any = torch.nn.functional.mse_loss if network.learns_its_input else torch.nn.functional.cross_entropy
    images = len(network.shape) == 3

    def form(fused: bool, last: bool, compiled: bool) -> Callable[[int], float]:
        torch.manual_seed(0)
        layout = torch.channels_last if last else torch.contiguous_format
        model = to_torch(network.model, network.shape).train()
        batches = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in arrays]
        if images:
            model = model.to(memory_format=layout)
            batches = [(x.to(memory_format=layout), y) for x, y in batches]
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)
        run = torch.compile(model) if compiled else model

        def call(i: int) -> float:
            x, y = batches[i % len(batches)]
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(run(x), y)
            loss.backward()
            optimizer.step()
            return loss.item()

        return call

    calls: dict[str, Callable[[int], float]] = {}
    for compiled in (False, True) if job.slow else (False,):
        for fused in (True,) if compiled else (True, False):
            for last in (True, False) if images else (False,):
                words = ["fused Adam" if fused else "Adam"]
                words += ["torch.compile"] * compiled + ["channels last"] * last
                calls[", ".join(words)] = form(fused, last, compiled)
    with torch.no_grad():
        model = to_torch(network.model, network.shape).eval()
        outputs = model(torch.from_numpy(arrays[0][0][:8])).numpy()
    first = next(iter(calls.values()))
    losses = [] if network.drops else [first(i) for i in range(3)]
    parameters = sum(p.numel() for p in model.parameters())
    return Ready({k: timed(call) for k, call in calls.items()}, outputs, parameters, losses)
