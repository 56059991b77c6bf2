"""Explanations: true of the kernels that run, complete where something is in memory, short where nothing matters."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

import smelt
from smelt import models, nn, optim
from smelt.measure.explain import Explanation, _size
from smelt.runtime.step import Compiled

NETWORKS = ("lenet5", "autoencoder", "ds_cnn")


def training(model: nn.Module, shape: tuple[int, ...], batch: int = 8) -> Compiled:
    optimizer = optim.Adam(model.parameters())

    @smelt.compile
    def step(x: smelt.Tensor) -> smelt.Tensor:
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    step(np.ones((batch, *shape), np.float32))
    return step  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=NETWORKS)
def step(request: pytest.FixtureRequest) -> Compiled:
    return training(models.MODELS[request.param](), models.INPUT_SHAPES[request.param])


@pytest.fixture(scope="module")
def found(step: Compiled) -> Explanation:
    return smelt.explain(step)


def test_every_kernel_is_told(step: Compiled, found: Explanation) -> None:
    lowered = step.lowered()
    assert [k.name for k in found.kernels] == [k.name for k in lowered.kernels]
    assert all(k.shared and k.units for k in found.kernels)
    assert all(k.registers for k in found.kernels if k.macs)
    for k in found.kernels:
        held = re.findall(r"(\d+) of (\d+) registers", k.registers)
        assert all(int(a) < int(b) for a, b in held)
    lines = str(found).splitlines()
    assert lines[0] == (
        f"step: {found.operations} operations became {len(found.kernels)} kernels in {len(lowered.phases)} phases, "
        f"with {len(found.barriers)} barriers"
    )
    assert len(lines) < len(found.kernels) + 60


def test_every_barrier_has_its_kernels(step: Compiled, found: Explanation) -> None:
    phase = {k.name: k.phase for k in found.kernels}
    assert [b.phase for b in found.barriers] == list(range(1, len(step.lowered().phases)))
    assert all(phase[b.kernel] == b.phase > phase[b.after] for b in found.barriers)


def test_every_copy_has_a_reason(step: Compiled, found: Explanation) -> None:
    copies = [k.name for k in found.kernels if k.operations == "copy"]
    assert sorted(c.kernel for c in found.copies) == sorted(copies)
    assert all(c.reason and c.bytes for c in found.copies)


def test_refusals_are_between_kernels_and_cost_memory(found: Explanation) -> None:
    order = {k.name: i for i, k in enumerate(found.kernels)}
    assert found.refusals and all(r.bytes > 0 and r.reason for r in found.refusals)
    assert all(order[r.after] < order[r.kernel] for r in found.refusals)
    pairs = [(r.after, r.kernel) for r in found.refusals]
    assert len(pairs) == len(set(pairs))


def test_json_has_it_all(found: Explanation) -> None:
    value = json.loads(json.dumps(found.to_dict()))
    assert len(value["kernels"]) == len(found.kernels) and value["refusals"][0]["reason"]


# --- known cases ---------------------------------------------------------------------------------------------------


def forward(model: Any, *shape: int) -> Explanation:
    compiled = smelt.compile(model)
    compiled(np.ones(shape, np.float32))
    return smelt.explain(compiled)


def reasons(found: Explanation) -> dict[str, str]:
    return {r.operation: r.reason for r in found.refusals}


def test_bias_and_activation_are_fused_and_a_second_product_is_not() -> None:
    found = forward(nn.Sequential(nn.Linear(40, 32), nn.ReLU(), nn.Linear(32, 16)), 8, 40)
    first, second = (k for k in found.kernels if k.macs)
    assert (first.operations, first.layers) == ("matmul + add + relu", ("0 Linear", "1 ReLU"))
    assert first.shared == "samples" and first.units == 8
    assert reasons(found) == {"matmul": "a product uses each element of its operands many times"}
    (refusal,) = found.refusals
    assert (refusal.after, refusal.kernel, refusal.bytes) == (first.name, second.name, 4 * 8 * 32)


def test_a_sum_that_is_needed_again_splits_a_softmax() -> None:
    found = forward(lambda x: x.exp() / x.exp().sum(1, keepdims=True), 16, 40)
    assert set(reasons(found).values()) <= {
        "a reduction begins when its operands are complete",
        "it also needs what another kernel computes from them",
        "it takes their results at other points",
    }
    assert "div" in reasons(found)


@pytest.mark.parametrize(
    "pool, says",
    [
        (nn.MaxPool2d(3), "more than 4 pixels"),
        (nn.MaxPool2d(2, stride=1), "overlap or leave gaps"),
        (nn.MaxPool2d(2), ""),
    ],
)
def test_pooling_is_fused_or_says_why_not(pool: nn.Module, says: str) -> None:
    found = forward(nn.Sequential(nn.Conv2d(2, 16, 3, padding=1), nn.ReLU(), pool), 4, 2, 12, 12)
    told = [r.reason for r in found.refusals if r.operation == "max_pool2d"]
    assert len(told) == bool(says) and all(says in t for t in told)
    if not says:
        assert "windows of 4 × 1 vector" in next(k.registers for k in found.kernels if k.macs)


def test_large_sums_are_cut_into_slices() -> None:
    found = forward(lambda x: (x * x).sum((0, 2)), 64, 4, 256)
    first, second = found.kernels
    assert (first.shared, second.shared) == ("fixed slices of the data", "results, from all slices")
    assert [b.shares for b in found.barriers] == [(first.shared, second.shared)]
    assert (first.number, second.number) == ("k0s", "k0")


def test_a_copy_says_why_it_is_made() -> None:
    found = forward(lambda x: x.permute(0, 2, 1).reshape(x.shape[0], 12) + 1.0, 4, 3, 4)
    assert found.kernels[0].operations == "add" or [c.reason for c in found.copies] == [
        "a reshape goes through its elements in order"
    ]
    swapped = forward(lambda x: x.permute(0, 2, 1), 4, 30, 40)
    assert [c.reason for c in swapped.copies] == ["no kernel computes this output"]


def test_a_users_function_works_on_whole_arrays() -> None:
    double = smelt.custom_op(lambda x: x * 2)
    found = forward(lambda x: double(x + 1.0) - 1.0, 6, 10)
    call = next(k for k in found.kernels if k.shared.startswith("the calling thread"))
    assert call.bytes == 2 * 4 * 60
    assert "a user's function works on whole arrays" in [r.reason for r in found.refusals if r.kernel == call.name]


def test_details_on_request() -> None:
    compiled = smelt.compile(lambda x: (x * 2.0).relu().sum(1))
    compiled(np.zeros((4, 40), np.float32))
    short, graph, loops = (str(smelt.explain(compiled, **o)) for o in ({}, {"graph": True}, {"loops": True}))
    assert graph.startswith(short) and loops.startswith(short)
    assert "graph <lambda>(%x0: f32[b≤4, 40])" in graph and "# test_explain.py:" in graph
    assert "arena: offset, bytes, life, buffer" in graph and "for row in lo..hi:" not in graph
    assert "kernel k0_" in loops and "for row in lo..hi:" in loops


def test_nothing_is_explained_too() -> None:
    assert "0 operations became 0 kernels" in str(forward(lambda x: x.shape[1], 2, 3))


@pytest.mark.parametrize("nbytes, text", [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (8_028_160, "8.03 MB")])
def test_sizes(nbytes: int, text: str) -> None:
    assert _size(nbytes) == text
