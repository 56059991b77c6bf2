"""Layers: answers known without another library, errors, and the same numbers when traced."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import smelt
from smelt import nn
from smelt.errors import ShapeError
from smelt.nn import functional as F


def test_same_padding_is_tensorflows() -> None:
    for size in range(1, 20):
        for kernel in range(1, 6):
            for stride in range(1, 4):
                before, after = F.same_padding(size, kernel, stride)
                assert (size + before + after - kernel) // stride + 1 == -(-size // stride)
                assert 0 <= after - before <= 1


def test_four_numbers_pad_each_side_alone() -> None:
    x = smelt.tensor(np.arange(1.0, 10.0, dtype=np.float32).reshape(1, 1, 3, 3))
    kernel = smelt.ones((1, 1, 1, 1))
    out = F.conv2d(x, kernel, padding=(1, 0, 2, 1)).numpy()[0, 0]
    np.testing.assert_array_equal(out, np.pad(x.numpy()[0, 0], ((1, 0), (2, 1))))
    layer = nn.Conv2d(1, 1, 1, padding=(1, 0, 2, 1))
    assert nn.from_config(nn.to_config(layer)).padding == (1, 0, 2, 1)
    with pytest.raises(ValueError, match="Conv2d: padding: expected an integer ≥ 0"):
        nn.Conv2d(1, 1, 1, padding=(1, 0, 2, -1))


def test_same_padding_with_stride_puts_the_odd_zero_after() -> None:
    x = smelt.tensor(np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4))
    out = F.conv2d(x, smelt.ones((1, 1, 3, 3)), stride=2, padding="same")
    assert out.tolist() == [[[[45.0, 39.0], [66.0, 50.0]]]]


def test_depthwise_keeps_channels_apart() -> None:
    x = smelt.tensor(np.stack([np.ones((3, 3)), np.full((3, 3), 10)]).astype(np.float32)[None])
    out = F.conv2d(x, smelt.ones((2, 1, 3, 3)), groups=2)
    assert out.reshape(2).tolist() == [9.0, 90.0]


def test_average_pooling_counts_what_it_is_told_to() -> None:
    x = smelt.ones((1, 1, 3, 3))
    with_pad = F.avg_pool2d(x, 2, padding=1)
    without = F.avg_pool2d(x, 2, padding=1, count_include_pad=False)
    assert with_pad.tolist() == [[[[0.25, 0.5], [0.5, 1.0]]]]
    assert without.tolist() == [[[[1.0, 1.0], [1.0, 1.0]]]]


def test_batch_norm_statistics() -> None:
    layer = nn.BatchNorm1d(1, momentum=0.5)
    x = smelt.tensor([[1.0], [3.0]])
    layer(x)
    assert (layer.running_mean.item(), layer.running_var.item()) == (1.0, 1.5)  # the sample's variance is 2
    assert layer.eval()(smelt.tensor([[1.0]])).item() == 0.0
    assert layer.running_mean.item() == 1.0


def test_batch_norm_of_one_value_per_channel_stays_finite() -> None:
    layer = nn.BatchNorm1d(2)
    x = smelt.tensor([[5.0, -5.0]])
    assert layer(x).tolist() == [[0.0, 0.0]]
    np.testing.assert_allclose(layer.running_var.numpy(), 0.9)


def test_normalizations_give_mean_0_and_variance_1(rng: Any) -> None:
    x = smelt.tensor((rng.normal(size=(6, 8, 5, 4)) * 3 + 100).astype(np.float32))
    for y, axes in (
        (nn.BatchNorm2d(8)(x), (0, 2, 3)),
        (nn.LayerNorm((5, 4))(x), (2, 3)),
        (nn.GroupNorm(1, 8)(x), (1, 2, 3)),
    ):
        np.testing.assert_allclose(y.numpy().mean(axes), 0, atol=1e-5)
        np.testing.assert_allclose(y.numpy().var(axes), 1, atol=1e-4)


def test_dropout_keeps_the_mean_and_drops_the_share() -> None:
    y = nn.Dropout(0.2)(smelt.ones((200, 200))).numpy()
    assert abs((y == 0).mean() - 0.2) < 0.01
    assert np.unique(y).tolist() == [0.0, np.float32(1.25)]
    assert nn.Dropout(1.0)(smelt.ones((3,))).tolist() == [0.0, 0.0, 0.0]
    x = smelt.ones((3,))
    assert nn.Dropout(0.0)(x) is x and nn.Dropout(0.9).eval()(x) is x


def test_dropout_drops_the_gradient_of_the_same_elements() -> None:
    x = smelt.tensor(np.ones(100, np.float32), requires_grad=True)
    y = F.dropout(x, 0.5)
    y.sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [(nn.Linear(300, 200), 300), (nn.Conv2d(8, 300, 5), 200), (nn.Conv1d(60, 200, 5), 300)],
)
def test_initial_values_are_uniform_in_one_over_root_fan_in(layer: Any, fan_in: int) -> None:
    bound = 1 / np.sqrt(fan_in)
    w = layer.weight.numpy()
    assert bound * 0.999 < np.abs(w).max() <= bound
    assert abs(w.std() / (bound / np.sqrt(3)) - 1) < 0.02
    assert np.abs(layer.bias.numpy()).max() <= bound


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear(0, 1), "Linear: in_features: expected an integer ≥ 1, received 0"),
        (lambda: nn.Linear(1, 2, bias=None), "Linear: bias: expected True or False, received None"),
        (lambda: nn.Conv2d(3, 8, 3, stride=0), "Conv2d: stride: expected an integer ≥ 1, received 0"),
        (
            lambda: nn.Conv2d(3, 8, 3, groups=2),
            "Conv2d: groups: expected a divisor of in_channels=3 and out_cha",
        ),
        (lambda: nn.Conv1d(3, 8, (3, 3)), r"Conv1d: kernel_size: expected an integer ≥ 1, received \(3, 3\)"),
        (
            lambda: nn.MaxPool2d(2, padding=2),
            r"MaxPool2d: padding: expected less than kernel_size=\(2, 2\), rec",
        ),
        (
            lambda: nn.AvgPool1d(2, padding=2),
            "AvgPool1d: padding: expected less than kernel_size=2, received 2",
        ),
        (
            lambda: nn.BatchNorm2d(3, momentum=None),
            "BatchNorm2d: momentum: expected a finite number ≥ 0 and ≤ 1",
        ),
        (
            lambda: nn.GroupNorm(3, 8),
            "GroupNorm: num_groups: expected a divisor of num_channels=8, received 3",
        ),
        (lambda: nn.Dropout(1.5), "Dropout: p: expected a finite number ≥ 0 and ≤ 1, received 1.5"),
        (lambda: nn.GELU("fast"), "GELU: approximate: expected 'none' or 'tanh', received 'fast'"),
        (
            lambda: nn.MSELoss(reduction="avg"),
            "MSELoss: reduction: expected 'mean' or 'sum' or 'none', received",
        ),
    ],
)
def test_construction_errors_are_one_line(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as e:
        make()
    assert "\n" not in str(e.value) and "test_layers.py" in str(e.value)


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (
            nn.Linear(3, 2),
            (4, 5),
            r"linear: expected x \(..., in\) and weight \(out, in\), received \(4, 5\) and \(2",
        ),
        (nn.Conv2d(3, 2, 3), (3, 8, 8), r"conv2d: expected x \(N, C, H, W\)"),
        (nn.Conv2d(3, 2, 3), (1, 4, 8, 8), r"conv2d: images \(1, 4, 8, 8\) have 4 channels"),
        (nn.Conv2d(3, 2, 9), (1, 3, 8, 8), r"conv2d: a window of \(9, 9\)"),
        (nn.Conv1d(3, 2, 3), (1, 3, 8, 8), r"conv1d: expected x \(N, C, L\)"),
        (nn.MaxPool1d(2), (1, 8), r"max_pool1d: expected \(N, C, L\), received \(1, 8\)"),
        (nn.MaxPool2d(2), (1, 8), "max_pool2d: expected images NCHW, received shape"),
        (nn.GlobalAvgPool2d(), (1, 8), r"global_avg_pool2d: expected \(N, C, H, W\)"),
        (nn.BatchNorm2d(3), (2, 3), r"BatchNorm2d: expected \(N, 3, H, W\), received \(2, 3\)"),
        (nn.BatchNorm1d(3), (2, 4), r"BatchNorm1d: expected \(N, 3\) or \(N, 3, L\), received \(2, 4\)"),
        (nn.LayerNorm((3, 2)), (4, 2, 3), r"layer_norm: expected x \(..., 3, 2\), received \(4, 2, 3\)"),
        (nn.GroupNorm(2, 4), (4, 6), r"GroupNorm: expected \(N, 4, ...\), received \(4, 6\)"),
    ],
)
def test_a_wrong_input_is_told_what_was_expected(layer: nn.Module, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        layer(smelt.ones(shape))


TRACED = [
    (nn.Linear(5, 3), (6, 5)),
    (nn.Conv2d(2, 4, 3, stride=2, padding="same"), (4, 2, 7, 7)),
    (nn.Conv1d(2, 4, 3, padding=1), (4, 2, 9)),
    (nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2)), (3, 1, 6, 6)),
    (nn.AvgPool2d(2, padding=1, count_include_pad=False), (3, 2, 5, 5)),
    (nn.Sequential(nn.MaxPool1d(2), nn.AvgPool1d(2)), (3, 2, 8)),
    (nn.Concat(nn.GlobalAvgPool2d(), nn.GlobalMaxPool2d()), (3, 2, 4, 4)),
    (nn.BatchNorm1d(4), (6, 4)),
    (nn.BatchNorm2d(4), (6, 4, 3, 3)),
    (nn.LayerNorm(4), (6, 2, 4)),
    (nn.GroupNorm(2, 4), (6, 4, 3, 3)),
    (nn.Add(nn.GELU(), nn.Hardswish(), nn.SiLU(), nn.LeakyReLU(), nn.ReLU6(), nn.GELU("tanh")), (6, 4)),
    (nn.Sequential(nn.Softmax(), nn.LogSoftmax()), (6, 4)),
    (nn.Dropout(0.5), (6, 4)),
]


@pytest.mark.parametrize(("layer", "shape"), TRACED, ids=lambda v: str(v).split("(")[0] if v else "")
def test_a_traced_training_step_gives_the_same_numbers(
    layer: nn.Module, shape: tuple[int, ...], rng: Any, traced: Any
) -> None:
    """State and gradients included, over three steps, with nothing that ties the step to its batch size."""
    batches = [rng.normal(size=shape).astype(np.float32) for _ in range(3)]
    weights = [smelt.Parameter(np.ones(1, np.float32)) for _ in range(1)]

    def step(x: smelt.Tensor) -> smelt.Tensor:
        y = layer(x * weights[0])
        loss = (y * y).mean()
        loss.backward()
        for p in (*weights, *layer.parameters()):
            assert p.grad is not None
            with smelt.no_grad():
                p.assign(p - p.grad * 0.01)
            p.grad = None
        return loss

    def run(function: Callable[..., Any]) -> list[np.ndarray]:
        smelt.random.seed(3)
        losses = [np.asarray(function(b)) for b in batches]
        return [*losses, *layer.state_dict().values(), weights[0].numpy().copy()]

    start = layer.state_dict()
    compiled = traced(step, batches[0])
    assert compiled.graph.exact == []
    inside = run(compiled)
    layer.load_state_dict(start)
    weights[0].assign(np.ones(1, np.float32))
    outside = run(lambda b: step(smelt.tensor(b)).numpy())
    for a, b in zip(inside, outside, strict=True):
        np.testing.assert_array_equal(a, b)
    assert compiled.guards_hold()


def test_a_changed_mode_is_a_failed_guard(traced: Any) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    step = traced(model, np.ones((4, 2), np.float32))
    assert step.guards_hold()
    model[1].eval()
    assert not step.guards_hold()
    assert "training of BatchNorm1d is True" in [g.text for g in step.tracer.guards if not g.holds()]


@pytest.mark.parametrize("change", ["weight", "p", "setitem"])
def test_a_changed_network_is_a_failed_guard(change: str, traced: Any) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.ReLU())
    step = traced(model, np.ones((4, 2), np.float32))
    model.eval().train()
    assert step.guards_hold()
    if change == "weight":
        model[0].weight = smelt.Parameter(np.ones((2, 2), np.float32))
    elif change == "p":
        model[1].p = 0.1
    else:
        model[2] = nn.Tanh()
    owner = {"weight": "Linear", "p": "Dropout", "setitem": "Sequential"}[change]
    failed = [g.text for g in step.tracer.guards if not g.holds()]
    assert failed == [f"{owner} has the attributes it was traced with"]


def test_arrays_are_taken_as_tensors() -> None:
    layer = nn.Linear(2, 1)
    x = np.ones((3, 2), np.float32)
    np.testing.assert_array_equal(layer(x).numpy(), layer(smelt.tensor(x)).numpy())
    assert nn.MSELoss()(x, x).item() == 0.0


def test_a_traced_model_names_its_state() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    tracer = smelt.graph.trace.Tracer("names")
    with tracer:
        model(smelt.Tensor(tracer.input("x", smelt.ops.Spec((3, 2), np.dtype("float32")))))
    assert {s.name for s in tracer.graph.states} == {
        *("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var")
    }
