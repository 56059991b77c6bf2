"""Trainer: a model, a loss and an optimizer in; training, evaluation and prediction by compiled steps out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np

from smelt import random
from smelt.autograd import no_grad
from smelt.data import ArrayDataset, DataError, Loader
from smelt.data.augment import Augmentation
from smelt.errors import FileError, at_user_line
from smelt.files import PathLike
from smelt.nn.arguments import choice, integer, wrong
from smelt.nn.module import Module
from smelt.optim import Optimizer
from smelt.optim.schedule import Schedule
from smelt.precision import checked
from smelt.tensor import Tensor
from smelt.train.callbacks import Callback
from smelt.train.checkpoint import Checkpoints
from smelt.train.history import History
from smelt.train.progress import ProgressBar
from smelt.train.run import Run
from smelt.train.steps import LossFunction, Steps, mode

Data = ArrayDataset | tuple[Any, Any] | np.ndarray

EVALUATION_BATCH = 256


class Trainer:
    """Trains a model: forward, loss, backward and update are one native call per batch.

    Parameters
    ----------
    model : Module
        What is trained, in place.
    loss : callable
        ``(output, target) -> Tensor`` of one number: a loss of :mod:`smelt.nn`, or a function of one's own.
    optimizer : Optimizer
        If it has no parameters yet, it is given all of the model's.
    schedule : Schedule, optional
        Moves the optimizer's learning rate.
    schedule_per : {"epoch", "step"}, default "epoch"
        When the schedule moves on: after each epoch, or (for :class:`smelt.optim.OneCycle`) after each step.
    metrics : "auto" or sequence of str, default "auto"
        ``("accuracy",)`` counts correct predictions, ``()`` does not; "auto" does where outputs are (batch, classes)
        and there is one integer label each.
    callbacks : sequence of Callback, default ()
        Called in every run; see :mod:`smelt.train`.
    compile : bool, default True
        With False every operation runs at once in NumPy, to be stepped through in a debugger.
    precision : {"f32", "bf16", "f16"}, default "f32"
        What matrix products and convolutions round their operands to, in training and evaluation; parameters, sums and
        updates are float32. With "f16" the loss is scaled: see :class:`smelt.optim.LossScaler`.

    Attributes
    ----------
    history : History
        The epochs of the present or last run.
    epochs, steps_per_epoch : int
        Of the present or last run.
    resumed : bool
        Whether that run continues from a checkpoint.

    Raises
    ------
    ValueError
        When an argument has a wrong value.

    Examples
    --------
    >>> import smelt
    >>> from smelt import data, nn, optim
    >>> train, test = data.digits()
    >>> smelt.seed(0)
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> trainer = smelt.Trainer(model, nn.CrossEntropyLoss(), optim.Adam(lr=1e-2))
    >>> history = trainer.fit(train, epochs=3, batch_size=32, validation=test, progress=False)
    >>> history[-1].validation_accuracy > 0.9
    True
    """

    def __init__(
        self,
        model: Module,
        loss: LossFunction,
        optimizer: Optimizer,
        schedule: Schedule | None = None,
        *,
        schedule_per: str = "epoch",
        metrics: str | Sequence[str] = "auto",
        callbacks: Sequence[Callback] = (),
        compile: bool = True,
        precision: str = "f32",
    ) -> None:
        owner = type(self).__name__
        if not isinstance(model, Module):
            raise wrong(owner, "model", "a Module", model)
        if not callable(loss) or isinstance(loss, type):
            raise wrong(owner, "loss", "a loss, or a function of output and target", loss)
        if not isinstance(optimizer, Optimizer):
            raise wrong(owner, "optimizer", "an optimizer of smelt.optim", optimizer)
        if schedule is not None and not isinstance(schedule, Schedule):
            raise wrong(owner, "schedule", "a schedule of smelt.optim", schedule)
        if metrics != "auto" and (isinstance(metrics, str) or set(metrics) - {"accuracy"}):
            raise wrong(owner, "metrics", "'auto', ('accuracy',) or ()", metrics)
        self.model, self.loss, self.optimizer, self.schedule = model, loss, optimizer, schedule
        self.schedule_per = choice(owner, "schedule_per", schedule_per, ("epoch", "step"))
        self.callbacks = _callbacks(callbacks)
        if not optimizer.groups:
            optimizer.bind(model.parameters())
        if schedule is not None and schedule._optimizer is None:
            schedule.bind(optimizer)
        if schedule is not None and schedule._optimizer is not optimizer:
            raise wrong(owner, "schedule", "one that is bound to this optimizer, or to none", schedule)
        accuracy = None if metrics == "auto" else bool(metrics)
        self.steps = Steps(model, loss, optimizer, accuracy, compile, checked(owner, precision))
        self.compiled = compile
        self.history = History()
        self.epochs = self.steps_per_epoch = 0
        self.resumed = self.stopped = self.has_accuracy = False
        self.loss_is_sum = getattr(loss, "reduction", "mean") == "sum"

    def stop(self) -> None:
        """End the run after the present epoch; for callbacks."""
        self.stopped = True

    # --- training -----------------------------------------------------------------------------------------------

    def fit(
        self,
        train: Data,
        epochs: int,
        batch_size: int = 64,
        *,
        validation: Data | None = None,
        seed: int = 0,
        augment: Augmentation | None = None,
        drop_last: bool = False,
        checkpoint: PathLike | None = None,
        checkpoint_every: int | None = None,
        checkpoint_keep: int = 2,
        resume: bool = False,
        callbacks: Sequence[Callback] = (),
        progress: bool | None = None,
    ) -> History:
        """Train for some epochs.

        The result is a function of the model's weights, the data and ``seed``: to the bit, for any number of threads,
        and however often the run was killed and resumed.

        Parameters
        ----------
        train : ArrayDataset, pair of arrays, or array
            Samples and targets; without targets the model learns to return its input.
        epochs : int
            How many in all, those before a checkpoint included.
        batch_size : int, default 64
            At most the number of samples. The last batch of an epoch may be smaller.
        validation : ArrayDataset, pair of arrays, or array, optional
            Evaluated after each epoch.
        seed : int, default 0
            Of the order of samples, augmentation and dropout. Weights keep the values they have.
        augment : callable, optional
            See :mod:`smelt.data.augment`.
        drop_last : bool, default False
            Whether to leave out a last batch that is smaller.
        checkpoint : path, optional
            A folder for checkpoints.
        checkpoint_every : int, optional
            Steps between checkpoints; by default there is one after each epoch. There is always one at the end.
        checkpoint_keep : int, default 2
            How many of the newest to keep.
        resume : bool, default False
            Whether to continue from the newest checkpoint in the folder, if there is one.
        callbacks : sequence of Callback, default ()
            Called after the trainer's own.
        progress : bool, optional
            Whether to show progress: a bar on a terminal, elsewhere one line per epoch. By default on a terminal.

        Returns
        -------
        History
            One record per epoch; also ``trainer.history``.

        Raises
        ------
        NonFiniteLoss
            When the loss is NaN or infinite. The model is as it was before that step.
        DataError
            When the data do not fit the model, or a batch is larger than the data.
        FileError
            When a checkpoint cannot be written or does not fit the run, or the folder holds checkpoints of an earlier
            run and ``resume`` is False.
        ValueError
            When an argument has a wrong value.
        """
        owner = "fit"
        dataset = _dataset(train, "train")
        held_out = None if validation is None else _dataset(validation, "validation")
        self.epochs = integer(owner, "epochs", epochs)
        every = None if checkpoint_every is None else integer(owner, "checkpoint_every", checkpoint_every)
        loader = Loader(dataset, batch_size, seed=seed, drop_last=drop_last, augment=augment)
        called = [*self.callbacks, *_callbacks(callbacks)]
        if progress or (progress is None and ProgressBar.watched()):
            called.append(ProgressBar())
        folder = None
        if checkpoint is not None:
            folder = Checkpoints(checkpoint, integer(owner, "checkpoint_keep", checkpoint_keep))
        elif resume or every:
            raise ValueError(at_user_line("fit: resume and checkpoint_every need checkpoint, the folder to use"))
        if folder and not resume and folder.paths():
            raise FileError(
                f"{os.fspath(folder.folder)!r}: holds checkpoints of an earlier run: expected resume=True, or a folder "
                "without"
            )
        self._expect(dataset)
        self.history, self.steps_per_epoch = History(), len(loader)
        self.resumed = self.stopped = False
        random.default.seed(seed)
        self.steps.forget()
        run = Run(self, loader, held_out, called, folder, every)
        found = folder.load() if folder and resume else None
        with mode(self.model, training=True):
            if found:
                if self.compiled:  # programs depend on the first batch they see: let it be a whole one, as it was
                    self.steps.train(*dataset.batch(slice(0, loader.batch_size)))
                self.resumed = True
                run.restore(*found)
            self._run(run)
        return self.history

    def _run(self, run: Run) -> None:
        error: BaseException | None = None
        try:
            for c in run.callbacks:
                c.on_fit_start(self)
            run.epochs()
        except BaseException as e:
            error = e
            raise
        finally:
            self.steps.forget()
            for c in run.callbacks:
                c.on_fit_end(self, error)

    # --- using the model ------------------------------------------------------------------------------------------

    def evaluate(self, dataset: Data, batch_size: int = EVALUATION_BATCH) -> dict[str, Any]:
        """Return the mean loss of a dataset and how many samples are classified correctly.

        Parameters
        ----------
        dataset : ArrayDataset, pair of arrays, or array
            Samples and targets.
        batch_size : int, default 256
            Samples at a time.

        Returns
        -------
        dict
            ``loss`` (float), ``accuracy`` (float or None), ``correct`` (int or None) and ``count`` (int).

        Examples
        --------
        >>> import numpy as np, smelt
        >>> from smelt import nn, optim
        >>> trainer = smelt.Trainer(nn.Linear(2, 1), nn.MSELoss(), optim.SGD(lr=0.1))
        >>> trainer.evaluate((np.zeros((5, 2)), np.zeros((5, 1))))["count"]
        5
        """
        data = _dataset(dataset, "evaluate")
        self._expect(data)
        loader = Loader(data, min(integer("evaluate", "batch_size", batch_size), len(data)), shuffle=False)
        total, correct, known = 0.0, 0, True
        with mode(self.model, training=False), no_grad(), closing(iter(loader)) as batches:  # type: ignore[type-var]
            for x, y in batches:
                result = self.steps.evaluate(x, y)
                total += result[0].item() * (1 if self.loss_is_sum else len(x))
                known = len(result) == 2
                correct += int(result[1].item()) if known else 0
        count = len(data)
        return {
            "loss": total / count,
            "accuracy": correct / count if known else None,
            "correct": correct if known else None,
            "count": count,
        }

    def predict(self, x: Any, batch_size: int = EVALUATION_BATCH) -> np.ndarray:
        """Return the model's outputs for samples: an array, or a dataset whose targets are not looked at.

        Examples
        --------
        >>> import numpy as np, smelt
        >>> from smelt import nn, optim
        >>> trainer = smelt.Trainer(nn.Linear(2, 3), nn.MSELoss(), optim.SGD(lr=0.1))
        >>> trainer.predict(np.zeros((5, 2), np.float32)).shape
        (5, 3)
        """
        data = x if isinstance(x, ArrayDataset) else ArrayDataset(_values(x), name="predict")
        size = integer("predict", "batch_size", batch_size)
        _not_empty(data)
        parts = []
        with mode(self.model, training=False), no_grad():
            for start in range(0, len(data), size):
                batch, _ = data.batch(slice(start, start + size))
                parts.append(np.array(self.steps.predict(batch).numpy()))
        return np.concatenate(parts)

    def _expect(self, data: ArrayDataset) -> None:
        """Check labels against the model's outputs, now or as soon as these are known."""
        _not_empty(data)
        y = data.y
        if y is not None and y.dtype.kind in "iu" and y.size:
            self.steps.labels = (int(y.min()), int(y.max()))
            self.steps.check_labels()
        else:
            self.steps.labels = (0, 0)


def _not_empty(data: ArrayDataset) -> None:
    if not len(data):
        raise DataError(f"{data.name or 'dataset'}: no samples, expected at least one")


def _values(value: Any) -> Any:
    return value.numpy() if isinstance(value, Tensor) else value


def _dataset(data: Any, name: str) -> ArrayDataset:
    if isinstance(data, ArrayDataset):
        return data
    if isinstance(data, (tuple, list)) and len(data) == 2:
        return ArrayDataset(_values(data[0]), _values(data[1]), name=name)
    if isinstance(data, (np.ndarray, Tensor)):
        return ArrayDataset(_values(data), name=name)
    raise DataError(f"{name}: {type(data).__name__}, expected a dataset, a pair of arrays (x, y), or an array x")


def _callbacks(callbacks: Sequence[Callback]) -> list[Callback]:
    for c in callbacks:
        if not isinstance(c, Callback):
            raise wrong("Trainer", "callbacks", "Callbacks", c)
    return list(callbacks)
