"""Steps that return when they are queued: who waits for them, what may change meanwhile, what an interrupt leaves."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import smelt
from smelt import nn, optim
from smelt.pending import pending
from smelt.runtime import ahead, workers
from smelt.tensor import Tensor

from .processes import finish, run, start

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 16, 20)).astype(np.float32)
Y = RNG.integers(0, 5, (40, 16))
QUEUED = """
    from smelt.pending import pending
    from smelt.runtime import ahead
    ahead.TIMED, ahead.SHORTEST, ahead.COPYING = 1, 0.0, 1e9
    smelt.set_threads(2)
    step, model = training()
    first = step(X).item()
    assert step._variants[0].executable._queues
"""


@pytest.fixture(autouse=True)
def _queued(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Queue every step but the first of a function, however short."""
    for name, value in (("TIMED", 1), ("SHORTEST", 0.0), ("COPYING", 1e9)):
        monkeypatch.setattr(ahead, name, value)
    smelt.set_threads(2)
    yield
    smelt.set_threads(None)


class Training:
    """A small network with everything that can be read or changed between two steps."""

    def __init__(self) -> None:
        smelt.seed(3)
        self.model = nn.Sequential(nn.Linear(20, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 5))
        self.optimizer = optim.Adam(self.model.parameters(), lr=1e-3)
        self.step = smelt.compile(self._step)
        self.losses: list[Tensor] = []

    def _step(self, x: Tensor, y: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss

    def steps(self, start: int, stop: int) -> None:
        for i in range(start, stop):
            rows = 11 if i % 4 == 3 else 16
            self.losses.append(self.step(X[i, :rows], Y[i, :rows]))

    def result(self) -> tuple[list[float], dict[str, bytes]]:
        return [loss.item() for loss in self.losses], {k: v.tobytes() for k, v in self.model.state_dict().items()}

    @property
    def queues(self) -> bool:
        return self.step._variants[0].executable._queues


@pytest.fixture(scope="module")
def at_once() -> tuple[list[float], dict[str, bytes]]:
    """The result of forty steps that run before they return."""
    smelt.set_threads(1)
    training = Training()
    training.steps(0, 40)
    return training.result()


def long_step() -> Callable[[np.ndarray], Tensor]:
    """A step of some ten milliseconds."""
    w = smelt.Parameter(np.full((700, 700), 1e-3, np.float32))

    @smelt.compile
    def step(x: Tensor) -> Tensor:
        y = x
        for _ in range(8):
            y = y @ w
        w.assign(w * 0.9)
        return y.sum()

    step(np.ones((700, 700), np.float32)).item()
    return step


def test_a_call_returns_while_its_step_is_under_way_and_at_most_one_more_is_queued() -> None:
    step, x = long_step(), np.ones((700, 700), np.float32)
    seen = set()
    for _ in range(6):
        last = step(x)
        ended, queued = pending.counts()
        seen.add(queued - ended)
    last.item()
    assert pending.jobs == []
    assert max(seen) == 2
    assert seen <= {0, 1, 2}


@pytest.mark.parametrize("threads", [2, 3, 16])
def test_queued_steps_give_the_bits_of_steps_that_run_at_once(threads: int, at_once: object) -> None:
    smelt.set_threads(threads)
    training = Training()
    training.steps(0, 40)
    assert training.queues
    assert training.result() == at_once


def test_one_thread_has_nothing_to_queue_for(at_once: object) -> None:
    smelt.set_threads(1)
    training = Training()
    for i in range(40):
        training.steps(i, i + 1)
        assert pending.jobs == []
    assert training.result() == at_once


def test_arguments_may_change_as_soon_as_the_call_returns() -> None:
    step = long_step()
    x = np.ones((700, 700), np.float32)
    losses = []
    for i in range(4):
        x[:] = i
        losses.append(step(x))
    x[:] = np.nan
    values = [loss.item() for loss in losses]
    assert np.isfinite(values).all() and values[0] == 0.0 and len(set(values)) == 4


READS: dict[str, Callable[[Training], object]] = {
    "item": lambda t: t.losses[-1].item(),
    "float": lambda t: float(t.losses[-1]),
    "repr": lambda t: repr(t.losses[-1]),
    "print": lambda t: str(t.losses[-1]),
    "asarray": lambda t: np.asarray(t.losses[-1]),
    "eager": lambda t: t.losses[-1] + 1,
    "detach": lambda t: t.losses[-1].detach().tolist(),
    "the loss before": lambda t: t.losses[-2].item(),
    "parameter": lambda t: t.model[0].weight.numpy(),
    "copy": lambda t: copy.deepcopy(t.model),
    "gradient": lambda t: t.model[0].weight.grad,
    "state": lambda t: t.optimizer.state_dict(),
    "rate": lambda t: setattr(t.optimizer, "lr", t.optimizer.lr),
    "evaluation": lambda t: smelt.compile(lambda x: t.model[0](x))(X[0]).numpy(),
    "argument": lambda t: smelt.compile(lambda x: x * 2)(t.losses[-1]).item(),
    "random": lambda t: smelt.random.get_state(),
}


@pytest.mark.parametrize("read", READS.values(), ids=list(READS))
def test_whoever_reads_waits_and_changes_nothing(read: Callable[[Training], object], at_once: object) -> None:
    training = Training()
    for i in range(0, 40, 2):
        training.steps(i, i + 2)
        read(training)
    assert training.queues
    assert training.result() == at_once


def test_a_copy_made_under_way_is_of_a_finished_step() -> None:
    a = Training()
    a.steps(0, 9)
    twin = copy.deepcopy(a.model)
    smelt.set_threads(1)
    b = Training()
    b.steps(0, 9)
    want = b.model.state_dict()
    for name, value in twin.state_dict().items():
        np.testing.assert_array_equal(value, want[name])


def test_a_rate_set_under_way_is_for_the_next_step() -> None:
    results = []
    for threads in (1, 2):
        smelt.set_threads(threads)
        training = Training()
        for i in range(20):
            training.steps(i, i + 1)
            training.optimizer.lr = 1e-3 * (1 + i % 3)
        results.append(training.result())
    assert results[0] == results[1]


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_an_interrupt_while_a_step_is_queued(late: bool, monkeypatch: pytest.MonkeyPatch, at_once: object) -> None:
    training = Training()
    training.steps(0, 10)
    team = workers.team()
    submit = team.submit

    def interrupted(record: int) -> int:
        if late:
            submit(record)
        raise KeyboardInterrupt

    for i in range(10, 13):
        with monkeypatch.context() as patched:
            patched.setattr(team, "submit", interrupted)
            with pytest.raises(KeyboardInterrupt):
                training.steps(i, i + 1)
        assert np.isfinite(training.losses[-1].item())
    training.steps(13 if late else 10, 40)
    assert training.result()[1] == at_once[1]  # type: ignore[index]
    assert pending.jobs == []


def test_a_step_that_calls_a_users_function_runs_before_the_call_returns() -> None:
    w = smelt.Parameter(np.zeros(3, np.float32))
    calls: list[int] = []

    @smelt.custom_op
    def count(x: np.ndarray) -> np.ndarray:
        calls.append(1)
        return x

    @smelt.compile
    def step(x: Tensor) -> None:
        w.assign(w + count(x))

    for i in range(4):
        step(np.ones(3, np.float32))
        assert (len(calls), pending.jobs) == (i + 1, [])


# --- processes ----------------------------------------------------------------------------------------------


ENDINGS = {
    "at the end": "",
    "by an error": "import atexit; sys.excepthook = lambda *e: os._exit(0); raise KeyError",
    "with the step dropped": "del step, model; gc.collect()",
    "from a thread": "t = threading.Thread(target=lambda: [step(X) for _ in range(50)]); t.start()",
    "from a daemon": "threading.Thread(target=lambda: [step(X) for _ in range(10**6)], daemon=True).start()",
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=list(ENDINGS))
def test_the_process_ends_with_steps_under_way(ending: str) -> None:
    assert run(QUEUED + f"    for _ in range(5): step(X)\n    print('done', flush=True)\n    {ending}") == "done"


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork here")
def test_a_fork_with_steps_under_way() -> None:
    script = """
    import warnings
    warnings.simplefilter("ignore")
    losses = [step(X) for _ in range(5)]
    child = os.fork()
    if child == 0:
        mine = [l.item() for l in losses] + [step(X).item() for _ in range(5)]
        sys.stdout.write(repr(mine) + "\\n")
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
    print([l.item() for l in losses] + [step(X).item() for _ in range(5)])
    """
    child, parent = run(QUEUED + script).splitlines()
    assert child == parent


def test_interrupts_leave_a_process_that_can_go_on() -> None:
    script = """
    print("ready", flush=True)
    for _ in range(5):
        try:
            while True:
                losses = [step(X) for _ in range(3)]
                losses[1].item()
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    print(np.isfinite(step(X).item()), all(p.grad is None for p in model.parameters()), pending.jobs)
    """
    process = start(QUEUED + script)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for _ in range(5):
        time.sleep(0.05)
        process.send_signal(2)
        assert process.stdout.readline() == "interrupted\n"
    assert process.stdout.readline() == "True True []\n"
    assert finish(process) == ""
