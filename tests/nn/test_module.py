"""Modules: finding parts and tensors, modes, state dicts, repr."""

import numpy as np
import pytest

import smelt
from smelt import nn


class Block(nn.Module):
    def __init__(self) -> None:
        self.conv = nn.Conv2d(1, 2, 3)
        self.heads = [nn.Linear(2, 3), nn.Linear(2, 4, bias=False)]
        self.scale = smelt.Parameter([1.0])
        self.seen = smelt.tensor([0.0])
        self.width = 7

    def forward(self, x: smelt.Tensor) -> smelt.Tensor:
        return self.conv(x) * self.scale


def test_names_follow_attributes_and_positions() -> None:
    block = Block()
    names = ["scale", "conv.weight", "conv.bias", "heads.0.weight", "heads.0.bias", "heads.1.weight"]
    assert [n for n, _ in block.named_parameters()] == names
    assert [n for n, _ in block.named_buffers()] == ["seen"]
    assert [n for n, _ in block.named_modules()] == ["", "conv", "heads.0", "heads.1"]
    assert len(list(block.children())) == 3
    assert block.conv.weight.name == "conv.weight"


def test_names_grow_from_the_inside_out_but_never_shrink() -> None:
    model = nn.Sequential(Block())
    list(model[0].parameters())
    assert model[0].scale.name == "scale"
    list(model.parameters())
    assert model[0].scale.name == "0.scale"
    list(model[0].parameters())
    assert model[0].scale.name == "0.scale"


def test_shared_modules_and_parameters_count_once() -> None:
    layer = nn.Linear(2, 2)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    assert [n for n, _ in model.named_parameters()] == ["0.weight", "0.bias"]


def test_a_cycle_of_modules_ends() -> None:
    block = Block()
    block.parent = block  # type: ignore[attr-defined]
    assert len(list(block.named_modules())) == 4


def test_train_and_eval_reach_every_part() -> None:
    model = nn.Sequential(nn.Dropout(), Block())
    assert model.training and model[1].conv.training
    assert model.eval() is model
    assert not any(m.training for _, m in model.named_modules())
    model.train()
    assert all(m.training for _, m in model.named_modules())


def test_state_dict_round_trip_is_by_value_and_in_place() -> None:
    a, b = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    a(smelt.tensor(np.arange(12, dtype=np.float32).reshape(4, 3)))
    weight = b.weight
    state = a.state_dict()
    b.load_state_dict(state)
    assert b.weight is weight
    for name, value in b.state_dict().items():
        np.testing.assert_array_equal(value, state[name])
    state["running_mean"][:] = 99
    assert a.running_mean.numpy().max() < 99


def test_load_state_dict_lists_every_problem_and_changes_nothing() -> None:
    layer = nn.Linear(3, 2)
    before = layer.state_dict()
    with pytest.raises(ValueError, match=r"missing bias; unexpected gain; weight: expected float32\[2, 3\]") as e:
        layer.load_state_dict({"weight": np.zeros((3, 2)), "gain": np.zeros(1)})
    assert "received float64[3, 2]" in str(e.value)
    np.testing.assert_array_equal(layer.weight.numpy(), before["weight"])


def test_load_state_dict_may_be_lenient_and_converts_floats_only() -> None:
    layer = nn.Linear(1, 1)
    layer.load_state_dict({"weight": np.array([[2.5]]), "other": np.zeros(3)}, strict=False)
    assert layer.weight.item() == 2.5
    with pytest.raises(ValueError, match="expected float32"):
        layer.load_state_dict({"weight": np.array([[2]])}, strict=False)


def test_repr_is_what_one_would_write() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding="same", bias=False), nn.Add(nn.ReLU(), nn.Identity()))
    assert repr(model) == (
        "Sequential(\n"
        "  (0): Conv2d(1, 8, (3, 3), padding='same', bias=False)\n"
        "  (1): Add(\n"
        "    (0): ReLU()\n"
        "    (1): Identity()\n"
        "  )\n"
        ")"
    )
    assert repr(nn.Sequential()) == "Sequential()"
    assert repr(nn.AvgPool2d(2, padding=1)) == "AvgPool2d((2, 2), stride=(2, 2), padding=(1, 1))"
    assert repr(nn.CrossEntropyLoss(label_smoothing=0.1)) == "CrossEntropyLoss(label_smoothing=0.1)"
    assert repr(Block()).startswith("Block(\n  (conv): Conv2d(1, 2, (3, 3))\n  (heads.0): Linear(2, 3)")


def test_a_module_without_forward_says_so() -> None:
    with pytest.raises(NotImplementedError, match=r"Module has no forward\(\)"):
        nn.Module()(1)


def test_sequential_is_a_sequence() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU()).append(nn.Linear(3, 1))
    assert len(model) == 3 and isinstance(model[-1], nn.Linear)
    head = model[:2]
    assert isinstance(head, nn.Sequential) and head[0] is model[0]
    assert [type(m).__name__ for m in model] == ["Linear", "ReLU", "Linear"]
    model[1] = nn.Tanh()
    assert model(smelt.ones((4, 2))).shape == (4, 1)
    with pytest.raises(ValueError, match="Sequential: argument 0: expected a Module, received 3"):
        nn.Sequential(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Add: expected at least 1 module"):
        nn.Add()
