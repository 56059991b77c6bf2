"""Counts against published answers, and what counting leaves behind: nothing."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import smelt
from smelt import ShapeError, models, nn
from smelt.measure.summary import summary

KNOWN = {  # parameters (batch-norm not folded), MACs
    "autoencoder": (266_896, 264_192),
    "ds_cnn": (23_180, 2_656_768),
    "lenet5": (61_706, 416_520),
    "lenet_300_100": (266_610, 266_200),
    "mnist_cnn": (805_066, 1_431_296),
    "mobilenet_v1": (213_586, 7_489_664),
    "mobilenet_v2": (3_504_872, 300_774_272),
    "resnet8": (77_946, 12_501_632),
}


@pytest.mark.parametrize("name", models.MODELS)
def test_known_answers(name: str) -> None:
    counted = summary(models.MODELS[name](), models.INPUT_SHAPES[name], plan=False)
    assert (counted.parameters, counted.macs) == KNOWN[name]
    assert sum(r.macs for r in counted.rows) == counted.macs
    assert sum(r.parameters for r in counted.rows) == counted.parameters
    assert sum(r.activation_bytes for r in counted.rows) == counted.activation_bytes
    assert counted.parameter_bytes == 4 * counted.parameters == sum(r.parameter_bytes for r in counted.rows)
    assert sum(r.flops for r in counted.rows) == counted.flops > 2 * counted.macs


def test_rows_of_the_seven_layers() -> None:
    rows = summary(models.mnist_cnn(), (1, 28, 28), plan=False).rows
    assert [(r.name, r.type, r.output_shape, r.parameters, r.macs, r.activation_bytes) for r in rows] == [
        ("0", "Conv2d", (1, 32, 28, 28), 832, 25 * 32 * 28 * 28, 4 * 32 * 28 * 28),
        ("1", "ReLU", (1, 32, 28, 28), 0, 0, 4 * 32 * 28 * 28),
        ("2", "MaxPool2d", (1, 32, 14, 14), 0, 0, 4 * 32 * 14 * 14),
        ("3", "Flatten", (1, 6272), 0, 0, 0),
        ("4", "Linear", (1, 128), 802_944, 802_816, 512),
        ("5", "ReLU", (1, 128), 0, 0, 512),
        ("6", "Linear", (1, 10), 1290, 1280, 40),
    ]
    # A bias adds one operation per result, relu compares once, a window of four is compared three times.
    pixels, pooled = 32 * 28 * 28, 32 * 14 * 14
    assert [r.flops for r in rows] == [51 * pixels, pixels, 3 * pooled, 0, 2 * 802_816 + 128, 128, 2 * 1280 + 10]
    whole = (32, 32)  # the image and its padding
    assert [r.receptive_field for r in rows] == [(5, 5), (5, 5), (6, 6), (6, 6), whole, whole, whole]


FOLDED = {"ds_cnn": 22_604, "autoencoder": 265_864, "resnet8": 77_706, "lenet5": 61_706}


@pytest.mark.parametrize("name", FOLDED)
def test_parameters_with_batch_normalization_folded(name: str) -> None:
    model, shape = models.MODELS[name](), models.INPUT_SHAPES[name]
    plain, counted = (summary(model, shape, folded=f, plan=False) for f in (False, True))
    assert (counted.parameters, counted.macs) == (FOLDED[name], plain.macs)
    assert counted.folded == sum("BatchNorm" in r.type for r in plain.rows)
    assert sum(r.parameters for r in counted.rows) == counted.parameters == counted.parameter_bytes // 4
    assert counted.buffers == 0 and counted.flops <= plain.flops
    assert ("folded" in str(counted)) == bool(counted.folded)


def test_only_what_can_be_folded_is() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            self.conv, self.norm = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x: Any) -> Any:
            y = self.conv(x)
            return self.norm(y) + y

    other_axis = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(2))
    for model in (nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1)), Twice(), other_axis):
        counted = summary(model, (2, 4) if model is other_axis else (2, 4, 4), folded=True)
        assert counted.folded == 0 and counted.buffers and "folded" not in str(counted)
        assert counted.parameters == sum(p.size for p in model.parameters())


def test_the_peak_is_the_arena_of_inference() -> None:
    model = models.ds_cnn()
    one, eight = (summary(model, (1, 49, 10), batch=b) for b in (1, 8))
    fast = model.compile()
    fast(np.zeros((1, 1, 49, 10), np.float32))
    assert one.peak_bytes == eight.peak_bytes == fast.lowered().arena_bytes
    # Two layers' activations at least, with their borders; less than all of them.
    assert one.peak_bytes is not None and 2 * 32_000 <= one.peak_bytes < one.activation_bytes
    assert summary(nn.ReLU(), (6,)).peak_bytes == 0
    assert f"at most {one.peak_bytes:,} bytes at once" in str(one)


def test_folded_parameters_are_those_of_the_frozen_graph() -> None:
    cases = [(models.MODELS[name](), models.INPUT_SHAPES[name]) for name in ("ds_cnn", "resnet8", "autoencoder")]
    cases.append((nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8, affine=False)), (3, 8, 8)))
    for model, shape in cases:
        fast = model.compile()
        fast(np.zeros((1, *shape), np.float32))
        larger = {n.inputs[1] for n in fast.graph.nodes() if n.opname == "conv2d_winograd"}  # 16 numbers of 9
        kept = sum(s.spec.size * 9 // 16 if s in larger else s.spec.size for s in fast.graph.states)
        counted = summary(model, shape, folded=True, plan=False)
        assert counted.folded and counted.parameters + counted.buffers == kept


def test_the_batch_multiplies_macs_and_activations_only() -> None:
    one, eight = (summary(models.lenet5(), (1, 28, 28), batch=b) for b in (1, 8))
    assert (eight.macs, eight.activation_bytes) == (8 * one.macs, 8 * one.activation_bytes)
    assert eight.parameters == one.parameters
    assert eight.output_shape == (8, 10)


def test_a_shared_layer_has_its_parameters_once_and_its_macs_at_every_call() -> None:
    shared = nn.Linear(4, 4)
    counted = summary(nn.Sequential(shared, nn.ReLU(), shared), (4,))
    assert [(r.name, r.parameters, r.macs) for r in counted.rows] == [("0", 20, 16), ("1", 0, 0), ("0 again", 0, 16)]
    assert (counted.parameters, counted.macs) == (20, 32)


def test_branches_come_before_their_sum() -> None:
    counted = summary(nn.Sequential(nn.Add(nn.Linear(3, 3), nn.Identity())), (3,))
    assert [(r.name, r.type, r.activation_bytes) for r in counted.rows] == [
        ("0.0", "Linear", 12),
        ("0.1", "Identity", 0),
        ("0", "Add", 12),
    ]


def test_work_outside_of_layers_belongs_to_the_model() -> None:
    class Tail(nn.Module):
        def __init__(self) -> None:
            self.body = nn.Linear(4, 3)
            self.scale = smelt.Parameter(np.ones(3, np.float32))

        def forward(self, x: Any) -> Any:
            return self.body(x) @ np.ones((3, 2), np.float32) * self.scale[:2]

    counted = summary(Tail(), (4,))
    assert [(r.name, r.parameters, r.macs) for r in counted.rows] == [("body", 15, 12), ("(model)", 3, 6)]
    assert counted.output_shape == (1, 2)


def test_buffers_are_not_parameters() -> None:
    counted = summary(nn.BatchNorm2d(5), (5, 2, 2))
    assert (counted.parameters, counted.buffers, counted.buffer_bytes) == (10, 10, 40)
    assert "buffers 10 in 40 bytes" in str(counted)


def test_counting_leaves_nothing_behind() -> None:
    model = models.ds_cnn().train()
    model.layers[3].eval()
    before = [(m, dict(vars(m)), m._changes) for _, m in model.named_modules()]
    values = model.state_dict()
    summary(model, (1, 49, 10))
    for module, attributes, changes in before:
        assert vars(module) == attributes and module._changes == changes
    assert all(np.array_equal(values[n], a) for n, a in model.state_dict().items())


def test_a_failed_count_leaves_nothing_behind_and_names_the_layer() -> None:
    model = models.lenet5()
    before = [dict(vars(m)) for _, m in model.named_modules()]
    with pytest.raises(ShapeError, match=r"layer 7 \(Linear\): ") as error:
        summary(model, (1, 32, 32))
    assert str(error.value).count("layer") == 1
    assert [dict(vars(m)) for _, m in model.named_modules()] == before


def test_a_compiled_model_is_not_traced_again() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    step = smelt.compile(model)
    x = np.ones((4, 3), np.float32)
    step(x)
    summary(model, (3,))
    step(x)
    assert step.traces == 1


def test_json_and_text_say_the_same() -> None:
    counted = summary(models.resnet8(), (3, 32, 32))
    value = json.loads(counted.to_json())
    assert value["macs"] == 12_501_632 and value["output_shape"] == [1, 10] and len(value["rows"]) == len(counted.rows)
    assert "12,501,632" in str(counted) and str(counted).splitlines()[-5].startswith("total")
    assert all(len(line) <= 110 for line in str(counted).splitlines())


@pytest.mark.parametrize("shape", [(0,), (-1,), (2.5,), ("4",)])
def test_impossible_inputs(shape: Any) -> None:
    with pytest.raises(ShapeError, match="at least 1"):
        summary(nn.ReLU(), shape)


def test_a_model_of_several_inputs() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            self.left, self.right = nn.Linear(4, 3), nn.Linear(5, 3)

        def forward(self, x: smelt.Tensor, y: smelt.Tensor) -> smelt.Tensor:
            return self.left(x) + self.right(y)

    counted = summary(Pair(), {"x": (4,), "y": (5,)}, batch=2)
    assert (counted.macs, counted.parameters) == (2 * (12 + 15), 12 + 3 + 15 + 3)
    assert (counted.input_shape, counted.input_shapes) == ((2, 4), {"x": (2, 4), "y": (2, 5)})
    assert "Pair on inputs of 2×4 and 2×5" in str(counted)
    with pytest.raises(smelt.ShapeError, match="expected one for each of 2 inputs, received float32"):
        summary(Pair(), {"x": (4,), "y": (5,)}, dtype=["float32"])
