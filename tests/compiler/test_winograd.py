"""Convolutions by Winograd's products: values, bits, errors, and which convolutions they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

import smelt
from smelt import nn, ops
from smelt.compiler.isa import PLAIN_C, host
from smelt.compiler.lower.patches import FREQUENCIES, SCRATCH, choose_block, obstacle
from smelt.compiler.passes.freeze import freeze
from smelt.compiler.passes.winograd import by_winograd
from smelt.graph.interpret import interpret
from smelt.ops.winograd import (
    conv2d_winograd,
    conv2d_winograd_lines,
    winograd_line_weights,
    winograd_weights,
)
from smelt.tensor import Tensor

from .hazards import find_hazards
from .isas import CORTEX_A76, COUNTED, HASWELL, ZNVER4
from .lowering import lower
from .zoo import Case, Training, trace

wide = pytest.mark.skipif(host().vector_bytes < 64, reason="the processor's vectors are too short for it")
SAME = ((1, 1), (1, 1))
SIZES = {  # images, channels in and out, height, width, padding
    "square": (4, 16, 16, 8, 8, SAME),
    "one image": (1, 32, 16, 16, 8, SAME),
    "images of a small batch": (3, 16, 32, 8, 12, SAME),
    "no padding": (5, 16, 48, 10, 14, ((0, 0), (0, 0))),
    "uneven padding": (4, 48, 16, 9, 11, ((2, 1), (0, 1))),
    "wide padding": (4, 16, 16, 14, 14, ((2, 2), (2, 2))),
    "many channels": (4, 96, 80, 8, 8, SAME),
    "a line": (4, 16, 16, 2, 64, SAME),
}
Array = np.ndarray


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    yield
    smelt.set_threads(None)


def arrays(size: str, dtype: str = "float32") -> tuple[Array, Array, tuple]:
    n, c, k, h, w, padding = SIZES[size]
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, c, h, w)).astype(dtype), rng.normal(size=(k, c, 3, 3)).astype(dtype), padding


def conv(x: Tensor, w: Tensor, padding: tuple) -> Tensor:
    return ops.conv2d(x, w, stride=(1, 1), dilation=(1, 1), groups=1, padding=padding)


def close(have: Array, want: Array, part: float = 1e-5) -> None:
    assert have.shape == want.shape
    assert np.abs(have - want).max() <= part * np.abs(want).max()


@pytest.mark.parametrize("size", SIZES)
def test_the_primitives_are_the_convolution(size: str) -> None:
    x, w, padding = arrays(size, "float64")
    want = ops.conv2d.evaluate(x, w, stride=(1, 1), dilation=(1, 1), groups=1, padding=padding)
    u = winograd_weights.evaluate(w, flip=False)
    have = conv2d_winograd.evaluate(x, u, padding=padding)
    close(have, want, 1e-13)
    assert u.shape == winograd_weights.infer(ops.Spec(w.shape, w.dtype), flip=False).shape
    specs = [ops.Spec(a.shape, a.dtype) for a in (x, u)]
    assert have.shape == conv2d_winograd.infer(*specs, padding=padding).shape
    direct = ops.conv2d.macs((specs[0], ops.Spec(w.shape, w.dtype)), ops.Spec(want.shape, want.dtype), {})
    assert conv2d_winograd.macs(tuple(specs), ops.Spec(want.shape, want.dtype), {}) == direct


@pytest.mark.parametrize("size", SIZES)
def test_a_rewritten_gradient_means_the_same(size: str) -> None:
    x, w, padding = arrays(size, "float32")

    def both(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        y = conv(x, w, padding)
        g = ops.conv2d_input_grad(y, w, size=x.shape[2:], stride=(1, 1), dilation=(1, 1), groups=1, padding=padding)
        return y, g

    graph = trace(both, [x, w], rows=False)
    rewritten = by_winograd(graph, ZNVER4)
    assert "conv2d_winograd" in [n.opname for n in rewritten.nodes()]
    want, have = (interpret(g, [x, w], [])[0] for g in (graph, rewritten))
    for a, b in zip(have, want, strict=True):
        close(a, b)


@wide
@pytest.mark.parametrize("size", SIZES)
def test_compiled_values_and_gradients(size: str) -> None:
    *values, padding = arrays(size)
    images, kernels = (smelt.Parameter(v) for v in values)

    def step() -> tuple[Tensor, Tensor, Tensor]:
        images.grad = kernels.grad = None
        out = conv(images, kernels, padding)
        (out * out).sum().backward()
        return out, images.grad, kernels.grad  # type: ignore[return-value]

    want = [t.numpy().copy() for t in step()]
    compiled = smelt.compile(step)
    for have, expected in zip(compiled(), want, strict=True):
        close(have.numpy(), expected)
    gradient_too = not any(d % 2 for d in images.shape[2:])
    assert sum("conv2d_winograd" in k.name for k in compiled.lowered().kernels) == 1 + gradient_too


@wide
@pytest.mark.parametrize("images", [1, 2])
def test_samples_of_several_images(images: int) -> None:
    *_, padding = arrays("square")
    weights = smelt.Parameter(arrays("square")[1])
    x = np.random.default_rng(4).normal(size=(7, images * 16, 8, 8)).astype(np.float32)

    def f(x: Tensor) -> Tensor:
        return conv(x.reshape(-1, 16, 8, 8), weights, padding).relu().reshape(-1, images, 16, 8, 8)

    compiled = smelt.compile(f)
    for rows in (7, 7, 3, 1):
        close(compiled(x[:rows]).numpy(), f(Tensor(x[:rows])).numpy())
    assert "conv2d_winograd" in str(compiled.lowered().text())


@wide
@pytest.mark.parametrize("window", [(2, 2), (1, 2), (2, 1), (4, 1), (1, 4), (4, 4)])
def test_pooling_behind_it(window: tuple[int, int]) -> None:
    x, w, padding = arrays("square")
    weights = smelt.Parameter(w)

    def f(x: Tensor) -> tuple[Tensor, Tensor]:
        y = conv(x, weights, padding).relu()
        return y, nn.functional.max_pool2d(y, window)

    compiled = smelt.compile(f)
    for have, want in zip(compiled(x), f(Tensor(x)), strict=True):
        close(have.numpy(), want.numpy())
    assert "conv2d_winograd" in str(compiled.lowered().text())


def network() -> nn.Sequential:
    """Return one with all that may follow a convolution: folded normalization, addition, activation, pooling."""
    smelt.seed(1)
    body = nn.Sequential(
        *(nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)),
    )
    model = nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Add(body, nn.Identity()), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 64, 10)),
    )
    rng = np.random.default_rng(5)
    for _, t in [*model.named_parameters(), *model.named_buffers()]:
        if t.numpy().dtype == np.float32:
            t.numpy()[...] *= rng.uniform(0.5, 2.0, t.shape).astype(np.float32)
    return model


def test_weights_of_inference_are_transformed_beforehand() -> None:
    model = network().eval()
    with smelt.no_grad():
        graph = trace(lambda x: model(x), [np.zeros((4, 3, 16, 16), np.float32)])
    names = [n.opname for n in freeze(graph, isa=ZNVER4).graph.nodes()]
    assert names.count("conv2d_winograd") == 3
    assert "winograd_weights" not in names
    for isa in (None, HASWELL, CORTEX_A76, PLAIN_C, replace(ZNVER4, serial=True)):
        assert "conv2d_winograd" not in [n.opname for n in freeze(graph, isa=isa).graph.nodes()]
    halves = freeze(graph, np.dtype(np.float16), ZNVER4)
    assert "conv2d_winograd" not in [n.opname for n in halves.graph.nodes()]


@wide
def test_inference_of_what_follows_and_of_any_batch() -> None:
    model = network().eval()
    x = np.random.default_rng(2).normal(size=(13, 3, 16, 16)).astype(np.float32)
    with smelt.no_grad():
        want = model(smelt.tensor(x)).numpy()
    fast = model.compile()
    have = fast(x).numpy().copy()
    close(have, want)
    for threads in (1, 2, 4, 8):
        smelt.set_threads(threads)
        assert fast(x).numpy().tobytes() == have.tobytes()
        for rows in (slice(0, 1), slice(3, 5), slice(6, 13)):
            assert fast(x[rows]).numpy().tobytes() == have[rows].tobytes()


@wide
def test_training_follows_the_interpreter_and_keeps_its_bits() -> None:
    case = Case(network, (3, 16, 16))
    bits = set()
    for threads in (None, 1, 2, 4, 8):
        smelt.set_threads(threads or 2)
        training = Training(case, optimizer_name="sgd")
        step = training.step if threads is None else smelt.compile(training.step)
        losses = [step(*map(Tensor, case.data(rows, seed=rows))).item() for rows in (6, 6, 3, 1)]
        if threads is None:
            want, expected = training.values(), losses
            continue
        np.testing.assert_allclose(losses, expected, rtol=1e-4)
        for name, value in training.values().items():
            close(value, want[name], 1e-3)  # sums of four steps over batches normalized by their own statistics
        bits.add(b"".join(v.tobytes() for v in training.values().values()))
    assert len(bits) == 1


@wide
def test_the_error_is_about_that_of_a_direct_convolution() -> None:
    """The transforms add to it, but sums over the channels, not over 9 taps of each, take away: 0.6 times for 64."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(4, 64, 16, 16)).astype(np.float32)
    kernels = (rng.normal(size=(64, 64, 3, 3)) / 24).astype(np.float32)
    exact = ops.conv2d.evaluate(
        x.astype(np.float64), kernels.astype(np.float64), stride=(1, 1), dilation=(1, 1), groups=1, padding=SAME
    )
    errors = {}
    for name, pad in (("winograd", SAME), ("direct", ((1, 2), (1, 1)))):  # an odd result is computed directly
        weights = smelt.Parameter(kernels)
        f = smelt.compile(lambda x, w=weights, pad=pad: conv(x, w, pad))
        found = f(x).numpy()[:, :, :16]
        assert (name == "winograd") == ("conv2d_winograd" in str(f.lowered().text()))
        errors[name] = np.sqrt(((found - exact) ** 2).mean()) / np.sqrt((exact**2).mean())
    assert errors["winograd"] < 1.5 * errors["direct"] < 1e-6


