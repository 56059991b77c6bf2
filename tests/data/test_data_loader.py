import gc
import itertools
import json
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from smelt.data import ArrayDataset, DataError, Loader, augment
from smelt.data import loader as loading

ROOT = Path(__file__).resolve().parents[2]
BOTH = pytest.mark.parametrize("prefetch", [False, True])


@pytest.fixture(autouse=True)
def _every_batch_is_worth_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_TRIES", 0)


def dataset(n: int = 50) -> ArrayDataset:
    x = np.random.default_rng(0).integers(0, 256, (n, 1, 6, 6), dtype=np.uint8)
    return ArrayDataset(x, np.arange(n), "d", scale=1 / 255)


def noise(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return x + rng.normal(size=x.shape).astype(np.float32)


def labels(loader: Loader) -> list[list[int]]:
    return [y.tolist() for _, y in loader]


def flat(loader: Loader) -> list[int]:
    return list(itertools.chain.from_iterable(labels(loader)))


def workers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "smelt-loader"]


@BOTH
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
def test_an_epoch_is_every_sample_once(prefetch, shuffle, drop_last):
    ds = dataset()
    loader = Loader(ds, 8, shuffle=shuffle, drop_last=drop_last, prefetch=prefetch)
    seen = []
    for x, y in loader:
        assert x.dtype == np.float32 and x.flags.c_contiguous and y.dtype == np.int64
        np.testing.assert_array_equal(x, ds.batch(y)[0])
        seen.append(y)
    assert [len(y) for y in seen] == [8] * 6 + ([] if drop_last else [2]) and len(seen) == len(loader)
    together = np.concatenate(seen).tolist()
    assert len(set(together)) == len(together)
    assert (together == sorted(together)) is not shuffle


def test_order_depends_on_seed_and_epoch_alone():
    loader = Loader(dataset(), 8, seed=3)
    epochs = [flat(loader) for _ in range(3)]
    assert loader.epoch == 3 and len(set(map(tuple, epochs))) == 3
    other = Loader(dataset(), 5, seed=3, prefetch=False, augment=noise, drop_last=True)
    other.seek(2)
    assert flat(other) == epochs[2]
    assert flat(Loader(dataset(), 8, seed=4)) != epochs[0]


@pytest.mark.parametrize("layout", ["strided", "transposed", "fortran", "float32", "float64", "no labels", "1-D"])
@BOTH
def test_any_layout_and_type_of_data(layout, prefetch):
    ds = dataset()
    x, y = ds.x, ds.y
    match layout:
        case "strided":
            ds = ArrayDataset(x[::2], y[::2])
        case "transposed":
            ds = ArrayDataset(x.transpose(0, 3, 2, 1), y)
        case "fortran":
            ds = ArrayDataset(np.asfortranarray(x), y)
        case "float32" | "float64":
            ds = ArrayDataset(x.astype(layout), y)
        case "no labels":
            ds = ArrayDataset(x)
        case "1-D":
            ds = ArrayDataset(np.arange(50.0), y)
    loader = Loader(ds, 7, prefetch=prefetch)
    every = list(loader)
    order = np.concatenate([b for _, b in Loader(ArrayDataset(ds.x, np.arange(len(ds))), 7)])
    np.testing.assert_array_equal(np.concatenate([a for a, _ in every]), ds.x[order].astype(np.float32))
    assert all((b is None) == (ds.y is None) for _, b in every)


@BOTH
@pytest.mark.parametrize("step", [None, augment.RandomCrop(2), noise])
def test_resuming_anywhere_is_exact(prefetch, step):
    def make() -> Loader:
        return Loader(dataset(20), 6, seed=11, augment=step, prefetch=prefetch)

    def run(loader: Loader, batches: int) -> list[bytes]:
        out: list[bytes] = []
        while len(out) < batches:
            for x, y in loader:
                out.append(x.tobytes() + y.tobytes())
                if len(out) == batches:
                    break
        return out

    whole = run(make(), 12)
    for stop in range(12):
        first = make()
        before = run(first, stop)
        state = json.loads(json.dumps(first.state_dict()))
        second = make()
        second.load_state_dict(state)
        assert before + run(second, 12 - stop) == whole


