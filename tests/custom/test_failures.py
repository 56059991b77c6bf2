"""A user's function that raises: its exception comes out of the step, and the step has changed nothing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import smelt
from smelt import TraceError, nn, optim
from smelt.tensor import Tensor

RNG = np.random.default_rng(8)
X = RNG.normal(size=(12, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 12)


class Refused(Exception):
    """What the functions here raise."""


class Switch:
    """A custom identity that fails on demand: ``fail`` is "", "forward" or "backward"."""

    def __init__(self) -> None:
        self.fail = ""
        self.error: Callable[[], BaseException] = lambda: Refused("on demand")
        self.threads: set[int] = set()
        back = smelt.custom_op(lambda g, y, x: self._run("backward", g), name="back")
        self.op = smelt.custom_op(lambda x: self._run("forward", x), gradient=back, name="front")

    def _run(self, where: str, x: np.ndarray) -> np.ndarray:
        self.threads.add(threading.get_ident())
        if self.fail == where:
            raise self.error()
        return x


class Net(nn.Module):
    """Everything that keeps state: parameters, running statistics, random numbers; the switch in the middle."""

    def __init__(self, switch: Switch) -> None:
        super().__init__()
        self.op = switch.op
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)
        self.norm, self.dropout = nn.BatchNorm1d(16), nn.Dropout(0.25)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.dropout(self.op(self.norm(self.first(x)))))


class Training:
    def __init__(self) -> None:
        smelt.seed(4)
        self.switch = Switch()
        self.model = Net(self.switch)
        self.optimizer = optim.Adam(self.model.parameters(), lr=0.01)
        self.step = smelt.compile(self._step)

    def _step(self, x: Tensor, y: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss

    def state(self) -> dict[str, bytes]:
        """Return the bytes of everything the step changes."""
        found = {**self.model.state_dict(), **self.optimizer.state_dict(), **smelt.random.get_state()}
        return {name: np.asarray(value).tobytes() for name, value in found.items()}


@pytest.fixture(params=[1, 2, 5])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    smelt.set_threads(request.param)
    yield request.param
    smelt.set_threads(None)


def train(where: str) -> tuple[list[float], dict[str, bytes]]:
    """Return the losses of four steps, and the state they leave; before three of them, steps fail ``where``."""
    training = Training()
    losses = []
    for i in range(4):
        if i != 1 and where:
            before = training.state()
            training.switch.fail = where
            with pytest.raises(Refused, match="on demand") as caught:
                training.step(X, Y)
            assert training.state() == before
            (note,) = caught.value.__notes__
            name = {"forward": "front", "backward": "back"}[where]
            assert note.startswith(f"{name} was called by a compiled step; no state was changed by this step  [test_f")
            assert caught.traceback[-1].name == "_run"
            training.switch.fail = ""
        losses.append(training.step(X, Y).item())
    assert training.switch.threads == {threading.get_ident()}
    return losses, training.state()


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_the_exception_comes_out_and_no_state_has_changed(where: str, threads: int) -> None:
    losses, state = train("")
    assert len(state) > 20 and len(set(losses)) == 4
    assert train(where) == (losses, state)


def test_state_that_a_function_reads_after_its_update_is_kept_too() -> None:
    switch = Switch()
    w = Tensor(np.arange(4, dtype=np.float32), name="w")
    v = Tensor(np.zeros(4, np.float32), name="v")

    @smelt.compile
    def step() -> Tensor:
        w.assign(w * 2.0 + 1.0)
        v.assign(v + 1.0)
        return switch.op(w) + v

    assert step().numpy().tolist() == [2.0, 4.0, 6.0, 8.0]
    switch.fail = "forward"
    with pytest.raises(Refused):
        step()
    assert (w.tolist(), v.tolist()) == ([1.0, 3.0, 5.0, 7.0], [1.0] * 4)
    switch.fail = ""
    assert step().numpy().tolist() == [5.0, 9.0, 13.0, 17.0]


def test_of_two_functions_that_fail_at_once_the_first_is_named() -> None:
    a = smelt.custom_op(lambda x: 1 / 0, name="a")
    b = smelt.custom_op(lambda x: [][0], name="b")
    with pytest.raises((ZeroDivisionError, IndexError)) as caught:
        smelt.compile(lambda x: a(x) + b(x))(X)
    name = {ZeroDivisionError: "a", IndexError: "b"}[type(caught.value)]
    assert caught.value.__notes__[0].startswith(f"{name} was called by a compiled step")
    assert smelt.compile(lambda x: x + 1.0)(X).shape == X.shape


def test_gradients_left_by_backward_are_state() -> None:
    switch = Switch()
    w = smelt.Parameter([1.0, 2.0])
    step = smelt.compile(lambda: switch.op(w * w).sum().backward())
    step()
    step()
    assert w.grad is not None and w.grad.tolist() == [4.0, 8.0]
    switch.fail = "backward"
    with pytest.raises(Refused):
        step()
    assert w.grad.tolist() == [4.0, 8.0]


def test_any_exception_comes_out_even_an_interrupt() -> None:
    training = Training()
    training.step(X, Y)
    training.switch.fail = "forward"
    for error in (KeyboardInterrupt(), SystemExit(3), StopIteration("x"), MemoryError()):
        training.switch.error = lambda error=error: error
        with pytest.raises(type(error)) as caught:
            training.step(X, Y)
        assert caught.value is error
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        training.switch.error = lambda: signal.raise_signal(signal.SIGINT) or Refused("too late")
        with pytest.raises(KeyboardInterrupt):
            training.step(X, Y)
    finally:
        signal.signal(signal.SIGINT, before)
    training.switch.fail = ""
    assert np.isfinite(training.step(X, Y).item())


def test_an_exception_that_no_one_could_catch_is_not_taken_for_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt may fall before the callback's own ``try``: ctypes then prints it and returns anything."""
    from smelt.runtime import calls

    original = calls.PROTOTYPE

    def interrupted(call: Callable[..., int]) -> Any:
        def before(*args: int) -> int:
            raise KeyboardInterrupt

        return original(before)

    monkeypatch.setattr(calls, "PROTOTYPE", interrupted)
    printed: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", printed.append)
    w = Tensor(np.ones(3, np.float32))
    step = smelt.compile(lambda: w.assign(Switch().op(w) + 1.0))
    with pytest.raises(RuntimeError, match="front was interrupted; no state was changed by this step"):
        step()
    assert w.tolist() == [1.0] * 3
    assert [p.exc_type for p in printed] == [KeyboardInterrupt]


