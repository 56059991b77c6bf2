"""The gradient of a convolution's kernels that reads only the winners of the max pooling behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

import smelt
from smelt import nn
from smelt.compiler import program
from smelt.compiler.isa import host
from smelt.nn.functional import max_pool2d
from smelt.runtime.step import Compiled
from smelt.tensor import Tensor

from .isas import ISAS
from .lowering import assemble, training


@dataclass(frozen=True)
class Case:
    """A convolution, the size of images, the pooling and what is before it, and whether its winners are read."""

    layer: Callable[[], nn.Conv2d]
    size: tuple[int, int]
    window: int | tuple[int, int] = 2
    between: Callable[[Tensor], Tensor] = Tensor.relu
    reads: bool = True
    stride: int | None = None

    def gradient(self, precision: str = "f32") -> tuple[Callable[[Tensor], list[Tensor]], Compiled]:
        """Return a function that gives the gradients of the layer's parameters, and it compiled."""
        smelt.seed(0)
        layer = self.layer()
        for p in layer.parameters():  # few values, so that elements of a window tie; Winograd's sixths are whole too
            p.numpy()[:] = 24 * np.rint(p.numpy() * 4)

        def step(x: Tensor) -> list[Tensor]:
            pooled = max_pool2d(self.between(layer(x)), self.window, self.stride)
            (pooled * pooled).mean().backward()
            out = [p.grad for p in layer.parameters()]
            for p in layer.parameters():
                p.grad = None
            return out

        return step, smelt.compile(step, precision=precision)

    def images(self, rows: int = 21) -> np.ndarray:
        channels = 2 if self is CASES["groups"] else self.layer().weight.shape[1]
        return np.random.default_rng(0).integers(-2, 3, (rows, channels, *self.size)).astype(np.float32)


CASES = {
    "one_channel": Case(lambda: nn.Conv2d(1, 32, 5, padding=2), (28, 28)),
    "no_padding": Case(lambda: nn.Conv2d(1, 40, 3), (12, 14)),
    "three_channels": Case(lambda: nn.Conv2d(3, 32, 3, padding=1), (16, 16)),
    "odd_size": Case(lambda: nn.Conv2d(3, 17, 3, padding=1), (15, 17)),
    "four_channels_no_bias": Case(lambda: nn.Conv2d(4, 16, 3, padding=1, bias=False), (9, 9)),
    "stride": Case(lambda: nn.Conv2d(2, 16, 3, padding=1, stride=2), (17, 19)),
    "dilation": Case(lambda: nn.Conv2d(2, 16, 3, dilation=2), (17, 19)),
    "many_taps": Case(lambda: nn.Conv2d(1, 16, 7, padding=3), (13, 13)),
    "wide": Case(lambda: nn.Conv2d(1, 16, 3), (10, 11), (1, 2)),
    "high": Case(lambda: nn.Conv2d(1, 16, 3), (11, 10), (2, 1)),
    "one_window": Case(lambda: nn.Conv2d(1, 16, (3, 7)), (4, 8)),
    "tanh": Case(lambda: nn.Conv2d(1, 32, 3, padding=1), (12, 12), between=Tensor.tanh, reads=False),
    "nothing_between": Case(lambda: nn.Conv2d(1, 32, 3, padding=1), (12, 12), between=lambda x: x),
    "few_channels": Case(lambda: nn.Conv2d(1, 8, 3, padding=1), (12, 12), reads=False),
    "large_window": Case(lambda: nn.Conv2d(1, 32, 3, padding=1), (12, 12), 3, reads=False),
    "overlapping": Case(lambda: nn.Conv2d(1, 32, 3, padding=1), (12, 12), stride=1, reads=False),
    "groups": Case(lambda: nn.Conv2d(2, 32, 3, padding=1, groups=2), (12, 12), reads=False),
    "small_image": Case(lambda: nn.Conv2d(1, 16, 1), (4, 4), reads=False),
}
each = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


def notes(compiled: Compiled, isa: str = "znver4") -> str:
    graph = compiled.graph
    return "\n".join(k.note for k in program.lower(graph, dict.fromkeys(graph.states), ISAS[isa]).kernels)


@each
def test_gradients_are_those_of_eager_tensors(case: Case) -> None:
    """Ties go to the first element of a window, and what a ReLU holds back has no gradient; for any part of a batch."""
    eager, compiled = case.gradient()
    x = case.images()
    for rows in (21, 20, 3, 1):
        got = [g.numpy().copy() for g in compiled(x[:rows])]
        for g, want in zip(got, eager(Tensor(x[:rows])), strict=True):
            np.testing.assert_allclose(g, want.numpy(), rtol=0, atol=1e-5 * np.abs(want.numpy()).max())
    assert ("conv2d_winner_grad" in notes(compiled)) == case.reads
    assert not any("winner_grad" in notes(compiled, isa) for isa in ("haswell", "cortex-a76"))