def test_augmentation_differs_between_batches_epochs_and_seeds():
    ds = ArrayDataset(np.zeros((8, 1, 2, 2)))
    drawn = {x.tobytes() for s in (0, 1) for e in (0, 1) for x, _ in Loader(ds, 4, seed=s, augment=noise)}
    loader = Loader(ds, 4, augment=noise)
    drawn = {x.tobytes() for _ in range(3) for x, _ in loader} | drawn
    assert len(drawn) == 8


@BOTH
def test_position_counts_what_was_handed_out(prefetch):
    loader = Loader(dataset(), 10, prefetch=prefetch)
    assert (loader.epoch, loader.position) == (0, 0)
    for n, _ in enumerate(loader, 1):
        time.sleep(0.005)  # let the thread run ahead
        assert (loader.epoch, loader.position) == (0, n)
    assert (loader.epoch, loader.position) == (1, 0)


def test_a_pass_left_early_is_followed_by_the_next_epoch():
    loader, full = Loader(dataset(), 10, seed=5), Loader(dataset(), 10, seed=5)
    expected = [labels(full) for _ in range(3)]
    next(iter(loader))
    assert (loader.epoch, loader.position) == (0, 1)
    assert labels(loader) == expected[1]
    for _ in zip(range(5), loader, strict=False):  # takes all five batches, never asks for a sixth
        pass
    assert (loader.epoch, loader.position) == (2, 5)
    resumed = Loader(dataset(), 10, seed=5)
    resumed.load_state_dict(loader.state_dict())
    assert labels(resumed) == [] and resumed.epoch == 3
    loader.load_state_dict({**loader.state_dict(), "epoch": 1, "position": 3})
    assert labels(loader) == expected[1][3:]


@BOTH
def test_one_pass_at_a_time(prefetch):
    loader = Loader(dataset(), 10, prefetch=prefetch)
    old = iter(loader)
    next(old)
    new = iter(loader)
    next(new)
    with pytest.raises(DataError, match="one pass at a time"):
        next(old)
    loader.seek(0)
    with pytest.raises(DataError, match="one pass at a time"):
        next(new)
    assert (loader.epoch, loader.position) == (0, 0) and not workers()


@BOTH
def test_batches_stay_valid(prefetch):
    kept = list(Loader(dataset(), 8, prefetch=prefetch))
    for x, y in kept:
        np.testing.assert_array_equal(x, dataset().batch(y)[0])
    assert not any(np.shares_memory(a, b) for (a, _), (b, _) in itertools.pairwise(kept))


@BOTH
def test_an_augmentation_that_writes_in_place_does_not_reach_the_data(prefetch):
    def spoil(x, rng):
        x[:] = 0
        return x

    for shuffle in (False, True):
        ds = dataset()
        assert all(not x.any() for x, _ in Loader(ds, 8, augment=spoil, shuffle=shuffle, prefetch=prefetch))
        np.testing.assert_array_equal(ds.x, dataset().x)


def test_at_most_two_batches_ahead():
    made = []

    def count(x, rng):
        made.append(1)
        return x

    loader = Loader(dataset(), 5, augment=count)
    for n, _ in enumerate(loader, 1):
        time.sleep(0.01)
        assert len(made) <= n + 2