@pytest.mark.parametrize("inner", ["reads", "writes"])
@pytest.mark.parametrize("outer", ["reads", "writes"])
def test_a_compiled_function_inside_never_waits_for_itself(inner: str, outer: str) -> None:
    counts = [Tensor(np.zeros((), np.float32)) for _ in range(2)]

    def make(function: Callable[[Any], Any], kind: str, count: Tensor) -> Any:
        def step(x: Tensor) -> Tensor:
            if kind == "writes":
                count.assign(count + 1.0)
            return function(x)

        return smelt.compile(step)

    double = make(lambda x: x * 2.0, inner, counts[0])
    double(X)
    op = smelt.custom_op(lambda x: double(x).numpy())
    step = make(op, outer, counts[1])
    if inner == outer == "reads":
        assert step(X).numpy().tobytes() == (X * 2).tobytes()
        return
    with pytest.raises(TraceError, match=r"a compiled function cannot be called by a custom operation .*\[test_fail"):
        step(X)
    assert [c.item() for c in counts] == [float(inner == "writes"), 0.0]


def test_compiling_inside_is_refused_and_eager_operations_are_not() -> None:
    fresh = smelt.custom_op(lambda x: smelt.compile(lambda x: x * 2.0)(x).numpy())
    with pytest.raises(TraceError, match="a compiled function cannot be called by a custom operation"):
        smelt.compile(fresh)(X)
    eager = smelt.custom_op(lambda x: (Tensor(x) * 2.0).numpy())
    assert smelt.compile(eager)(X).numpy().tobytes() == (X * 2).tobytes()


def test_denormals_are_kept_in_numpy_functions() -> None:
    small = np.full(4, 1e-40, np.float32)
    seen: list[float] = []
    op = smelt.custom_op(lambda x: seen.append(float(np.float32(1e-39) / np.float32(2))) or x + np.float32(0))
    assert smelt.compile(op)(small).numpy().tobytes() == small.tobytes()
    assert seen[0] > 0


def test_several_python_threads_may_step_at_once() -> None:
    op = smelt.custom_op(lambda x: x * 2)
    step = smelt.compile(lambda x: op(x) + 1.0)
    step(X)
    wrong: list[int] = []

    def work(seed: int) -> None:
        x = np.random.default_rng(seed).normal(size=(12, 6)).astype(np.float32)
        for _ in range(30):
            if step(x).numpy().tobytes() != (x * 2 + 1).tobytes():
                wrong.append(seed)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for t in workers:
        t.start()
    for t in workers:
        t.join()
    assert wrong == []
