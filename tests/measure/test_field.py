"""Receptive fields: against published ones, and against what really moves when one pixel of the input changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import smelt
from smelt import models, nn
from smelt.measure.summary import summary


def fields(model: nn.Module, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [r.receptive_field for r in summary(model, shape, plan=False).rows]


@pytest.mark.parametrize(
    "name, layer, expected",
    [
        ("mobilenet_v1", "Conv2d", 315),  # Araujo, Norris and Sim, 2019
        ("mobilenet_v2", "Conv2d", 491),
        ("lenet5", "Conv2d", 14),
    ],
)
def test_published_fields(name: str, layer: str, expected: int) -> None:
    rows = summary(models.MODELS[name](), models.INPUT_SHAPES[name], plan=False).rows
    assert [r.receptive_field for r in rows if r.type == layer][-1] == (expected, expected)


class Shuffle(nn.Module):
    def __init__(self, block: int) -> None:
        self.block, self.conv = block, nn.Conv2d(2, 3, 3, stride=2)

    def forward(self, x: Any) -> Any:
        n, c, h, w = x.shape
        b = self.block
        x = x.reshape(n, c, int(h) // b, b, int(w) // b, b).permute(0, 1, 3, 5, 2, 4)
        return self.conv(x.reshape(n, c * b * b, int(h) // b, int(w) // b)[:, :2])


CASES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "strided and dilated": (
        nn.Sequential(nn.Conv2d(1, 2, (3, 2), stride=(2, 1)), nn.Conv2d(2, 2, 3, dilation=(1, 3))),
        (1, 25, 25),
    ),
    "pooled": (nn.Sequential(nn.AvgPool2d(3, stride=2), nn.Conv2d(1, 2, 3), nn.AvgPool2d(2)), (1, 25, 25)),
    "a sum of branches": (nn.Sequential(nn.Add(nn.Conv2d(1, 1, 5, padding=2), nn.Conv2d(1, 1, 1))), (1, 15, 15)),
    "a sequence": (nn.Sequential(nn.Conv1d(2, 3, 3, stride=3), nn.Conv1d(3, 2, 4, dilation=2)), (2, 60)),
    "blocks of pixels become channels": (Shuffle(2), (2, 24, 24)),
    "pixels read as a row": (nn.Sequential(nn.Flatten(2), nn.Linear(25, 3)), (1, 5, 5)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_field_is_what_moves_the_result(name: str) -> None:
    """The gradient of one result, far from the borders, is non-zero within the field and nowhere else."""
    model, shape = CASES[name]
    x = smelt.Parameter(np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32))
    out = model(x)
    middle = tuple(0 if i < 2 else d // 2 for i, d in enumerate(out.shape))
    out[middle].backward()
    assert x.grad is not None
    moved = np.abs(x.grad.numpy()).sum(axis=(0, 1)) != 0
    reach = tuple(int(np.ptp(at)) + 1 for at in np.nonzero(moved))
    assert fields(model, shape)[-1] == reach


def test_inputs_without_an_image_have_no_field() -> None:
    counted = summary(nn.Sequential(nn.Linear(4, 3)), (4,), plan=False)
    assert counted.rows[0].receptive_field == () and "field" not in str(counted)


def test_a_single_number_may_be_given_axes() -> None:
    class Total(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.sum().reshape(1, 1)

    assert summary(Total(), (1, 5, 5)).rows[-1].receptive_field == (5, 5)


def test_a_reshape_that_mixes_rows_sees_everything() -> None:
    class Mixed(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.reshape(x.shape[0], 7, 6)

    assert fields(Mixed(), (1, 6, 7)) == [(6, 7)]
