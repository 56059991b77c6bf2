"""Frozen graphs: what depends on the weights alone is computed beforehand, and batch normalization is gone."""

from __future__ import annotations

import numpy as np
import pytest

import smelt
from smelt import models, nn
from smelt.compiler.passes.freeze import Frozen, freeze
from smelt.graph.interpret import interpret
from smelt.graph.trace import Tracer
from smelt.ops.primitive import Rows, Spec
from smelt.tensor import Tensor


def frozen(model: nn.Module, shape: tuple[int, ...]) -> tuple[Frozen, list[np.ndarray]]:
    """Return the frozen graph of a model for a batch, and the arrays of its states."""
    tracer = Tracer("model")
    with smelt.no_grad(), tracer:
        out = model(Tensor(tracer.input("x", Spec(shape, np.dtype("float32"), Rows(0)))))
        graph = tracer.finish([tracer.lift(out)])
    return freeze(graph), [t.numpy() for t, _ in tracer.state.values()]


def unsettled(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and statistic a value of its own, so that nothing cancels."""
    rng = np.random.default_rng(seed)
    for name, t in [*model.named_parameters(), *model.named_buffers()]:
        if t.dtype.kind == "f":
            low = 0.5 if "var" in name else -0.5
            t.assign(Tensor(rng.uniform(low, low + 1.0, t.shape).astype(t.dtype)))
    return model.eval()


def names(f: Frozen) -> list[str]:
    return [n.opname for n in f.graph.nodes() if n.op is not None]


def check(model: nn.Module, shape: tuple[int, ...]) -> list[str]:
    """Return the operations left, after comparing values with the eager model."""
    unsettled(model)
    f, states = frozen(model, shape)
    x = np.random.default_rng(1).normal(size=shape).astype("float32")
    (got,), _ = interpret(f.graph, [x], f.evaluate(states))
    want = model(x).numpy()
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5 * np.abs(want).max())
    return names(f)


def test_batch_normalization_becomes_part_of_a_convolution() -> None:
    ops = check(nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()), (2, 3, 6, 6))
    assert ops == ["conv2d", "add", "relu"]


def test_and_of_a_depthwise_one_with_a_bias() -> None:
    ops = check(nn.Sequential(nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6)), (2, 6, 5, 5))
    assert ops == ["conv2d", "add"]


def test_and_of_a_linear_layer() -> None:
    ops = check(nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU()), (3, 5))
    assert ops == ["matmul", "add", "relu"]


def test_what_is_read_before_the_normalization_stays_as_it_is() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            self.conv, self.norm = nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.norm(y) + y.abs()

    ops = check(Both(), (2, 2, 3, 3))
    assert ops.count("conv2d") == 1 and "abs" in ops


def test_a_factor_per_pixel_is_no_factor_per_channel() -> None:
    class PerPixel(nn.Module):
        def __init__(self) -> None:
            self.conv = nn.Conv2d(2, 4, 1)
            self.factor = smelt.Parameter(np.ones((3, 3), np.float32))

        def forward(self, x: Tensor) -> Tensor:
            return 2.0 - self.conv(x) * self.factor / 3.0

    assert "mul" in check(PerPixel(), (2, 2, 3, 3))


@pytest.mark.parametrize(
    ("model", "shape", "others"),
    [
        (models.ds_cnn(), (2, 1, 49, 10), {"add", "relu", "sum_pool2d", "div", "reshape"}),
        (models.resnet8(), (2, 3, 32, 32), {"add", "relu", "sum", "div", "reshape", "sum_pool2d"}),
        (models.autoencoder(), (2, 640), {"add", "relu"}),
    ],
    ids=["ds_cnn", "resnet8", "autoencoder"],
)
def test_nothing_but_bias_and_activation_is_left_beside_the_contractions(
    model: nn.Module, shape: tuple[int, ...], others: set[str]
) -> None:
    assert set(check(model, shape)) - {"conv2d", "matmul"} <= others


def test_a_graph_that_changes_state_is_refused() -> None:
    with pytest.raises(smelt.TraceError, match=r"inference cannot change state, but .* changes running_"):
        model = nn.BatchNorm1d(3)
        tracer = Tracer("norm")
        with tracer:
            out = model(Tensor(tracer.input("x", Spec((4, 3), np.dtype("float32"), Rows(0)))))
            freeze(tracer.finish([tracer.lift(out)]))
