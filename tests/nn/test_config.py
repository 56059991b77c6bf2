"""Networks as JSON: round trips, and what a hostile or mistaken description gets to hear."""

import json

import numpy as np
import pytest

import smelt
from smelt import nn, random

ALL = nn.Sequential(
    nn.Conv2d(1, 4, (3, 2), stride=(1, 2), padding=(1, 0), dilation=(1, 2), groups=1, bias=False),
    nn.BatchNorm2d(4, eps=1e-3, momentum=0.01),
    nn.LeakyReLU(0.2),
    nn.Conv2d(4, 8, 3, padding="same", groups=4),
    nn.GroupNorm(2, 8, affine=False),
    nn.Add(nn.Sequential(nn.SiLU(), nn.Hardswish()), nn.Identity()),
    nn.Concat(nn.ReLU6(), nn.GELU("tanh"), axis=1),
    nn.MaxPool2d(2, padding=1),
    nn.AvgPool2d(2, stride=1, count_include_pad=False),
    nn.GlobalAvgPool2d(keepdims=True),
    nn.Flatten(),
    nn.LayerNorm((16,), bias=False),
    nn.Dropout(0.25),
    nn.Linear(16, 3, bias=False),
    nn.LogSoftmax(-1),
)
OTHERS = [
    nn.AvgPool1d(2),
    nn.BatchNorm1d(3, affine=False),
    nn.Conv1d(2, 4, 3, padding="valid"),
    nn.GlobalMaxPool2d(),
    nn.Hardsigmoid(),
    nn.LayerNorm((5, 5)),
    nn.MaxPool1d(3, 1, 1),
    nn.ReLU(),
    nn.Sequential(),
    nn.Sigmoid(),
    nn.Softmax(1),
    nn.Tanh(),
]


def test_every_layer_is_in_a_round_trip_here() -> None:
    seen = {type(m).__name__ for top in (ALL, *OTHERS) for _, m in top.named_modules()}
    assert seen == set(nn.LAYERS)


@pytest.mark.parametrize("module", [ALL, *OTHERS], ids=lambda m: type(m).__name__)
def test_round_trip_through_json(module: nn.Module) -> None:
    text = json.dumps(nn.to_config(module))
    again = nn.from_config(json.loads(text))
    assert repr(again) == repr(module)
    assert json.dumps(nn.to_config(again)) == text
    again.load_state_dict(module.state_dict())


def test_round_trip_computes_the_same() -> None:
    x = smelt.tensor(np.random.default_rng(0).normal(size=(2, 1, 12, 12)).astype(np.float32))
    again = nn.from_config(nn.to_config(ALL))
    again.load_state_dict(ALL.state_dict())
    ALL.eval()
    np.testing.assert_array_equal(again.eval()(x).numpy(), ALL(x).numpy())


def test_config_reads_the_modules_that_are_there_now() -> None:
    model = nn.Sequential(nn.ReLU())
    model[0] = nn.Tanh()
    assert nn.to_config(model)["args"]["layers"] == [{"type": "Tanh", "args": {}}]


class Mine(nn.ReLU):
    pass


@pytest.mark.parametrize("module", [Mine(), nn.Sequential(nn.ReLU(), Mine()), nn.CrossEntropyLoss()])
def test_only_library_layers_can_be_described(module: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"config.*expected a layer of smelt.nn, received (Mine|CrossEntropyLoss)"):
        nn.to_config(module)


def test_what_is_no_tree_cannot_be_described() -> None:
    relu = nn.ReLU()
    with pytest.raises(ValueError, match=r"layers\[1\]: this ReLU is used in config.args.layers\[0\] already"):
        nn.to_config(nn.Sequential(relu, relu))
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    b.weight = a.weight
    with pytest.raises(ValueError, match="this Parameter is used"):
        nn.to_config(nn.Sequential(a, b))


def _layer(kind: object, **args: object) -> dict[str, object]:
    return {"type": "Sequential", "args": {"layers": [{"type": "ReLU"}, {"type": kind, "args": args}]}}


