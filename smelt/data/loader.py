"""Batches: a dataset in; one epoch of float32 batches per pass out, in an order that can be resumed anywhere.

Epoch `e` is a function of the seed and `e`, batch `b` of it a function of those and `b`; nothing else is
carried along. Saving where a run is therefore takes two numbers. Where batches take long, a background thread
prepares the next ones.
"""

import atexit
import math
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from smelt.data.augment import Augmentation
from smelt.data.dataset import ArrayDataset, Float32, to_float32, to_target
from smelt.data.errors import DataError
from smelt.data.limits import dims
from smelt.data.randomness import check_seed, generator, order

Batch = tuple[Float32, Any]

AHEAD = 2
"""Batches prepared before they are asked for, the one being prepared included."""
HANDING_OVER = 1e-4
"""Seconds: where a batch takes less, passing it from thread to thread costs more than it gains."""
_TRIES = 3
"""Batches prepared without a thread before it is known how long they take, unless it is clear from the first."""


class Loader:
    """Iterate over a dataset in batches.

    Each pass, that is each `for` over the loader, is one epoch. A pass that is left early is over as soon as
    the next begins: that one is the following epoch, from its first batch. Only `seek` and `load_state_dict`
    take up an epoch in the middle.

    Parameters
    ----------
    dataset : ArrayDataset
        The data.
    batch_size : int
        Samples per batch, from 1 to the length of the dataset.
    shuffle : bool, default True
        Whether each epoch has its own random order; otherwise the order of the dataset.
    seed : int, default 0
        From 0 to 2**64 − 1. The order of epoch e depends only on the seed and e.
    drop_last : bool, default False
        Whether to leave out a last batch that is smaller than the others.
    augment : callable, optional
        `(x, rng) -> x` on samples as stored; see `smelt.data.augment`. It runs in the background thread. Its
        numbers depend only on the seed, the epoch and the index of the batch.
    prefetch : bool, default True
        Whether a background thread may prepare up to two batches ahead. It does where that is worth it: where
        preparing a batch takes longer than 0.1 ms.

    Yields
    ------
    x : numpy.ndarray
        Shape (n, *sample_shape), float32, C-contiguous; n is `batch_size`, or less in the last batch.
    y : numpy.ndarray or None
        First axis n, C-contiguous: int64 labels, float32 targets, or None if the dataset has none.

    Raises
    ------
    DataError
        If the batch is larger than the dataset, or an argument is not what it should be.

    Notes
    -----
    Every batch is newly made and belongs to whoever receives it: it is never written again.

    A loader gives one pass at a time: an older iterator that is asked for more once another has begun, or
    after `seek`, raises `DataError`.

    Examples
    --------
    >>> ds = ArrayDataset(np.arange(10.0).reshape(10, 1), np.arange(10))
    >>> loader = Loader(ds, 4, seed=1)
    >>> [y.tolist() for x, y in loader]
    [[3, 5, 2, 9], [7, 0, 8, 6], [1, 4]]
    >>> loader.epoch, loader.position
    (1, 0)
    >>> loader.seek(0, 2)
    >>> [y.tolist() for x, y in loader]
    [[1, 4]]
    """

    def __init__(
        self,
        dataset: ArrayDataset,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        augment: Augmentation | None = None,
        prefetch: bool = True,
    ) -> None:
        where = dataset.name or "dataset"
        if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise DataError(f"{where}: batch_size {batch_size!r}, expected a whole number of at least 1")
        if batch_size > len(dataset):
            raise DataError(f"{where}: batch_size {batch_size}, expected at most its {len(dataset)} samples")
        self.dataset = dataset
        self.batch_size = int(batch_size)
        self.shuffle = bool(shuffle)
        self.seed = check_seed(seed)
        self.drop_last = bool(drop_last)
        self.augment = augment
        self.prefetch = bool(prefetch)
        self._epoch = 0
        self._position = 0
        self._take_up = True
        self._pass = 0
        self._preparing: list[float] = []
        self._ahead: _Ahead | None = None

    @property
    def epoch(self) -> int:
        """The epoch of the next batch; a pass that ends moves to the next one."""
        return self._epoch

    @property
    def position(self) -> int:
        """Index of the next batch within the epoch: the count of batches handed out, not of those prepared.

        It is `len(loader)` from when the last batch is handed out until the pass ends.
        """
        return self._position

    def __len__(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def seek(self, epoch: int, position: int = 0) -> None:
        """Make the next pass begin at a given batch.

        Parameters
        ----------
        epoch : int
            At least 0.
        position : int, default 0
            Index of the batch, from 0 to `len(loader)`; at `len(loader)` the next pass has no batches left.

        Raises
        ------
        DataError
            If there is no such place.
        """
        for what, value, last in (("epoch", epoch, (1 << 63) - 1), ("position", position, len(self))):
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= last:
                raise DataError(f"loader: {what} {value!r}, expected a whole number from 0 to {last}")
        self._epoch, self._position, self._take_up = epoch, position, True
        self._pass += 1

    def state_dict(self) -> dict[str, int | bool]:
        """Return where the loader is, and what that depends on; plain numbers, fit for JSON.

        Returns
        -------
        dict
            Keys epoch, position, seed, batch_size, samples, shuffle and drop_last.
        """
        return {"epoch": self._epoch, "position": self._position, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next pass continue exactly where a loader like this one was.

        Parameters
        ----------
        state : dict
            What `state_dict` returned. The augmentation is code, so it is not part of it: give the same one.

        Raises
        ------
        DataError
            If the state is of a loader with another seed, batch size, number of samples, `shuffle` or
            `drop_last`, or is not a state at all. The loader is then left as it was.
        """
        expected = self._identity()
        if not isinstance(state, dict) or set(state) != {"epoch", "position", *expected}:
            got = sorted(map(str, state)) if isinstance(state, dict) else type(state).__name__
            raise DataError(f"loader state: {got}, expected epoch, position, {', '.join(expected)}")
        for key, value in expected.items():
            if type(state[key]) is not type(value) or state[key] != value:
                raise DataError(f"loader state: {key} {state[key]!r}, expected {value!r} as this loader has")
        self.seek(state["epoch"], state["position"])

    def _identity(self) -> dict[str, int | bool]:
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "samples": len(self.dataset),
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
        }

    def __iter__(self) -> Iterator[Batch]:
        if self._position and not self._take_up:
            self._epoch, self._position = self._epoch + 1, 0
        self._take_up = False
        self._pass += 1
        this_pass, epoch, start = self._pass, self._epoch, self._position
        prepare = _Preparer(self, epoch)
        ahead: _Ahead | None = None
        try:
            for index in range(start, len(self)):
                if ahead is None and self._worth_a_thread and len(self) - index > 1:
                    ahead = self._ahead = _Ahead(prepare, index, len(self))
                batch = ahead.take() if ahead else self._timed(prepare, index)
                # Counted before it is handed over: who saves the state inside the loop has had it.
                self._position = index + 1
                yield batch
                if this_pass != self._pass:
                    raise DataError("loader: asked for more after another pass began, expected one pass at a time")
            self._epoch, self._position = epoch + 1, 0
        finally:
            if ahead:
                ahead.close()

    @property
    def ready(self) -> bool:
        """Whether the next batch would be there at once, or is prepared by whoever asks for it."""
        return self._ahead is None or self._ahead.ready

    @property
    def _worth_a_thread(self) -> bool:
        times = self._preparing
        known = len(times) >= _TRIES or max(times, default=0.0) > 10 * HANDING_OVER
        return self.prefetch and known and min(times, default=math.inf) > HANDING_OVER

    def _timed(self, prepare: "_Preparer", index: int) -> Batch:
        if len(self._preparing) >= _TRIES:
            return prepare(index)
        start = time.perf_counter()
        batch = prepare(index)
        self._preparing.append(time.perf_counter() - start)
        return batch


class _Preparer:
    """Makes batch `index` of one epoch. Used by one thread at a time."""

    def __init__(self, loader: Loader, epoch: int) -> None:
        self._dataset = loader.dataset
        self._size = loader.batch_size
        self._seed = loader.seed
        self._epoch = epoch
        self._augment = loader.augment
        self._order = order(len(loader.dataset), loader.seed, epoch) if loader.shuffle else None
        # Only ever read by `to_float32`, which copies: no batch that was handed out shares this memory.
        self._scratch = np.empty((self._size, *self._dataset.sample_shape), self._dataset.x.dtype)

    def __call__(self, index: int) -> Batch:
        dataset = self._dataset
        start = index * self._size
        stop = min(start + self._size, len(dataset))
        y = dataset.y
        if self._order is None:
            raw = dataset.x[start:stop]
            target = None if y is None else to_target(y[start:stop])
        else:
            chosen = self._order[start:stop]
            raw = self._gather(chosen)
            target = None if y is None else to_target(y[chosen])
        if self._augment is not None:
            raw = self._augmented(raw, index)
        return to_float32(raw, dataset), target

    def _gather(self, chosen: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        x = self._dataset.x
        if not x.flags.c_contiguous:
            return np.asarray(x[chosen])  # np.take would first copy the whole dataset
        # "clip" because "raise" makes np.take work in a buffer of its own; the indices are known to be good.
        return np.take(x, chosen, axis=0, out=self._scratch[: len(chosen)], mode="clip")

    def _augmented(self, raw: npt.NDArray[Any], index: int) -> npt.NDArray[Any]:
        assert self._augment is not None
        # A view: an augmentation that writes in place must not reach the dataset.
        raw = raw.copy() if np.may_share_memory(raw, self._dataset.x) else raw
        out = np.asarray(self._augment(raw, generator(self._seed, self._epoch, index)))
        if out.shape != raw.shape or out.dtype.kind not in "biuf":
            raise DataError(
                f"augment: {self._augment!r} gave {out.dtype} of {dims(out.shape)}, "
                f"expected numbers of {dims(raw.shape)}"
            )
        return out


class _Ahead:
    """Runs `prepare` for each index in a background thread, never more than `AHEAD` results in advance."""

    def __init__(self, prepare: Callable[[int], Batch], start: int, stop: int) -> None:
        self._prepare = prepare
        self._indices = range(start, stop)
        self._slots = threading.Semaphore(AHEAD)
        self._ready: queue.SimpleQueue[Batch | BaseException] = queue.SimpleQueue()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="smelt-loader", daemon=True)
        _running.add(self)
        self._thread.start()

    def _work(self) -> None:
        try:
            for index in self._indices:
                self._slots.acquire()
                if self._stopped:
                    return
                self._ready.put(self._prepare(index))
        except BaseException as error:
            self._ready.put(error)

    @property
    def ready(self) -> bool:
        return self._stopped or not self._ready.empty()

    def take(self) -> Batch:
        while True:
            try:
                item = self._ready.get(timeout=1.0)
                break
            except queue.Empty:
                # After a fork the child has this object but not its thread.
                if not self._thread.is_alive() and self._ready.empty():
                    raise RuntimeError("the loader's thread is gone; begin a new pass after a fork") from None
        if isinstance(item, BaseException):
            raise item
        self._slots.release()
        return item

    def close(self) -> None:
        self._stopped = True
        self._slots.release()
        self._thread.join()


_running: "weakref.WeakSet[_Ahead]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # Joining a daemon thread after the interpreter has begun to shut down can hang; here it cannot.
    for ahead in list(_running):
        ahead.close()
