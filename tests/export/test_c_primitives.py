"""Every primitive as compiled C against its NumPy evaluation: the samples of the shared matrix, and special values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ops.matrix import NAMES, SUMS, TRANSCENDENTAL, Case, cases, special_cases

from smelt.autograd import no_grad
from smelt.compiler.emit.c import CUnit
from smelt.compiler.emit.expressions import TYPE
from smelt.export.c99.network import Network, of_graph
from smelt.graph.trace import Tracer
from smelt.ops import Spec
from smelt.ops.primitive import short_dtype
from smelt.tensor import Tensor

from .compilers import need
from .many import load

STATE = ("random_uniform", "advance_random")


def networks(dtype: str) -> list[tuple[Case, Network]]:
    names = [n for n in NAMES if n not in STATE]
    out = []
    for case in (*cases(names, dtype, ("contiguous",)), *special_cases(names, dtype)):
        tracer = Tracer(case.primitive.name)
        with no_grad(), tracer:
            inputs = [Tensor(tracer.input(f"x{i}", Spec(a.shape, a.dtype))) for i, a in enumerate(case.arrays)]
            graph = tracer.finish([tracer.lift(case.primitive(*inputs, **case.attrs))])
        written = all(short_dtype(n.dtype) in TYPE for n in graph.nodes())
        if written and all(n.spec.size for n in (*graph.inputs, *graph.outputs)):
            out.append((case, of_graph(graph, [], [""] * len(inputs), False, CUnit())))
    return out


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("compiler", ["cc", "tcc"])
def test_primitives_in_c_are_what_numpy_computes(dtype: str, compiler: str, tmp_path: Path) -> None:
    cc = need(compiler)
    nets = networks(dtype)
    assert len(nets) > 380
    assert {c.primitive.name for c, _ in nets} == set(NAMES) - set(STATE)
    for (case, _), call in zip(nets, load([net for _, net in nets], cc, tmp_path), strict=True):
        given = [np.array(a, order="C") for a in case.arrays]
        (found,) = call(*given)
        with np.errstate(all="ignore"):
            expected = np.asarray(case.primitive.evaluate(*given, **case.attrs))
            assert_close(case, found, expected)


def assert_close(case: Case, found: np.ndarray, expected: np.ndarray) -> None:
    name, digits = case.primitive.name, 1e-6 if expected.dtype == np.float32 else 1e-14
    if name in SUMS:
        largest = max((float(np.abs(a).max()) for a in (*case.arrays, expected) if a.dtype.kind == "f"), default=0.0)
        np.testing.assert_allclose(found, expected, rtol=0, atol=16 * digits * largest, err_msg=case.id)
    elif name in TRANSCENDENTAL:
        np.testing.assert_allclose(found, expected, rtol=4 * digits, atol=1e-37, err_msg=case.id)
    else:
        np.testing.assert_array_equal(found, expected, err_msg=case.id)
