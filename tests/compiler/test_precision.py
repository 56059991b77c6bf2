"""Steps of reduced precision: compiled equals the interpreter on the same graph; what is rounded, and stored how."""

from __future__ import annotations

import numpy as np
import pytest

import smelt
from smelt import nn, ops
from smelt.compiler import program
from smelt.graph.graph import Node
from smelt.graph.interpret import interpret
from smelt.ops.primitive import HALVES, is_half
from smelt.tensor import Tensor

from .isas import ISAS
from .zoo import CASES, Training

PRECISIONS = ("bf16", "f16")
UNIT = {"bf16": 2.0**-8, "f16": 2.0**-11}
DEEP = ("ds_cnn", "resnet8", "autoencoder")
each_precision = pytest.mark.parametrize("precision", PRECISIONS)


def distance(got: np.ndarray, want: np.ndarray) -> float:
    """Return the error relative to what is wanted, both as lengths of vectors."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    return float(np.linalg.norm((got - want).ravel()) / max(np.linalg.norm(want.ravel()), 1e-3))


@each_precision
@pytest.mark.parametrize("name", CASES)
def test_a_compiled_step_is_what_the_interpreter_makes_of_its_graph(name: str, precision: str) -> None:
    """As in float32, but that a sum's last bit now and then decides a rounding; many normalizations amplify that."""
    bound = 0.1 if name in DEEP else UNIT[precision] / 2
    case = Training(CASES[name], optimizer_name="sgd")
    x, y = case.case.data(32 if name == "autoencoder" else 6)
    smelt.seed(3)
    step = smelt.compile(case.step, precision=precision)
    step(x, y)
    variant = step._variants[0]
    before = [t.numpy().copy() for t in variant.tensors]
    loss = step(x, y).item()
    (want,), updates = interpret(step.graph, [x, y], before)
    after = {node: t.numpy() for node, t in zip(step.graph.states, variant.tensors, strict=True)}
    assert any(is_half(n.dtype) for n in step.graph.nodes())
    assert abs(loss - want) <= 2 * UNIT[precision] * abs(want)
    for state, update in zip(step.graph.updates, updates, strict=True):
        if state.dtype.kind == "f":
            assert distance(after[state], update) <= bound, state.name
        else:
            np.testing.assert_array_equal(after[state], update)


def half_nodes(step: smelt.runtime.step.Compiled) -> list[Node]:
    return [n for n in step.graph.nodes() if is_half(n.dtype)]


@each_precision
def test_activations_are_stored_once_and_in_16_bits(precision: str) -> None:
    """What the convolution's kernel writes is in 16 bits, or a number of a winner; there is no mask of every pixel."""
    case = Training(CASES["mnist_cnn"])
    step = smelt.compile(case.step, precision=precision)
    step(*case.case.data(6))
    lowered = program.lower(step.graph, dict.fromkeys(step.graph.states), ISAS["znver4"])
    convolution = next(k for k in lowered.kernels if "conv2d +" in k.note)
    assert precision in {b.dtype for b in convolution.writes if b.kind == "arena"} <= {precision, "u8"}
    whole = {b for k in lowered.kernels for b in k.writes if b.kind == "arena" and b.size >= 6 * 32 * 28 * 28}
    copies = {b for k in lowered.kernels for b in k.writes if k.note == "copy"}
    assert {b.dtype for b in whole - copies} == {precision}, "nothing of the images' size in float32"
    assert precision == "f16" or {b.dtype for b in whole} == {precision}, "nor do products of pairs need it"


def test_a_weight_is_rounded_once_for_all_its_uses() -> None:
    case = Training(CASES["mnist_cnn"])
    step = smelt.compile(case.step, precision="bf16")
    step(*case.case.data(6))
    weights = [n for n in step.lowered().graph.nodes() if is_half(n.dtype) and n.inputs[0].kind == "state"]
    assert len(weights) == len({id(n.inputs[0]) for n in weights}) == 3


@each_precision
def test_results_and_updates_keep_their_32_bits(precision: str) -> None:
    w = smelt.Parameter(np.full((4, 4), 1.0 + 2.0**-20, np.float32))

    @smelt.compile(precision=precision)
    def step(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x @ w
        w.assign(w * 1.0)
        return y, y @ w

    y, _ = step(np.full((2, 4), 0.25 + 2.0**-20, np.float32))
    assert y.tolist() == [[1.0] * 4] * 2 and w.tolist() == [[1.0 + 2.0**-20] * 4] * 4


@each_precision
def test_conversions_are_those_of_numpy(precision: str) -> None:
    """Every float32 whose rounding is at stake: ties, the largest numbers, infinities, NaN; no denormals."""
    half = HALVES[precision]
    bits = np.arange(2**16, dtype=np.uint16).view(half).astype(np.float32)
    ties = bits.view(np.uint32)[:, None] + np.uint32(2 ** (15 if precision == "bf16" else 12)) + np.array([-1, 0, 1])
    x = np.concatenate([bits, ties.astype(np.uint32).view(np.float32).ravel()])
    x[np.abs(x) < 2.0**-120] = 0
    one = np.ones((1, 1), np.float32)
    step = smelt.compile(lambda x: ops.matmul(x, smelt.tensor(one)), precision=precision)
    with np.errstate(all="ignore"):
        want = x.astype(half).astype(np.float32)
    got = step(x[:, None]).numpy()[:, 0]
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("isa", ISAS)
@each_precision
def test_a_step_becomes_an_object_of_any_processor(isa: str, precision: str) -> None:
    case = Training(CASES["odd_convolutions"])
    step = smelt.compile(case.step, precision=precision)
    step(*case.case.data(4))
    text = program.module_text(program.lower(step.graph, dict.fromkeys(step.graph.states), ISAS[isa]), ISAS[isa])
    assembly = smelt.compiler.jit.compile_assembly(text, ISAS[isa])
    assert "truncsf" not in assembly and "extendhf" not in assembly, "no library function converts"


def test_precision_is_part_of_what_a_call_must_share(capsys: pytest.CaptureFixture[str]) -> None:
    layer = nn.Linear(3, 2)
    step = smelt.compile(layer)
    x = np.ones((2, 3), np.float32)
    step(x)
    with smelt.autocast("bf16"):
        step(x)
    step(x)
    assert step.traces == 2
    assert "the precision is bf16, it was f32" in capsys.readouterr().err


@pytest.mark.parametrize("make", [lambda p: smelt.compile(abs, precision=p), lambda p: smelt.autocast(p).__enter__()])
def test_a_wrong_name_is_refused(make: object) -> None:
    with pytest.raises(ValueError, match="precision: expected one of 'f32', 'bf16', 'f16', received 'fp8'"):
        make("fp8")  # type: ignore[operator]


def test_eager_gradients_do_not_need_the_context() -> None:
    """The gradient of a rounded product rounds, wherever ``backward`` is called."""
    w = smelt.Parameter(np.full((1, 1), 1.00390625, np.float32))
    x = smelt.tensor([[3.0]])
    with smelt.autocast("bf16"):
        y = (x @ w).sum()
    (y * 1.00390625).backward()
    assert y.item() == 3.0 and w.grad is not None and w.grad.item() == 3.0
