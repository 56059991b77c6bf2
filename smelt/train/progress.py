"""Progress: a bar while an epoch runs, when someone is watching a terminal; one line per epoch anywhere else."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from smelt.train.callbacks import Callback
from smelt.train.history import Epoch, show

if TYPE_CHECKING:
    from smelt.train.trainer import Trainer

_INTERVAL = 0.1  # seconds between two looks at the bar


class ProgressBar(Callback):
    """A bar with the loss on a terminal; and, there and elsewhere, one line per epoch on standard output.

    Examples
    --------
    >>> from smelt import train
    >>> train.progress.line(train.Epoch(1, 1e-3, 0.25, 0.5, seconds=2.0), epochs=10)
    'epoch  1/10  loss 0.25  accuracy 50.00 %  lr 0.001  2.0 s'
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._next = 0.0

    @staticmethod
    def watched() -> bool:
        """Return whether standard output is a terminal."""
        return sys.stdout is not None and sys.stdout.isatty()

    def on_fit_start(self, trainer: Trainer) -> None:
        """Open the bar."""
        if not self.watched():
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, transient=True)
        self._bar.start()
        self._task = None

    def on_epoch_start(self, trainer: Trainer, epoch: int) -> None:
        """Begin the epoch's bar."""
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            text = f"epoch {epoch}/{trainer.epochs}"
            self._task = self._bar.add_task(text, total=trainer.steps_per_epoch)

    def on_step_end(self, trainer: Trainer, step: int, loss: float) -> None:
        """Move the bar, ten times a second at most."""
        if self._bar is None or (now := time.perf_counter()) < self._next:
            return
        self._next = now + _INTERVAL
        done = step - trainer.steps_per_epoch * len(trainer.history)
        text = f"epoch {len(trainer.history) + 1}/{trainer.epochs}  loss {loss:.4f}"
        self._bar.update(self._task, completed=done, description=text)

    def on_epoch_end(self, trainer: Trainer, record: Epoch) -> None:
        """Print the epoch's line."""
        text = line(record, trainer.epochs)
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        else:
            print(text, flush=True)

    def on_fit_end(self, trainer: Trainer, error: BaseException | None) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def line(record: Epoch, epochs: int) -> str:
    """Return an epoch as one line."""
    parts = [f"epoch {record.epoch:>{len(str(epochs))}}/{epochs}", f"loss {show(record.loss)}"]
    if record.accuracy is not None:
        parts.append(f"accuracy {100 * record.accuracy:.2f} %")
    if record.validation_loss is not None:
        parts.append(f"validation loss {show(record.validation_loss)}")
    if record.validation_correct is not None:
        parts.append(f"{record.validation_correct}/{record.validation_count}")
    return "  ".join([*parts, f"lr {show(record.lr)}", f"{record.seconds:.1f} s"])
