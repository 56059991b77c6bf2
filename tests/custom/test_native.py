"""Custom operations of native functions, from C through ctypes, Numba and Cython: the same contract for all."""

from __future__ import annotations

import copy
import ctypes
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import smelt
from smelt import ShapeError, nn, optim
from smelt.ops import Rows, Spec
from smelt.ops.custom import PROTOTYPE, SLICES
from smelt.tensor import Tensor

from .native import LIBRARY, bent, c_swish, refuse_negative, row_scale, rows_of_call

RNG = np.random.default_rng(9)
X = RNG.normal(size=(40, 7)).astype(np.float32)
W = RNG.normal(size=7).astype(np.float32)
CYTHON = """
from libc.math cimport expf
from libc.stdint cimport int32_t, int64_t

cdef api int32_t swish(
    const void **inputs, void **outputs, const int64_t *sizes, const int64_t **shapes
) noexcept nogil:
    cdef const float *x = <const float *>inputs[0]
    cdef float *y = <float *>outputs[0]
    cdef int64_t i
    for i in range(sizes[0]):
        y[i] = x[i] / (1 + expf(-x[i]))
    return 1

cdef api double other(double x) noexcept nogil:
    return x
"""


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    yield
    smelt.set_threads(None)


@pytest.fixture(scope="module")
def capsules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the capsules of the module that Cython makes of ``CYTHON``."""
    pytest.importorskip("Cython")
    folder = tmp_path_factory.mktemp("cython")
    (folder / "swish_c.pyx").write_text(f"# cython: language_level=3\n{CYTHON}")
    command = [sys.executable, "-m", "Cython.Build.Cythonize", "-i", "-q", "swish_c.pyx"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (path,) = Path(folder).glob("swish_c.*.so")
    spec = importlib.util.spec_from_file_location("swish_c", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.__pyx_capi__


def numba_swish() -> Any:
    numba = pytest.importorskip("numba")
    t = numba.types
    pointers = t.CPointer(t.voidptr)
    signature = t.int32(pointers, pointers, t.CPointer(t.int64), t.CPointer(t.CPointer(t.int64)))

    @numba.cfunc(signature)
    def swish(inputs, outputs, sizes, shapes):  # type: ignore[no-untyped-def]
        x = numba.carray(inputs[0], (shapes[0][0], shapes[0][1]), np.float32)
        y = numba.carray(outputs[0], (shapes[1][0], shapes[1][1]), np.float32)
        for i in range(x.shape[0]):
            for j in range(x.shape[1]):
                if x[i, j] == 1000:
                    raise ValueError("a thousand")
                y[i, j] = x[i, j] / (1 + np.exp(-x[i, j]))
        return 1

    return swish


def check_swish(function: Any) -> None:
    op = smelt.custom_op(function, inputs=[("float32", 2)], per_sample=True, gradient=c_swish._op.function.gradient)
    np.testing.assert_allclose(op(Tensor(X)).numpy(), X / (1 + np.exp(-X)), rtol=1e-5)
    step = smelt.compile(lambda x: op(x + 0.0))
    for rows in (40, 3, 39):
        assert step(X[:rows]).numpy().tobytes() == op(Tensor(X[:rows])).numpy().tobytes()
    assert step.traces == 1
    x = Tensor(X, requires_grad=True)
    op(x).sum().backward()
    s = 1 / (1 + np.exp(-X))
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), s + X * s * (1 - s), rtol=1e-4, atol=1e-6)


def test_a_function_of_ctypes() -> None:
    check_swish(LIBRARY.c_swish)
    assert c_swish.name == "c_swish"


def test_a_function_of_ctypes_with_declared_types() -> None:
    check_swish(PROTOTYPE(("c_swish", LIBRARY)))


def test_a_cfunc_of_numba() -> None:
    check_swish(numba_swish())


def test_a_capsule_of_cython(capsules: dict[str, Any]) -> None:
    check_swish(capsules["swish"])
    with pytest.raises(TypeError, match=r"expected a capsule of a function int32_t f\(.*received 'double \(double\)'"):
        smelt.custom_op(capsules["other"], inputs=["float32"])


def test_an_exception_in_a_cfunc_of_numba_ends_the_step() -> None:
    op = smelt.custom_op(numba_swish(), inputs=[("float32", 2)], per_sample=True)
    w = Tensor(np.ones((40, 7), np.float32))
    step = smelt.compile(lambda x: w.assign(w + op(x)))
    bad = X.copy()
    bad[17, 3] = 1000
    printed: list[Any] = []
    before, sys.unraisablehook = sys.unraisablehook, printed.append
    try:
        for call in (op, step):
            with pytest.raises(RuntimeError, match=r"swish returned 0, expected 1 \(done\).*\[test_native.py"):
                call(Tensor(bad))
    finally:
        sys.unraisablehook = before
    assert [str(p.exc_value) for p in printed] == ["a thousand"] * 2
    assert (w.numpy() == 1).all()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_status_ends_the_step_and_changes_no_state(threads: int) -> None:
    smelt.set_threads(threads)
    w = Tensor(np.zeros((40, 7), np.float32))
    step = smelt.compile(lambda x: w.assign(refuse_negative(x) + w))
    for i in range(1, 4):
        step(np.abs(X))
        np.testing.assert_allclose(w.numpy(), np.abs(X) * i, rtol=1e-6)
        message = (
            r"refuse_negative returned 7, expected 1 \(done\); no state was changed by this step  \[test_native.py"
        )
        with pytest.raises(RuntimeError, match=message):
            step(X)
        np.testing.assert_allclose(w.numpy(), np.abs(X) * i, rtol=1e-6)


def test_where_the_batch_is_cut_does_not_depend_on_threads() -> None:
    x = np.zeros((200, 3), np.float32)
    seen = []
    step = smelt.compile(lambda x: rows_of_call(x * 1.0))
    for threads in (1, 2, 3, 8):
        smelt.set_threads(threads)
        seen += [step(x).numpy().tobytes(), rows_of_call(Tensor(x)).numpy().tobytes()]
    assert len(set(seen)) == 1
    counts = np.frombuffer(seen[0], np.float32).reshape(200, 3)[:, 0]
    assert set(counts) == {200 // SLICES, 200 // SLICES + 1}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(7, 33), nn.Linear(33, 2)
        self.scale = smelt.Parameter(np.ones(33, np.float32))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(bent(row_scale(c_swish(self.first(x)), self.scale)))


def train(threads: int | None, steps: int, compiled: bool = True) -> tuple[list[float], dict[str, np.ndarray]]:
    smelt.set_threads(threads)
    smelt.seed(2)
    model = Net()
    optimizer = optim.Adam(model.parameters(), lr=0.02)

    def step(x: Tensor, y: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    run = smelt.compile(step) if compiled else step
    x, y = Tensor(X), Tensor((X[:, 0] * X[:, 1] > 0).astype(np.int64))
    return [run(x, y).item() for _ in range(steps)], model.state_dict()


def test_training_learns_as_eagerly() -> None:
    losses, _ = train(None, 25)
    assert losses[-1] < 0.5 * losses[0]
    eager, _ = train(None, 25, compiled=False)
    np.testing.assert_allclose(losses, eager, rtol=2e-3, atol=1e-4)


def test_training_is_the_same_for_any_number_of_threads() -> None:
    losses, weights = train(1, 5)
    for threads in (2, 3, 8):
        again, same = train(threads, 5)
        assert again == losses
        assert all(same[name].tobytes() == value.tobytes() for name, value in weights.items())


def test_a_copy_of_a_model_calls_the_same_function() -> None:
    model = Net()
    model.activation = c_swish
    twin = copy.deepcopy(model)
    assert twin.activation is c_swish and twin.scale is not model.scale
    assert twin(Tensor(X)).numpy().tobytes() == model(Tensor(X)).numpy().tobytes()


def test_operands_are_checked_before_native_code_sees_them() -> None:
    for operands, message in (
        ((X.astype(np.float64), W), r"row_scale: expected operand 0 to be float32 of 2 axes, received f64\[40, 7\]"),
        ((X[0], W), r"row_scale: expected operand 0 to be float32 of 2 axes, received f32\[7\]"),
        ((X,), "row_scale: expected 2 operands, received 1"),
    ):
        for f in (row_scale, smelt.compile(lambda *x: row_scale(*x))):
            with pytest.raises(ShapeError, match=message + r".*\[test_native.py"):
                f(*map(Tensor, operands))


def test_a_per_sample_function_has_one_size_of_the_first_axis() -> None:
    pairs = smelt.custom_op(LIBRARY.same, inputs=["float32"] * 2, per_sample=True, name="pairs")
    for operands, message in (
        ((X, W), r"expected one size of the first axis, received f32\[40, 7\], f32\[7\] and results f32\[40, 7\]"),
        ((np.float32(1), np.float32(1)), r"expected one size of the first axis, received f32\[\], f32\[\]"),
    ):
        with pytest.raises(ShapeError, match="pairs works on samples: " + message):
            pairs(*map(Tensor, operands))
    with pytest.raises(ShapeError, match="expected at least 4 operands, received 1"):
        smelt.custom_op(LIBRARY.same, inputs=["float32"], per_sample=[0, 3])(Tensor(X))
    for wrong in ("yes", [-1], [], [True]):
        with pytest.raises(ValueError, match="expected per_sample to be a bool or numbers of operands, received"):
            smelt.custom_op(LIBRARY.same, inputs=["float32"], per_sample=wrong)


def test_which_operands_hold_samples_decides_what_follows_the_batch() -> None:
    batch, fixed = Spec((6, 5), np.dtype("f4"), Rows(0)), Spec((6, 5), np.dtype("f4"))

    def rows(per_sample: Any, *specs: Spec) -> Any:
        op = smelt.custom_op(LIBRARY.same, inputs=["float32"] * 2, per_sample=per_sample)
        return [s.exact or s.rows for s in op._op.function.infer(specs)]

    assert rows(True, batch, batch) == [Rows(0)]
    assert rows(True, fixed, fixed) == [None]
    assert rows([0], batch, fixed) == [Rows(0)]
    wrong = ["same: the batch is not the operands that hold samples"]
    assert rows(True, batch, fixed) == rows([0], batch, batch) == rows([1], batch, fixed) == wrong


def test_a_function_that_is_not_per_sample_sees_the_true_batch() -> None:
    whole = smelt.custom_op(LIBRARY.rows_of_call, inputs=["float32"])
    f = smelt.compile(lambda x: whole(x * 1.0))
    for rows in (40, 7, 1):
        assert set(f(X[:rows]).numpy().ravel()) == {rows}
    assert f.traces == 1


def test_what_is_no_such_function_is_refused() -> None:
    double = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(ctypes.cast(LIBRARY.bent, ctypes.c_void_p).value)
    nothing = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4)(ctypes.cast(LIBRARY.bent, ctypes.c_void_p).value)
    for function, message in (
        (double, r"expected a native function int32_t f\(.*received one of \(c_double\) that returns c_double"),
        (nothing, "that returns None"),
        (PROTOTYPE(0), "received a null pointer"),
        (PROTOTYPE(lambda *_: 1), "received a Python function wrapped by ctypes, expected the function itself"),
        (ctypes.pythonapi.Py_IncRef, "expected a native function"),
        (np.datetime_data, None),
    ):
        if message is None:
            smelt.custom_op(function)
            continue
        with pytest.raises(TypeError, match=rf"custom_op: .*{message}.*\[test_native.py"):
            smelt.custom_op(function, inputs=["float32"])
    with pytest.raises(ValueError, match=r"expected inputs=\.\.\.\s.*\[test_native.py"):
        smelt.custom_op(LIBRARY.bent)


def test_a_program_from_the_cache_calls_the_function_of_this_process(tmp_path: Path) -> None:
    """The address of a function is never part of what is cached."""
    script = (
        "import ctypes, sys, numpy as np, smelt\n"
        "f = ctypes.CDLL(sys.argv[1]).c_swish\n"
        "op = smelt.custom_op(f, inputs=['float32'], per_sample=True)\n"
        "y = smelt.compile(lambda x: op(x) * 2.0)(np.ones((3, 4), np.float32))\n"
        "print(round(float(y.numpy()[0, 0]), 4))\n"
    )
    import os

    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    printed = []
    for name in ("first.so", "second.so"):
        library = tmp_path / name
        library.write_bytes(Path(LIBRARY._name).read_bytes())
        done = subprocess.run(
            [sys.executable, "-c", script, str(library)], env=env, capture_output=True, text=True, check=True
        )
        printed.append(done.stdout.strip())
    assert printed == ["1.4621", "1.4621"]
    objects = list((tmp_path / "smelt" / "objects").glob("*.bin"))
    assert len(objects) == 2  # the step and the team's code: the second process compiled nothing