@each
def test_any_number_of_threads_gives_the_same_bits(case: Case) -> None:
    _, compiled = case.gradient()
    x = case.images()
    for rows in (21, 2):
        got = []
        for threads in (1, 2, 4, 8):
            smelt.set_threads(threads)
            got.append([g.numpy().tobytes() for g in compiled(x[:rows])])
        assert all(g == got[0] for g in got)
    smelt.set_threads(None)


@pytest.mark.parametrize("name", ["layer_before", "average"])
def test_where_something_else_reads_the_gradient_it_is_spread(name: str) -> None:
    first, layer = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 32, 3, padding=1)

    def step(x: Tensor) -> list[Tensor]:
        y = layer(first(x) if name == "layer_before" else x).relu()
        (max_pool2d(y, 2) if name == "layer_before" else nn.functional.avg_pool2d(y, 2)).mean().backward()
        parameters = [*layer.parameters(), *(first.parameters() if name == "layer_before" else ())]
        out = [p.grad for p in parameters]
        for p in parameters:
            p.grad = None
        return out

    compiled = smelt.compile(step)
    compiled(np.zeros((3, 4, 12, 12), np.float32))
    assert "conv2d_weight_grad" in notes(compiled)
    assert "winner" not in notes(compiled)


@each
def test_numbers_of_16_bits_are_read_as_float32(case: Case) -> None:
    """What is spread are numbers that were rounded before; the products are the same sums of 16-bit numbers."""
    step, compiled = case.gradient("bf16")
    x = case.images()
    with smelt.autocast("bf16"):
        eager = step(Tensor(x))
    for got, want in zip(compiled(x), eager, strict=True):
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=0, atol=0.01 * np.abs(want.numpy()).max())
    assert ("conv2d_winner_grad" in notes(compiled)) == case.reads


def test_a_gradient_that_a_product_rounded_is_read_through_a_view() -> None:
    layer, head = nn.Conv2d(1, 16, 3, padding=1), nn.Linear(16 * 36, 8)

    def step(x: Tensor) -> Tensor:
        (head(max_pool2d(layer(x).relu(), 2).flatten(1)) ** 2).mean().backward()
        gradient = layer.weight.grad
        for p in (*layer.parameters(), *head.parameters()):
            p.grad = None
        return gradient

    compiled = smelt.compile(step, precision="bf16")
    compiled(np.ones((3, 1, 12, 12), np.float32))
    assert "conv2d_winner_grad" in notes(compiled)


def test_no_buffer_holds_the_gradient_of_all_pixels() -> None:
    sizes = {}
    for name in ("znver4", "haswell"):
        lowered = training("mnist_cnn", name, 64)
        written = {b for k in lowered.kernels for b in k.writes if b.dtype == "f32"}
        sizes[name] = max(b.size for b in written if b.kind == "arena")
    assert sizes["haswell"] == 64 * 32 * 28 * 28
    assert sizes["znver4"] == 64 * 32 * 14 * 14
    assert sum(k.macs for k in training("mnist_cnn", "znver4", 64).kernels) == sum(
        k.macs for k in training("mnist_cnn", "haswell", 64).kernels
    ), "of the gradient in all pixels, by which networks are compared"


def test_sums_and_indices_stay_in_registers() -> None:
    code = assemble(training("mnist_cnn", "znver4", 64), "znver4")
    (lines,) = [code[name] for name in code if "winner_grad" in name and name.endswith("slices")]
    picked = [i for i, line in enumerate(lines) if line.split()[0] in ("vpermps", "vpermd")]
    assert len(picked) == 25, "one for each tap of a vector of channels"
    inner = lines[picked[0] : picked[-1]]
    assert not any("rsp" in line or "gather" in line for line in inner)
    assert sum(line.startswith("vinsert") for line in inner) == 0


def test_a_gradient_is_masked_where_it_is_turned() -> None:
    lowered = training("mnist_cnn", "znver4", 64)
    (won,) = [k for k in lowered.kernels if k.note == "won"]
    assert "shuffle" in str(won)
    assert not any(k.note == "copy" and "Flatten" in str(k.layers) for k in lowered.kernels)


@pytest.mark.skipif(not host().picks, reason="this processor has no permutation of 16 numbers")
def test_explain_says_what_was_done() -> None:
    _, compiled = CASES["one_channel"].gradient()
    compiled(CASES["one_channel"].images())
    text = str(smelt.explain(compiled))
    assert "each with its neighbours" in text
    assert "conv2d_winner_grad" in text
