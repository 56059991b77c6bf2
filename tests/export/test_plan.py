"""What is said of an exported network's memory before it is built: the same as is found in it."""

from __future__ import annotations

import smelt
from smelt import models, nn


def test_a_plan_adds_up() -> None:
    made = smelt.export.c(models.resnet8(), None, (3, 32, 32))
    plan = made.plan
    assert sum(s.flash_bytes for s in plan.steps) == plan.flash_bytes == made.constant_bytes
    assert sum(s.macs for s in plan.steps) == made.macs == 12_501_632
    assert max(s.stack_bytes for s in plan.steps) == plan.stack_bytes == made.stack_bytes
    assert max(s.arena_bytes for s in plan.steps) == plan.least_bytes <= plan.arena_bytes == made.arena_bytes
    assert max(r.offset + r.size for r in plan.regions) * 4 == plan.arena_bytes
    assert (plan.input_bytes, plan.output_bytes) == (4 * 3072, 4 * 10)
    calls = made.files["network.c"].split("void network_run")[1]
    assert [line.split("(")[0].strip() for line in calls.splitlines()[2:-1]] == [s.function for s in plan.steps]


def test_what_lies_in_the_arena_at_one_time_is_apart() -> None:
    plan = smelt.export.c(models.mobilenet_v1(), None, (3, 96, 96), ends="arena").plan
    assert (plan.input_bytes, plan.output_bytes) == (0, 0)
    for a in plan.regions:
        for b in plan.regions:
            if a is not b and a.first <= b.last and b.first <= a.last:
                assert a.offset + a.size <= b.offset or b.offset + b.size <= a.offset
    live = [sum(r.size for r in plan.regions if r.first <= i <= r.last) for i in range(len(plan.steps))]
    assert [4 * size for size in live] == [s.arena_bytes for s in plan.steps]


def test_a_network_without_an_arena_has_a_plan_too() -> None:
    plan = smelt.export.c(nn.ReLU(), None, (3,)).plan
    assert (plan.arena_bytes, plan.flash_bytes, plan.regions) == (0, 0, ())
    assert "arena: 0 bytes" in str(plan)
