"""Facts about the machine code for three processors, whatever the host: what its loops hold, and what they do not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

import smelt
from smelt import nn, ops
from smelt.compiler import jit, program
from smelt.compiler.loops import If, Instr, Kernel, Loop, Stmt
from smelt.compiler.program import Lowered
from smelt.tensor import Tensor

from .assembly import Code, hottest, innermost_loops
from .isas import COUNTED, ISAS
from .lowering import assemble, lower, training, vector_fmas
from .zoo import CASES, Training

each_isa = pytest.mark.parametrize("isa", ISAS)
MACHINES = {"znver4": 62, "haswell": 62, "cortex-a76": 183}  # of ELF files: x86-64, AArch64


def zeros(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.zeros(shape, dtype)


# --- matrix products and convolutions ---------------------------------------------------------------------


def matmul(isa: str) -> Lowered:
    weight = smelt.Parameter(zeros(256, 128), name="weight")
    return lower(lambda x: x @ weight, [zeros(64, 256)], isa)


def convolution(isa: str) -> Lowered:
    layer = nn.Conv2d(16, 32, 3, padding=1)
    return lower(lambda x: layer(x).relu(), [zeros(4, 16, 14, 14)], isa)


def weight_gradient(isa: str) -> Lowered:
    return lower(lambda x, g: ops.matmul(x.T, g), [zeros(64, 256), zeros(64, 128)], isa, rows=False)


CONTRACTIONS = {"matmul": matmul, "convolution": convolution, "weight gradient": weight_gradient}


def contraction(lowered: Lowered) -> Kernel:
    (kernel,) = [k for k in lowered.kernels if k.macs]
    return kernel


@pytest.mark.parametrize("isa", COUNTED)
@pytest.mark.parametrize("make", CONTRACTIONS.values(), ids=list(CONTRACTIONS))
def test_the_inner_loop_of_a_contraction_is_what_the_loops_say(make: Callable[[str], Lowered], isa: str) -> None:
    lowered = make(isa)
    kernel = contraction(lowered)
    code = hottest(assemble(lowered, isa)[kernel.name])
    assert code.fmas == vector_fmas(kernel.body) >= 8, "as many as keep two pipes of four cycles busy"
    assert (code.scalar_fmas, code.calls, code.stack_stores) == (0, 0, 0)
    assert code.widest == COUNTED[isa].vector_bytes
    assert len(code.lines) <= 2.6 * code.fmas, "mostly multiply-adds"


@each_isa
def test_only_the_float64_scalars_of_the_optimizer_call_the_c_library(isa: str) -> None:
    lowered = training("mnist_cnn", isa, 64)
    code = assemble(lowered, isa)
    calling = [k for k in lowered.kernels if Code(tuple(code[k.name])).calls]
    assert len(calling) == 1
    assert "2 pow" in calling[0].note and not any(isinstance(s, Loop) for s in calling[0].body)


# --- elementwise ------------------------------------------------------------------------------------------


ELEMENTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "arithmetic": lambda x: (x * x + 1.0).relu() / 3.0,
    "sigmoid": lambda x: x.sigmoid(),
    "tanh": lambda x: x.tanh(),
    "exp": lambda x: x.exp(),
    "log": lambda x: x.log(),
    "gelu": nn.functional.gelu,
    "dropout": lambda x: nn.functional.dropout(x, 0.5, True),
    "where": lambda x: smelt.where(x < 0.5, x, x.abs().sqrt()),
}


@each_isa
@pytest.mark.parametrize("function", ELEMENTWISE.values(), ids=list(ELEMENTWISE))
def test_elementwise_kernels_work_on_whole_vectors(function: Callable[[Tensor], Tensor], isa: str) -> None:
    lowered = lower(function, [zeros(64, 256)], isa)
    kernel = lowered.kernels[0]
    code = max(innermost_loops(assemble(lowered, isa)[kernel.name]), key=lambda c: (c.widest, len(c.lines)))
    assert code.widest == ISAS[isa].vector_bytes
    assert (code.scalar_fmas, code.calls, code.stack_stores) == (0, 0, 0)
    scalar = [x for x in code.lines if x.split()[0].endswith(("ss", "sd")) and not x.startswith("vbroadcast")]
    assert scalar == []


@each_isa
def test_sums_along_rows_work_on_whole_vectors(isa: str) -> None:
    lowered = lower(lambda x: (x * x).sum(1), [zeros(64, 256)], isa)
    (kernel,) = lowered.kernels
    (code,) = innermost_loops_with(assemble(lowered, isa)[kernel.name], ("mul", "fma", "fml"))
    assert code.widest == ISAS[isa].vector_bytes and code.calls == 0


def innermost_loops_with(lines: list[str], words: tuple[str, ...]) -> list[Code]:
    return [c for c in innermost_loops(lines) if any(w in x.split()[0] for x in c.lines for w in words)]


# --- the whole step ---------------------------------------------------------------------------------------


@each_isa
@pytest.mark.parametrize("name", ["mnist_cnn", "odd_convolutions", "convolutions_1d", "normalized", "dropout"])
def test_a_step_becomes_an_object_of_its_processor(name: str, isa: str) -> None:
    lowered = training(name, isa, 6 if name != "mnist_cnn" else 64)
    image = jit.compile_object(program.module_text(lowered, ISAS[isa]), ISAS[isa])
    assert image[:4] == b"\x7fELF"
    assert int.from_bytes(image[18:20], "little") == MACHINES[isa]
    assert b"step\0" in image


@each_isa
def test_the_same_step_has_the_same_text_every_time(isa: str) -> None:
    texts = set()
    for _ in range(2):
        case = Training(CASES["convolutions_1d"])
        texts.add(program.module_text(lower(case.step, list(case.case.data(6)), isa), ISAS[isa]))
    assert len(texts) == 1


@each_isa
@pytest.mark.parametrize("name", ["lenet5", "dropout"])
def test_no_float_is_wider_than_a_register(name: str, isa: str) -> None:
    for kernel in training(name, isa, 6).kernels:
        floats = [s.out for s in _instructions(kernel.body) if s.out is not None and s.out.dtype == "f32"]
        assert all(v.lanes * 4 <= ISAS[isa].vector_bytes for v in floats), kernel.name


def _instructions(body: Sequence[Stmt]) -> Iterator[Instr]:
    for s in body:
        if isinstance(s, Instr):
            yield s
        elif isinstance(s, (Loop, If)):
            yield from _instructions(s.body)


@each_isa
def test_the_code_of_a_small_step_stays_small(isa: str) -> None:
    text = program.module_text(training("mnist_cnn", isa, 64), ISAS[isa])
    assert len(jit.compile_object(text, ISAS[isa])) < 100_000


@each_isa
def test_equal_layers_share_one_function(isa: str) -> None:
    lowered = training("ds_cnn", isa, 6)
    text = program.module_text(lowered, ISAS[isa])
    names = re.findall(r"define internal void @([kf]\d+_\w+)", text)
    calls = re.findall(r"call void @([kf]\d+_\w+)", text)
    kernels = len(lowered.kernels)
    assert len(calls) == kernels
    assert set(calls) == set(names)
    assert len(names) < kernels / 3, "four blocks with the same shapes, and optimizer updates of equal sizes"


@pytest.mark.parametrize("isa", ["znver4", "haswell", "sapphirerapids"])
def test_a_bound_that_is_a_number_is_one_instruction(isa: str) -> None:
    """The instruction gives its second operand when one is NaN: no question about NaN is needed beside a constant."""
    code = assemble(lower(lambda x: ops.minimum(ops.relu(x), 6.0), [zeros(64, 256)], isa), isa)
    lines = [line for function in code.values() for line in function]
    assert sum(line.startswith("vmaxps") for line in lines) == sum(line.startswith("vminps") for line in lines) > 0
    assert not any(line.startswith(("vcmp", "vblend")) for line in lines)


def test_ten_classes_are_counted_as_the_registers_they_take() -> None:
    """Ten results are two narrow vectors; as one of 16 lanes, a tile of them was 44 sums in 32 registers."""
    head = nn.Linear(64, 10)
    lowered = lower(lambda x: head(x), [zeros(64, 64)], "znver4")
    (kernel,) = [k for k in lowered.kernels if k.macs]
    loops = [code for code in innermost_loops(assemble(lowered, "znver4")[kernel.name]) if code.fmas]
    assert loops and all(code.stack_stores == 0 for code in loops)
    assert max(code.fmas for code in loops) <= 32
