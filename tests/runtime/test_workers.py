"""Worker threads: they park and wake, survive forks and signals, leave no memory behind and end with the process."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

import smelt
from smelt.runtime import workers
from smelt.runtime.native import OFFSETS
from smelt.tensor import Tensor

from .processes import finish, run, start

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
X = np.random.default_rng(0).normal(size=(300, 70)).astype(np.float32)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    yield
    smelt.set_threads(None)


def parked(count: int) -> int:
    """Return how many of the first ``count`` workers sleep."""
    flags = workers.team().memory[OFFSETS["SLOTS"] :].view(np.int64)[::8]
    return int((flags[1 : count + 1] == 1).sum())


def wait_until_parked(count: int) -> None:
    deadline = time.monotonic() + 60
    while parked(count) < count and time.monotonic() < deadline:
        time.sleep(0.005)
    assert parked(count) == count


def test_idle_workers_sleep_and_wake_for_the_next_step() -> None:
    smelt.set_threads(3)
    double = smelt.compile(lambda x: (x * 2).sum(1))
    x = np.tile(X, (40, 1))  # long enough to be worth waking them
    want = double(x).numpy()
    for _ in range(5):
        wait_until_parked(2)
        for _ in range(3):
            np.testing.assert_array_equal(double(x).numpy(), want)


def test_a_short_step_does_not_wait_for_a_sleeping_worker() -> None:
    smelt.set_threads(3)
    double = smelt.compile(lambda x: x * 2)
    x = X[:1]
    for _ in range(100):
        wait_until_parked(2)
        assert double(x).tolist() == (x * 2).tolist()
        if parked(2) == 2:
            return
    raise AssertionError("it woke them every time")


@linux
def test_sleeping_workers_use_no_processor_time() -> None:
    script = """
        smelt.set_threads(4)
        step, _ = training()
        step(X)
        flags = workers.team().memory[workers.OFFSETS['SLOTS']:].view(np.int64)[::8]
        while (flags[1:4] == 1).sum() < 3:
            time.sleep(0.01)
        before = time.process_time()
        time.sleep(0.5)
        print(time.process_time() - before < 0.1)
    """
    assert run(script) == "True"


def test_more_threads_than_processors_finish_and_agree() -> None:
    product = smelt.compile(lambda x: ((x @ x.T).relu() @ x).sum(0))
    results = []
    for threads in (1, 8, 16, 2, 8):
        smelt.set_threads(threads)
        results += [product(X).numpy().tobytes() for _ in range(20)]
    assert len(set(results)) == 1


def test_the_team_grows_after_use_and_never_more_than_asked() -> None:
    script = """
        step, model = training()
        for threads in (1, 2, 5, 3, 6, 1):
            smelt.set_threads(threads)
            step(X)
            print(sum(t.name.startswith("smelt-") for t in threading.enumerate()), end=" ")
    """
    assert run(script) == "0 1 4 4 5 5"


@pytest.mark.parametrize("count", [0, -1, 65])
def test_a_wrong_number_of_threads_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=rf"expected 1 to 64 or None, received {count}"):
        smelt.set_threads(count)


def test_calls_from_several_threads_do_not_mix() -> None:
    counter = Tensor(np.zeros((), np.float64))

    @smelt.compile
    def count(x: Tensor) -> tuple[Tensor, Tensor]:
        counter.assign(counter + 1.0)
        return counter * 1.0, (x * 2).sum(1)

    other = smelt.compile(lambda x: (x * 3).sum(1))
    seen: list[float] = []
    wrong: list[int] = []

    def call(number: int) -> None:
        mine = X[: 20 * (number + 1)] + number
        for _ in range(50):
            turn, out = count(mine)
            seen.append(turn.item())
            if not np.allclose(out.numpy(), 2 * mine.sum(1), atol=1e-3, rtol=1e-4):
                wrong.append(number)
            if not np.allclose(other(mine).numpy(), 3 * mine.sum(1), atol=1e-3, rtol=1e-4):
                wrong.append(number)

    count(X), other(X)
    threads = [threading.Thread(target=call, args=(i,)) for i in range(5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []
    assert sorted(seen) == [float(i) for i in range(2, 252)]
    assert count.traces == 1


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_computes_and_the_parent_goes_on() -> None:
    script = """
        import warnings
        warnings.simplefilter("ignore")
        smelt.set_threads(3)
        step, model = training()
        want = [step(X).item() for _ in range(6)]
        step, model = training()
        got = [step(X).item() for _ in range(3)]
        child = os.fork()
        if child == 0:
            mine = got + [step(X).item() for _ in range(3)]
            fresh, _ = training()
            mine_fresh = [fresh(X).item() for _ in range(6)]
            sys.stdout.flush()
            os._exit(0 if mine == want == mine_fresh else 1)
        status = os.waitpid(child, 0)[1]
        got += [step(X).item() for _ in range(3)]
        print(status, got == want)
    """
    assert run(script) == "0 True"


def test_an_interrupt_leaves_a_process_that_can_go_on() -> None:
    script = """
        smelt.set_threads(2)
        step, model = training()
        step(X)
        print("ready", flush=True)
        for _ in range(3):
            try:
                while True:
                    step(X)
            except KeyboardInterrupt:
                print("interrupted", flush=True)
        print(np.isfinite(step(X).item()), all(p.grad is None for p in model.parameters()))
    """
    process = start(script)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for _ in range(3):
        time.sleep(0.05)
        process.send_signal(2)
        assert process.stdout.readline() == "interrupted\n"
    assert process.stdout.readline() == "True True\n"  # not by finish(), which passes over what was read ahead
    assert finish(process) == ""


ENDINGS = {
    "at the end": "",
    "by sys.exit": "sys.exit(0)",
    "while spinning": "for _ in range(50): step(X)",
    "asleep": "time.sleep(0.2)",
    "from a thread": "threading.Thread(target=lambda: [step(X) for _ in range(50)]).start()",
    "with a step at exit": "import atexit; atexit.register(lambda: step(X))",
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=list(ENDINGS))
def test_the_process_ends_with_live_workers(ending: str) -> None:
    assert run(f"smelt.set_threads(4)\nstep, model = training()\nstep(X)\nprint('done')\n{ending}") == "done"


# --- memory -----------------------------------------------------------------------------------------------


@linux
def test_many_steps_take_no_more_memory() -> None:
    script = """
        step, model = training()
        for i in range(300):
            step(X[: 64 - i % 7])
        before = resident()
        for i in range(2000):
            step(X[: 64 - i % 7])
        print(resident() - before < 2_000_000)
    """
    assert run(script) == "True"


@linux
def test_functions_compiled_and_dropped_take_no_more_memory() -> None:
    """A quarter of a megabyte of state and its program, 120 times."""
    script = """
        def cycle(i):
            w = smelt.Parameter(np.ones((256, 256), np.float32))
            optimizer = optim.Adam([w])
            @smelt.compile
            def step(x):
                loss = (x @ w).sum()
                loss.backward()
                optimizer.step()
                return loss
            step(X[:, :1] * np.ones((1, 256), np.float32))
        for i in range(30):
            cycle(i)
        before = resident()
        for i in range(120):
            cycle(i)
        print(resident() - before < 10_000_000)
    """
    assert run(script) == "True"


@linux
def test_code_linked_and_dropped_takes_no_more_memory() -> None:
    """A linker that lives as long as the process keeps nine kilobytes each time."""
    script = """
        from smelt.compiler import jit
        from smelt.compiler.isa import host
        image = jit.compile_object("define i64 @step() {\\n ret i64 7\\n}", host())
        for _ in range(100):
            jit.Library(image, ("step",))
        before = resident()
        for _ in range(400):
            jit.Library(image, ("step",))
        print(resident() - before < 1_000_000)
    """
    assert run(script) == "True"