AT = r"config\.args\.layers\[1\]"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([], r"config: expected \{'type'"),
        ({"args": {}}, "config: expected"),
        ({"type": "ReLU", "args": {}, "extra": 1}, "config: expected"),
        ({"type": "ReLU", "args": []}, r"config\.args: expected a dict of arguments, received \[\]"),
        (_layer("os.system"), AT + r"\.type: expected one of Add, .*received 'os.system'"),
        (_layer(["Linear"]), AT + r"\.type: expected one of"),
        (_layer("Module"), AT + r"\.type: expected one of"),
        (_layer("ReLU", inplace=True), AT + r"\.args: ReLU takes no arguments, received 'inplace'"),
        (
            _layer("Linear", in_features=1),
            AT + r"\.args: Linear needs out_features, received \['in_features'\]",
        ),
        (
            _layer("Linear", in_features=1, out=2),
            AT + r"\.args: Linear takes in_features, out_features, bias, rec",
        ),
        (
            _layer("Linear", in_features="1", out_features=2),
            AT + r"\.args: Linear: in_features: expected an integer ≥ 1, received '1'",
        ),
        (
            _layer("Linear", in_features=True, out_features=2),
            "in_features: expected an integer ≥ 1, received True",
        ),
        (
            _layer("Linear", in_features=2.0, out_features=2),
            "in_features: expected an integer ≥ 1, received 2.0",
        ),
        (
            _layer("Linear", in_features=-1, out_features=2),
            "in_features: expected an integer ≥ 1, received -1",
        ),
        (_layer("Linear", in_features=2**40, out_features=2), "in_features: expected an integer"),
        (_layer("Linear", in_features=1, out_features=2, bias=1), "bias: expected True or False, received 1"),
        (
            _layer("Linear", in_features={"type": "ReLU"}, out_features=1),
            "in_features: expected a number, text",
        ),
        (_layer("Dropout", p=float("nan")), "p: expected a finite number ≥ 0 and ≤ 1, received nan"),
        (_layer("Flatten", start_dim=[[1]]), r"start_dim: expected a number, text, or a list of numbers"),
        (_layer("LayerNorm", normalized_shape=[2] * 9), "normalized_shape: expected 1 to 8 integers"),
        (
            _layer("Conv2d", in_channels=4, out_channels=6, kernel_size=[1, 2, 3]),
            "an integer or a pair of them",
        ),
        (
            _layer("Conv2d", in_channels=4, out_channels=6, kernel_size=1, groups=3),
            "groups: expected a divisor",
        ),
        (_layer("Conv2d", in_channels=4, out_channels=6, kernel_size=1, padding="full"), "'same' or 'valid'"),
        ({"type": "Sequential", "args": {"layers": {"type": "ReLU"}}}, "config.args.layers: expected a list"),
        ({"type": "Add"}, "config.args: Add: expected at least 1 module"),
    ],
)
def test_mistakes_are_one_line_that_names_the_place(config: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as e:
        nn.from_config(config)
    assert "\n" not in str(e.value)


def test_no_more_than_the_budget_is_ever_allocated() -> None:
    import tracemalloc

    hostile = _layer("Linear", in_features=2**31 - 1, out_features=2**31 - 1)
    tracemalloc.start()
    with pytest.raises(ValueError, match=AT + r".*expected at most 1,000 parameters in all.*\(2147483647, 2147"):
        nn.from_config(hostile, max_parameters=1000)
    many = {"type": "Linear", "args": {"in_features": 10, "out_features": 10}}
    with pytest.raises(ValueError, match=r"config\.args\.layers\[9\]\.args: .* that makes them 1,090"):
        nn.from_config({"type": "Sequential", "args": {"layers": [many] * 20}}, max_parameters=1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
    nn.Linear(100, 100)  # the budget ends with from_config


def test_the_budget_is_exact_and_counts_buffers() -> None:
    config = nn.to_config(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))
    nn.from_config(config, max_parameters=16)
    with pytest.raises(ValueError, match="that makes them 16"):
        nn.from_config(config, max_parameters=15)


def test_depth_and_number_of_modules_are_limited() -> None:
    deep: dict[str, object] = {"type": "ReLU", "args": {}}
    for _ in range(64):
        deep = {"type": "Sequential", "args": {"layers": [deep]}}
    with pytest.raises(ValueError, match="expected at most 10,000 modules in 64 levels"):
        nn.from_config(deep)
    wide = {"type": "Sequential", "args": {"layers": [{"type": "ReLU"}] * 20}}
    with pytest.raises(ValueError, match=r"layers\[19\]: expected at most 20 modules"):
        nn.from_config(wide, max_modules=20)


def test_loading_uses_up_no_random_numbers() -> None:
    before = random.get_state()
    model = nn.from_config({"type": "Linear", "args": {"in_features": 3, "out_features": 2}}, initialize=False)
    assert not model.state_dict()["weight"].any()
    after = random.get_state()
    assert all((before[k] == after[k]).all() for k in before)
