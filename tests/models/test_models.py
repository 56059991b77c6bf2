"""The model zoo: published counts of parameters and MACs, saving, and a training step of each."""

import json

import numpy as np
import pytest

import smelt
from smelt import models, nn, optim
from smelt.graph.graph import Graph
from smelt.graph.trace import Tracer
from smelt.ops import Rows, Spec


def traced(model: nn.Module, shape: tuple[int, ...]) -> Graph:
    tracer = Tracer("model")
    with tracer:
        x = smelt.Tensor(tracer.input("x", Spec((1, *shape), np.dtype("float32"), Rows(0))))
        return tracer.finish([tracer.lift(model.eval()(x))])


def folded_parameters(model: nn.Module) -> int:
    """Weights, and one bias for each of their outputs: what is left when batch-norm is folded away."""
    weighted = [m for _, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    return sum(m.weight.size + m.weight.shape[0] for m in weighted)


COUNTS = [
    ("mnist_cnn", 805_066, 1_431_296),
    ("lenet_300_100", 266_610, 266_200),
    ("lenet5", 61_706, 416_520),
    ("ds_cnn", 22_604, 2_656_768),
    ("resnet8", 77_706, 12_501_632),
    ("autoencoder", 265_864, 264_192),
    ("mobilenet_v1", 210_850, 7_489_664),
]


@pytest.mark.parametrize(("name", "parameters", "macs"), COUNTS)
def test_counts_are_the_published_ones(name: str, parameters: int, macs: int) -> None:
    model = models.MODELS[name]()
    assert folded_parameters(model) == parameters
    assert traced(model, models.INPUT_SHAPES[name]).macs == macs


def test_mobilenet_v2_has_the_published_counts() -> None:
    model = models.mobilenet_v2()
    assert sum(p.size for p in model.parameters()) == 3_504_872
    assert traced(model, (3, 224, 224)).macs == 300_774_272


@pytest.mark.parametrize(("width", "parameters"), [(0.5, 1_968_680), (1.4, 6_108_776)])
def test_mobilenet_v2_of_other_widths_has_torchvisions_count(width: float, parameters: int) -> None:
    assert sum(p.size for p in models.mobilenet_v2(width).parameters()) == parameters


def test_the_table_is_complete() -> None:
    builders = {n for n in models.__all__ if n.islower()}
    counted = {name for name, _, _ in COUNTS} | {"mobilenet_v2"}
    assert set(models.MODELS) == set(models.INPUT_SHAPES) == builders == counted


SMALL = {"mobilenet_v1": (3, 32, 32), "mobilenet_v2": (3, 32, 32)}
CLASSES = {"autoencoder": 640, "ds_cnn": 12, "mobilenet_v1": 2, "mobilenet_v2": 5}


def _build(name: str) -> nn.Sequential:
    return models.mobilenet_v2(0.1, classes=5) if name == "mobilenet_v2" else models.MODELS[name]()


@pytest.mark.parametrize("name", models.MODELS)
def test_it_trains_a_step_and_comes_back_from_json(name: str) -> None:
    shape = SMALL.get(name, models.INPUT_SHAPES[name])
    x = smelt.tensor(np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32))
    model = _build(name)
    optimizer = optim.SGD(model.parameters(), lr=1e-3)
    before = model.state_dict()
    out = model(x)
    assert out.shape == (4, CLASSES.get(name, 10))
    (out * out).mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    optimizer.step()
    after = model.state_dict()
    assert all(np.isfinite(v).all() for v in after.values())
    assert sum((before[k] != v).any() for k, v in after.items()) > len(after) / 2
    again = nn.from_config(json.loads(json.dumps(nn.to_config(model))), initialize=False)
    again.load_state_dict(after)
    np.testing.assert_array_equal(again.eval()(x).numpy(), model.eval()(x).numpy())


@pytest.mark.parametrize("name", ["ds_cnn", "resnet8", "autoencoder", "mnist_cnn"])
def test_a_training_step_does_not_depend_on_the_batch_size(name: str) -> None:
    model = models.MODELS[name]()
    optimizer = optim.Adam(model.parameters())
    tracer = Tracer("step")
    with tracer:
        spec = Spec((4, *models.INPUT_SHAPES[name]), np.dtype("float32"), Rows(0))
        out = model(smelt.Tensor(tracer.input("x", spec)))
        loss = (out * out).mean()
        loss.backward()
        optimizer.step(when=smelt.ops.isfinite(loss))
        graph = tracer.finish([tracer.lift(loss)])
    assert graph.exact == []
    assert len(graph.updates) >= 3 * len(optimizer.params)