def test_which_convolutions_are_faster() -> None:
    assert not any(obstacle(c, c, s, s, ZNVER4) for c, s in ((16, 32), (32, 16), (64, 8), (128, 16), (256, 28)))
    assert "multiple of 16" in obstacle(3, 16, 32, 32, ZNVER4)
    assert "not even" in obstacle(16, 16, 31, 32, ZNVER4)
    assert "cost more" in obstacle(512, 512, 8, 8, ZNVER4)
    assert "short" in obstacle(16, 16, 32, 32, HASWELL)
    assert obstacle(16, 16, 0, 32, ZNVER4)


@pytest.mark.parametrize("sizes", [(16, 16, 16, 16), (48, 96, 5, 12), (256, 256, 7, 7), (128, 64, 1, 128)])
def test_blocks_cover_an_image_and_fit(sizes: tuple[int, int, int, int]) -> None:
    channels, out, high, wide = sizes
    for shared in (0, 1, 3):
        block = choose_block(channels, out, high, wide, shared, ZNVER4)
        assert (high % block.high, wide % block.wide, out // 16 % block.vectors) == (0, 0, 0)
        assert block.patches * block.vectors + block.vectors < ZNVER4.registers
        assert 4 * FREQUENCIES * sum(block.scratch(channels, 16)) <= SCRATCH


@pytest.mark.parametrize("name", COUNTED)
def test_no_element_is_read_before_it_is_written(name: str) -> None:
    case = Training(Case(network, (3, 16, 16)))
    lowered = lower(case.step, list(case.case.data(6)), name)
    assert any("winograd" in k.name for k in lowered.kernels) == (COUNTED[name].vector_bytes == 64)
    for rows, threads in ((6, 2), (5, 3), (1, 1)):
        assert find_hazards(lowered, rows, threads, 6) == []


@wide
def test_explain_tells_which_products_and_why_not() -> None:
    fast = network().compile()
    fast(np.zeros((1, 3, 16, 16), np.float32))
    told = str(smelt.explain(fast))
    assert "Winograd: 16 products" in told
    assert "Winograd along lines: 4 products for 6" in told
    odd = nn.Conv2d(16, 24, 3, padding=1).compile()
    odd(np.zeros((1, 16, 16, 16), np.float32))
    assert "not Winograd's 16: channels are no multiple of 16" in str(smelt.explain(odd))


LINES = {  # images, channels in and out, height, width, kernel, padding
    "mnist_cnn": (5, 1, 32, 28, 28, (5, 5), ((2, 2), (2, 2))),
    "colours": (4, 3, 32, 16, 20, (3, 3), SAME),
    "one image": (1, 2, 48, 12, 18, (5, 5), ((2, 2), (2, 2))),
    "a small batch": (3, 3, 96, 8, 14, (3, 5), ((1, 1), (2, 2))),
    "no padding": (4, 1, 64, 13, 21, (2, 5), ((0, 0), (0, 1))),
    "a few numbers more than a vector": (4, 1, 32, 6, 18, (3, 3), SAME),
    "one line of taps": (4, 3, 32, 8, 16, (1, 3), ((0, 0), (1, 1))),
    "many lines": (4, 3, 32, 96, 96, (3, 3), SAME),
}


def line_arrays(size: str, dtype: str = "float32") -> tuple[Array, Array, tuple]:
    n, c, k, h, w, kernel, padding = LINES[size]
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, c, h, w)).astype(dtype), rng.normal(size=(k, c, *kernel)).astype(dtype), padding


