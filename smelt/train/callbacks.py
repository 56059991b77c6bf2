"""Callbacks: what a run of training calls at its turning points, and early stopping.

In: the trainer, and what just happened. Out: whatever the callback does; it may end the run by ``trainer.stop()``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from smelt.nn.arguments import choice, integer, number
from smelt.train.history import FIELDS, Epoch

if TYPE_CHECKING:
    from smelt.train.trainer import Trainer


class Callback:
    """Base of the callbacks: every method does nothing.

    Examples
    --------
    >>> from smelt import train
    >>> class Patience(train.Callback):
    ...     def on_epoch_end(self, trainer, record):
    ...         if record.loss < 0.1:
    ...             trainer.stop()
    """

    def on_fit_start(self, trainer: Trainer) -> None:
        """Run before the first step; ``trainer.history`` holds the epochs of a resumed run."""

    def on_epoch_start(self, trainer: Trainer, epoch: int) -> None:
        """Run before the first step of an epoch (in a resumed run, before the first that is left of it)."""

    def on_step_end(self, trainer: Trainer, step: int, loss: float) -> None:
        """Run after each step; steps are counted from 1, over all epochs. Keep it short."""

    def on_epoch_end(self, trainer: Trainer, record: Epoch) -> None:
        """Run after validation, before the checkpoint of the epoch."""

    def on_fit_end(self, trainer: Trainer, error: BaseException | None) -> None:
        """Run at the end, whatever the reason: ``error`` is what ends the run early, or None."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: JSON-able values and NumPy arrays by name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""


class EarlyStopping(Callback):
    """Stop when a figure gets no better; at the end the model always has the best weights, stopped early or not.

    An error that ends the run leaves the weights as they are; Ctrl-C restores the best ones, too.

    Parameters
    ----------
    monitor : str, default "validation_loss"
        A figure of :class:`Epoch`.
    patience : int or None, default 5
        How many epochs without improvement end the run; with None it is never ended.
    min_delta : float, default 0
        An improvement must be larger than this.
    mode : {"auto", "min", "max"}, default "auto"
        Whether less or more is better; "auto" is "max" for accuracy and correct, else "min".

    Attributes
    ----------
    best : float or None
        The best value so far.
    best_epoch : int
        The epoch it is of; 0 before the first.
    waited : int
        Epochs since then.

    Raises
    ------
    ValueError
        When an argument has a wrong value, or an epoch has no such figure.

    Examples
    --------
    >>> import numpy as np, smelt
    >>> from smelt import nn, optim, train
    >>> x = np.ones((8, 2), np.float32)
    >>> trainer = smelt.Trainer(nn.Linear(2, 1), nn.MSELoss(), optim.SGD(lr=0.0))
    >>> stopping = train.EarlyStopping("loss", patience=2)
    >>> history = trainer.fit((x, x[:, :1]), epochs=9, batch_size=8, callbacks=[stopping], progress=False)
    >>> len(history), stopping.best_epoch
    (3, 1)
    """

    def __init__(
        self,
        monitor: str = "validation_loss",
        patience: int | None = 5,
        min_delta: float = 0.0,
        mode: str = "auto",
    ) -> None:
        owner = type(self).__name__
        self.monitor = choice(owner, "monitor", monitor, FIELDS)
        self.patience = None if patience is None else integer(owner, "patience", patience)
        self.min_delta = number(owner, "min_delta", min_delta, 0.0)
        self.mode = choice(owner, "mode", mode, ("auto", "min", "max"))
        self._sign = -1.0 if mode == "max" or (mode == "auto" and monitor.endswith(("accuracy", "correct"))) else 1.0
        self._reset()

    def _reset(self) -> None:
        self.best: float | None = None
        self.best_epoch = 0
        self.waited = 0
        self._weights: dict[str, np.ndarray] = {}

    def on_fit_start(self, trainer: Trainer) -> None:
        """Forget an earlier run, unless this one continues it."""
        if not trainer.resumed:
            self._reset()

    def on_epoch_end(self, trainer: Trainer, record: Epoch) -> None:
        """Compare, keep the weights when they are the best, stop when it has taken too long."""
        value = getattr(record, self.monitor)
        if value is None:
            raise ValueError(
                f"EarlyStopping: epoch {record.epoch} has no {self.monitor}: expected "
                f"{'validation data' if self.monitor.startswith('validation') else 'another figure to monitor'}"
            )
        better = self.best is None or self._sign * (self.best - value) > self.min_delta
        if not math.isfinite(value):
            better = False
        if better:
            self.best, self.best_epoch, self.waited = float(value), record.epoch, 0
            self._weights = trainer.model.state_dict()
        else:
            self.waited += 1
            if self.patience is not None and self.waited >= self.patience:
                trainer.stop()

    def on_fit_end(self, trainer: Trainer, error: BaseException | None) -> None:
        """Restore the best weights."""
        if self._weights and (error is None or isinstance(error, KeyboardInterrupt)):
            trainer.model.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, its epoch and weights, and how long ago it was."""
        figures = {"best": self.best, "best_epoch": self.best_epoch, "waited": self.waited}
        return {**figures, **{f"weights.{name}": a for name, a in self._weights.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self.best, self.best_epoch, self.waited = state["best"], state["best_epoch"], state["waited"]
        prefix = "weights."
        self._weights = {k.removeprefix(prefix): np.array(v) for k, v in state.items() if k.startswith(prefix)}