def test_a_thread_is_hired_where_batches_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_TRIES", 3)

    def slow(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        hired.append(bool(workers()))
        time.sleep(0.005)
        return x

    for late in (False, True):
        hired: list[bool] = []
        loader = Loader(dataset(), 10, augment=slow)
        loader._preparing = [loading.HANDING_OVER * 2] * 2 if late else []
        assert len(labels(loader)) == 5
        assert hired == [False, True, True, True, True]
    monkeypatch.setattr(loading, "HANDING_OVER", 1.0)
    hired = []
    loader = Loader(dataset(), 10, augment=slow)
    assert loader.ready and len(labels(loader)) == 5 and loader.ready
    assert hired == [False] * 5


def test_a_batch_is_ready_when_it_need_not_be_waited_for() -> None:
    go = threading.Event()

    def held_up(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        assert go.wait(60)
        return x

    loader = Loader(dataset(), 10, augment=held_up)
    batches = iter(loader)
    threading.Timer(0.05, go.set).start()
    next(batches)
    go.clear()
    deadline = time.monotonic() + 60
    while loader.ready and time.monotonic() < deadline:
        next(batches)
    assert not loader.ready
    go.set()
    while not loader.ready and time.monotonic() < deadline:
        time.sleep(0.001)
    assert loader.ready
    batches.close()


@pytest.mark.parametrize("leave", ["break", "close", "forget", "raise"])
def test_no_thread_outlives_its_pass(leave):
    loader = Loader(dataset(), 2)
    if leave == "break":
        for _ in loader:
            break
    elif leave == "raise":
        with pytest.raises(KeyError):
            for _ in loader:
                raise KeyError
    else:
        batches = iter(loader)
        next(batches)
        assert workers()
        if leave == "close":
            batches.close()
        else:
            del batches
    gc.collect()
    assert not workers()


def test_errors_in_the_thread_reach_the_consumer():
    def fail(x, rng):
        if len(calls) == 3:
            raise ZeroDivisionError("in augment")
        calls.append(1)
        return x

    calls: list[int] = []
    got = 0
    loader = Loader(dataset(), 5, augment=fail)
    with pytest.raises(ZeroDivisionError, match="in augment"):
        for _ in loader:
            got += 1
    assert got == 3 == loader.position and not workers()


def test_an_augmentation_must_keep_the_shape():
    for prefetch in (False, True):
        with pytest.raises(DataError, match=r"gave uint8 of 5×1×6×5, expected numbers of 5×1×6×6"):
            next(iter(Loader(dataset(), 5, augment=lambda x, rng: x[..., 1:], prefetch=prefetch)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 51}, "^d: batch_size 51, expected at most its 50 samples"),
        ({"batch_size": 0}, "^d: batch_size 0, expected a whole number of at least 1"),
        ({"batch_size": 2.0}, "batch_size 2.0"),
        ({"batch_size": True}, "batch_size True"),
        ({"batch_size": 5, "seed": -1}, "seed: -1"),
        ({"batch_size": 5, "seed": 2**64}, "seed: 18446744073709551616"),
        ({"batch_size": 5, "seed": 0.5}, "seed: 0.5"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(DataError, match=message):
        Loader(dataset(), **arguments)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"batch_size": 9},
        {"samples": 49},
        {"shuffle": False},
        {"drop_last": True},
        {"drop_last": 0},
        {"epoch": -1},
        {"epoch": "1"},
        {"position": 8},
        {"position": 1.0},
        {"position": True},
        {"extra": 1},
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(change):
    loader = Loader(dataset(), 8)
    loader.seek(2, 3)
    with pytest.raises(DataError, match=f"^loader.*{next(iter(change))}"):
        loader.load_state_dict({**loader.state_dict(), **change})
    assert (loader.epoch, loader.position) == (2, 3)
    for wrong in ({}, [], None):
        with pytest.raises(DataError):
            loader.load_state_dict(wrong)


def run_python(code: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def test_a_program_that_ends_in_the_middle_of_a_pass_ends():
    out = run_python("""
        import numpy as np
        from smelt.data import ArrayDataset, Loader, loader
        loader._TRIES = 0
        batches = iter(Loader(ArrayDataset(np.zeros((100, 9))), 2))
        next(batches)
        cycle = [batches]; cycle.append(cycle)
        print("end")
    """)
    assert out == "end\n"


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork")
def test_after_a_fork_the_old_pass_fails_and_a_new_one_works():
    out = run_python("""
        import os, numpy as np
        from smelt.data import ArrayDataset, Loader, loader as loading
        loading._TRIES = 0
        loader = Loader(ArrayDataset(np.zeros((100, 9))), 2)
        batches = iter(loader)
        next(batches)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                for _ in batches: pass
            except RuntimeError:
                status = 0 if len(list(loader)) == 50 else 2
            os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(list(batches)))
    """)
    assert out == "0 49\n"