@pytest.mark.parametrize("size", LINES)
def test_the_primitives_along_lines_are_the_convolution(size: str) -> None:
    x, w, padding = line_arrays(size, "float64")
    want = ops.conv2d.evaluate(x, w, stride=(1, 1), dilation=(1, 1), groups=1, padding=padding)
    u = winograd_line_weights.evaluate(w)
    have = conv2d_winograd_lines.evaluate(x, u, padding=padding)
    close(have, want, 1e-13)
    assert u.shape == winograd_line_weights.infer(ops.Spec(w.shape, w.dtype)).shape
    specs = tuple(ops.Spec(a.shape, a.dtype) for a in (x, u))
    assert have.shape == conv2d_winograd_lines.infer(*specs, padding=padding).shape
    direct = ops.conv2d.macs((specs[0], ops.Spec(w.shape, w.dtype)), ops.Spec(want.shape, want.dtype), {})
    assert conv2d_winograd_lines.macs(specs, ops.Spec(want.shape, want.dtype), {}) == direct


@wide
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("size", LINES)
def test_compiled_values_along_lines(size: str, pooled: bool) -> None:
    """Errors to float64 grow with the taps of a line; bits do not depend on threads or the batch."""
    x, w, padding = line_arrays(size)
    weights = smelt.Parameter(w)

    def f(x: Tensor) -> Tensor:
        y = conv(x, weights, padding).relu()
        return nn.functional.max_pool2d(y, 2) if pooled else y

    exact = ops.conv2d.evaluate(
        x.astype(np.float64), w.astype(np.float64), stride=(1, 1), dilation=(1, 1), groups=1, padding=padding
    )
    want = f(Tensor(x)).numpy()
    compiled = smelt.compile(f)
    found = {}
    for threads in (1, 2, 3):
        smelt.set_threads(threads)
        found[threads] = compiled(x).numpy().copy()
    assert found[1].tobytes() == found[2].tobytes() == found[3].tobytes()
    assert compiled(x[:1]).numpy().tobytes() == found[1][:1].tobytes()
    close(found[1], want, 1e-6)
    if not pooled:
        error = np.abs(found[1] - np.maximum(exact, 0)).max()
        assert error <= {3: 2e-7, 5: 8e-7}[w.shape[3]] * np.abs(exact).max()
    assert "conv2d_winograd_lines" in str(compiled.lowered().text())


@pytest.mark.parametrize("name", COUNTED)
def test_lines_are_written_before_they_are_read(name: str) -> None:
    for rows in (6, 1):
        layer = nn.Conv2d(3, 32, 5, padding=2)
        lowered = lower(lambda x, layer=layer: layer(x), [np.zeros((rows, 3, 20, 20), np.float32)], name)
        assert any("winograd" in k.name for k in lowered.kernels) == (COUNTED[name].vector_bytes == 64)
        for threads in (1, 2, 5):
            assert find_hazards(lowered, rows, threads) == []
