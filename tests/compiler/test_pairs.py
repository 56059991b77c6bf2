"""Products of pairs of bfloat16: equal to eager ones, also for odd batches; and in machine code."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

import smelt
from smelt import nn, ops
from smelt.compiler import jit, program
from smelt.compiler.isa import Isa, host
from smelt.compiler.loops import If, Loop, Stmt
from smelt.compiler.passes.precision import round_activations
from smelt.compiler.program import Lowered
from smelt.runtime import step as runtime_step
from smelt.tensor import Tensor

from .assembly import functions, hottest
from .hazards import find_hazards
from .isas import HASWELL, PAIRS, ZNVER4
from .zoo import CASES, Training, trace, unbound

GRADIENT = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}


def array(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def parameter(*shape: int) -> smelt.Parameter:
    return smelt.Parameter(array(*shape), name="w")


def product(*shape: int, transposed: bool = False) -> Callable[..., Tensor]:
    w = parameter(*shape)
    return lambda x: x @ (w.T if transposed else w)


def convolution(*shape: int, **options: object) -> Callable[..., Tensor]:
    w = parameter(*shape)
    return lambda x: nn.functional.conv2d(x, w, **options)  # type: ignore[arg-type]


def input_gradient(*shape: int) -> Callable[..., Tensor]:
    w = parameter(*shape)
    return lambda g: ops.conv2d_input_grad(g, w, size=(8, 9), **GRADIENT)


def weight_gradient(x: Tensor, g: Tensor) -> Tensor:
    return ops.conv2d_weight_grad(x, g, kernel=(3, 3), **GRADIENT)


FUNCTIONS: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "product": (product(128, 37), ((7, 128),)),
    "transposed weights": (product(40, 128, transposed=True), ((7, 128),)),
    "few lanes": (product(12, 5), ((7, 12),)),
    "weight gradient": (lambda x, g: ops.matmul(x.T, g), ((7, 40), (7, 24))),
    "swapped gradient": (lambda x, g: ops.matmul(g.T, x), ((6, 40), (6, 24))),
    "convolution": (convolution(19, 8, 3, 3, padding=1), ((5, 8, 8, 9),)),
    "strided convolution": (convolution(16, 6, 3, 3, stride=2), ((5, 6, 9, 9),)),
    "one channel": (convolution(32, 1, 5, 5, padding=2), ((5, 1, 9, 8),)),
    "one channel, even width": (convolution(8, 1, 2, 4, stride=2), ((5, 1, 9, 8),)),
    "input gradient": (input_gradient(16, 9, 3, 3), ((5, 16, 8, 9),)),
    "kernel gradient": (weight_gradient, ((5, 6, 8, 9), (5, 11, 8, 9))),
    "kernel gradient, one channel": (weight_gradient, ((5, 1, 8, 10), (5, 11, 8, 10))),
}


def count(lowered: Lowered, op: str) -> int:
    return sum(f"= {op} " in str(k) for k in lowered.kernels if k.macs)


@pytest.fixture(params=[True, False], ids=["pairs", "converted"])
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Isa:
    """This processor, with its products of pairs (if it has them) and without."""
    chosen = replace(host(), bf16=host().bf16 and request.param)
    for module in (program, runtime_step):
        monkeypatch.setattr(module, "host", lambda: chosen)
    return chosen


@pytest.mark.parametrize("name", FUNCTIONS)
def test_they_are_the_products_of_the_rounded_operands(name: str, isa: Isa) -> None:
    function, shapes = FUNCTIONS[name]
    arrays = [array(*s) for s in shapes]
    compiled = smelt.compile(function, precision="bf16")
    for rows in (len(arrays[0]), 4, 3, 1):
        batch = [a[:rows] for a in arrays]
        with smelt.autocast("bf16"):
            want = function(*map(Tensor, batch)).numpy()
        np.testing.assert_allclose(compiled(*batch).numpy(), want, rtol=0, atol=2e-6 * np.abs(want).max())
    assert compiled.traces == 1
    assert count(program.lower(compiled.graph, unbound(compiled.graph), isa), "dot") == isa.bf16


@pytest.mark.parametrize("name", ["weight gradient", "kernel gradient"])
def test_what_an_earlier_batch_left_behind_is_not_multiplied(name: str, isa: Isa) -> None:
    function, shapes = FUNCTIONS[name]
    compiled = smelt.compile(function, precision="bf16")
    compiled(*(np.full(s, np.nan, np.float32) for s in shapes))
    assert np.isfinite(compiled(*(array(*s)[:3] for s in shapes)).numpy()).all()


def test_a_sum_of_odd_length_is_converted_instead() -> None:
    for function, shape in ((product(7, 32), (4, 7)), (convolution(8, 3, 3, 3), (4, 3, 8, 8))):
        with smelt.autocast("bf16"):
            graph = trace(function, [array(*shape)])
        lowered = program.lower(graph, unbound(graph), ZNVER4)
        assert (count(lowered, "dot"), count(lowered, "fma")) == (0, 1)


@pytest.mark.parametrize("width", [4, 10, 12, 20])
def test_sums_read_what_lies_in_pairs(width: int, isa: Isa) -> None:
    """The gradient of a convolution of one channel, of few channels out, is stored once in pairs, and summed."""
    smelt.seed(0)
    layer = nn.Conv2d(1, 12, 3, padding=1)
    x = array(5, 1, 6, width)

    def step(x: Tensor) -> tuple[Tensor, Tensor]:
        y = nn.functional.max_pool2d(layer(x).relu(), 2)
        (y * y).sum().backward()
        gradients = layer.weight.grad, layer.bias.grad
        layer.weight.grad = layer.bias.grad = None
        return gradients

    compiled = smelt.compile(step, precision="bf16")
    for rows in (5, 2, 3):
        got = compiled(x[:rows])
        with smelt.autocast("bf16"):
            want = step(Tensor(x[:rows]))
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(g.numpy(), w.numpy(), rtol=0, atol=0.01 * np.abs(w.numpy()).max())
    lowered = program.lower(compiled.graph, unbound(compiled.graph), isa)
    (gradient,) = [k for k in lowered.kernels if "max_pool2d_grad" in k.note]
    assert [b.dtype for b in gradient.writes] == ["bf16"]
    assert any("unpair" in str(k) for k in lowered.kernels) == isa.bf16


def digest(name: str, precision: str, threads: int) -> str:
    smelt.set_threads(threads)
    training = Training(CASES[name])
    step = smelt.compile(training.step, precision=precision)
    out = hashlib.sha256()
    for i, rows in enumerate((32, 7, 32)):
        out.update(step(*training.case.data(rows, seed=i)).numpy().tobytes())
    for value in training.values().values():
        out.update(value.tobytes())
    return out.hexdigest()


@pytest.fixture
def threads() -> Iterator[None]:
    yield
    smelt.set_threads(None)


@pytest.mark.parametrize(
    ("name", "precision"), [("mnist_cnn", "bf16"), ("odd_convolutions", "bf16"), ("lenet5", "f16")]
)
def test_any_number_of_threads_gives_the_same_bits(name: str, precision: str, threads: None) -> None:
    want = digest(name, precision, 1)
    for count_ in (2, 4, 8):
        assert digest(name, precision, count_) == want, f"{count_} threads"


def lowered_step(name: str, isa: Isa, rows: int) -> Lowered:
    training = Training(CASES[name])
    with smelt.autocast("bf16"):
        graph = round_activations(trace(training.step, list(training.case.data(rows))))
    return program.lower(graph, unbound(graph), isa)


@pytest.mark.parametrize("name", ["mnist_cnn", "odd_convolutions", "convolutions_1d", "dropout"])
def test_a_training_step_has_no_hazard(name: str) -> None:
    lowered = lowered_step(name, ZNVER4, 5)
    for rows, threads in ((5, 3), (2, 2), (1, 4)):
        assert find_hazards(lowered, rows, threads, 5) == []


# --- machine code -----------------------------------------------------------------------------------------------------


def dots(body: list[Stmt]) -> int:
    """Return the most products of whole vectors of pairs that one loop without loops in it holds."""
    inner = [s for s in body if isinstance(s, (Loop, If))]
    nested = max((dots(s.body) for s in inner), default=0)
    here = sum(not isinstance(s, (Loop, If)) and getattr(s, "op", "") == "dot" for s in body)
    return max(nested, here if not inner else 0)


CONTRACTIONS = {
    "matmul": (product(256, 128), ((64, 256),)),
    "convolution": (convolution(32, 16, 3, 3, padding=1), ((4, 16, 14, 14),)),
    "weight gradient": (lambda x, g: ops.matmul(x.T, g), ((64, 256), (64, 128))),
}


@pytest.mark.parametrize("isa", PAIRS)
@pytest.mark.parametrize("name", CONTRACTIONS)
def test_the_inner_loop_is_products_of_pairs(name: str, isa: str) -> None:
    function, shapes = CONTRACTIONS[name]
    with smelt.autocast("bf16"):
        graph = trace(function, [array(*s) for s in shapes])
    lowered = program.lower(graph, unbound(graph), PAIRS[isa])
    (kernel,) = [k for k in lowered.kernels if k.macs]
    code = hottest(functions(jit.compile_assembly(program.module_text(lowered, PAIRS[isa]), PAIRS[isa]))[kernel.name])
    assert code.dots == dots(kernel.body) >= 12, "as many as keep two pipes of six cycles busy"
    assert (code.fmas, code.calls, code.stack_stores) == (0, 0, 0)
    assert code.widest == PAIRS[isa].vector_bytes
    assert len(code.lines) <= 2.6 * code.dots, "mostly products"


@pytest.mark.parametrize("precision", ["bf16", "f16"])
def test_elsewhere_operands_are_widened_once_and_multiplied_in_float32(precision: str) -> None:
    function, shapes = CONTRACTIONS["convolution"]
    with smelt.autocast(precision):
        graph = trace(function, [array(*s) for s in shapes])
    lowered = program.lower(graph, unbound(graph), HASWELL)
    assembly = functions(jit.compile_assembly(program.module_text(lowered, HASWELL), HASWELL))
    (kernel,) = [k for k in lowered.kernels if k.macs]
    code = hottest(assembly[kernel.name])
    assert (code.dots, code.calls, code.stack_stores) == (0, 0, 0) and code.fmas >= 8
    assert {b.dtype for b in kernel.reads} == {"f32"}
    widens = "vpmovzxwd" if precision == "bf16" else "vcvtph2ps"
    kernels = [name for name, lines in assembly.items() if any(x.startswith(widens) for x in lines)]
    assert len(kernels) == 2, "one kernel for each operand"


def test_depthwise_kernels_convert_what_they_load() -> None:
    w = parameter(16, 1, 3, 3)
    with smelt.autocast("bf16"):
        graph = trace(lambda x: nn.functional.conv2d(x, w, padding=1, groups=16), [array(4, 16, 8, 8)])
    (kernel,) = [k for k in program.lower(graph, unbound(graph), ZNVER4).kernels if k.macs]
    assert {b.dtype for b in kernel.reads} == {"bf16"}
