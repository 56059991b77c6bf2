"""Executables: programs bound to arrays, called from several threads, rebound, interrupted."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

import smelt
from smelt.compiler import program
from smelt.runtime.executable import Executable, Frame
from smelt.tensor import Tensor

X = np.random.default_rng(0).normal(size=(32, 48)).astype(np.float32)
W = np.random.default_rng(1).normal(size=(48, 16)).astype(np.float32)


def linked(function: Callable[[Tensor], object], *states: np.ndarray, private: bool = False) -> Executable:
    """Return the executable of a traced function of X, bound to other arrays than its tensors."""
    traced = smelt.compile(function)
    traced(X)
    graph = traced.graph
    built = program.build(
        graph, {s: tuple(t // 4 for t in a.strides) for s, a in zip(graph.states, states, strict=True)}
    )
    return Executable(built, graph, states, private)


def product(private: bool) -> Executable:
    w = smelt.Parameter(W)
    return linked(lambda x: ((x @ w).relu() @ w.T).sum(1), W.copy(), private=private)


def together(count: int, body: Callable[[int], None]) -> None:
    """Run a function in several threads; raise what any of them raised."""
    errors: list[BaseException] = []

    def guarded(i: int) -> None:
        try:
            body(i)
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for e in errors:
        raise e


@pytest.mark.parametrize("private", [False, True])
def test_threads_get_the_bits_one_thread_gets(private: bool) -> None:
    executable = product(private)
    inputs = [X * (i + 1) for i in range(8)]
    want = [executable.call([x], 32)[0].tobytes() for x in inputs]

    def body(i: int) -> None:
        for k in range(200):
            n = 32 - k % 5
            (got,) = executable.call([inputs[i]], n)
            assert got.tobytes() == want[i][: 4 * n]

    together(8, body)
    assert len(executable._made) <= 2 * smelt.runtime.workers.default_threads()


def test_states_are_rebound_between_calls_and_under_them() -> None:
    executable = product(private=True)
    a = executable.call([X], 32)[0].tobytes()
    executable.rebind([2 * W])
    b = executable.call([X], 32)[0].tobytes()
    assert a != b
    stop = threading.Event()

    def rebind() -> None:
        while not stop.is_set():
            executable.rebind([W.copy()])
            executable.rebind([2 * W])

    thread = threading.Thread(target=rebind)
    thread.start()
    try:
        together(3, lambda i: [ok(executable.call([X], 32)[0].tobytes() in (a, b)) for _ in range(200)] and None)
    finally:
        stop.set()
        thread.join()


def ok(condition: bool) -> None:
    assert condition


def test_a_lost_frame_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    executable = product(private=True)
    want = executable.call([X], 32)[0].tobytes()
    executable._most = 1
    frame: Frame | None = executable._free.get_nowait()
    timer = threading.Timer(0.15, lambda: None)
    timer.start()
    results: list[bytes] = []
    waiting = threading.Thread(target=lambda: results.append(executable.call([X], 32)[0].tobytes()))
    waiting.start()
    timer.join()
    assert frame is not None and results == []
    frame = None
    waiting.join(30)
    assert results == [want]


def test_readers_never_see_half_a_step() -> None:
    """A step adds one to two tensors; whoever reads them sees the same number in both."""
    a, b = Tensor(np.zeros(5000, np.float32)), Tensor(np.zeros(5000, np.float32))

    @smelt.compile
    def step(x: Tensor) -> None:
        a.assign(a + x)
        b.assign(b + x)

    @smelt.compile
    def difference(x: Tensor) -> Tensor:
        return ((a - b) * x).abs().sum()

    one = np.ones((), np.float32)
    step(one), difference(one)

    def body(i: int) -> None:
        for _ in range(300):
            if i == 0:
                step(one)
            else:
                assert difference(one).item() == 0.0

    together(4, body)
    assert a.numpy()[0] == 301.0
