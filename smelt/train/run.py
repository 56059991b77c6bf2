"""One run of training: epochs of steps, validation, callbacks, checkpoints.

In: a trainer, a loader and where to begin. Out: a trained model and its history. All that a run depends on is in
:meth:`Run.capture`, and comes back by :meth:`Run.restore`, so that a resumed run takes the very same steps.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from smelt import random
from smelt.data import ArrayDataset, Loader
from smelt.data.loader import Batch
from smelt.errors import FileError
from smelt.optim.scaler import LEAST
from smelt.pending import pending
from smelt.tensor import Tensor
from smelt.train.anomaly import NonFiniteLoss, NonFiniteValue, anomaly, first
from smelt.train.callbacks import Callback
from smelt.train.checkpoint import Checkpoints, join, part
from smelt.train.history import Epoch

if TYPE_CHECKING:
    from smelt.train.trainer import Trainer


@dataclass
class Sums:
    """What an epoch adds up: the loss of all samples, how many were right, how many there were, and times."""

    loss: float = 0.0
    correct: int = 0
    count: int = 0
    seconds: float = 0.0
    stalled: float = 0.0


@dataclass(slots=True)
class _Step:
    """A step that was called: its batch and what it returned."""

    x: np.ndarray
    y: Any
    result: tuple[Tensor, ...]


class Run:
    """One call of :meth:`Trainer.fit`.

    Attributes
    ----------
    step : int
        Steps taken so far.
    sums : Sums
        Of the epoch so far.
    """

    def __init__(
        self,
        trainer: Trainer,
        loader: Loader,
        validation: ArrayDataset | None,
        callbacks: Sequence[Callback],
        checkpoints: Checkpoints | None,
        every: int | None,
    ) -> None:
        self.trainer, self.loader, self.validation, self.callbacks = trainer, loader, validation, callbacks
        self.checkpoints, self.every = checkpoints, every
        self.step = 0
        self._saved: tuple[int, int] | None = None  # step and finished epochs of the newest checkpoint
        self.sums = Sums()
        self._fingerprint = _fingerprint(loader.dataset) if checkpoints else ""
        self._random = random.default.state.numpy().copy()
        self._stateful = [c for c in callbacks if type(c).state_dict is not Callback.state_dict]
        self._each_step = [c.on_step_end for c in callbacks if type(c).on_step_end is not Callback.on_step_end]

    def epochs(self) -> None:
        """Train until the last epoch, or until somebody stops the run."""
        trainer = self.trainer
        trainer.steps.halted.assign(False)
        while len(trainer.history) < trainer.epochs and not trainer.stopped:
            started = time.perf_counter()
            spent = self.sums.seconds
            for c in self.callbacks:
                c.on_epoch_start(trainer, len(trainer.history) + 1)
            lr, due = self._steps(started)
            self._finish_epoch(lr, started, spent)
            ended = trainer.stopped or len(trainer.history) == trainer.epochs
            if self.checkpoints and (ended or due or self.every is None):
                self.save()

    def _steps(self, started: float) -> tuple[float, bool]:
        """Train on what is left of the epoch; return the last rate, and whether a checkpoint is due at its end."""
        trainer, loader, sums = self.trainer, self.loader, self.sums
        train, optimizer, schedule = trainer.steps.train, trainer.optimizer, trainer.schedule
        per_step = schedule is not None and trainer.schedule_per == "step"
        every = self.every if self.checkpoints else None
        lr, spent, due = optimizer.lr, sums.seconds, False
        queued: _Step | None = None  # under way, or so it may be
        with closing(iter(loader)) as batches:  # type: ignore[type-var]
            while (batch := self._next(batches, queued)) is not None:
                before, queued = queued, _Step(*batch, train(*batch))
                if before is not None:
                    self._count(before)
                checkpoint = every is not None and (self.step + 1) % every == 0
                if not (self._each_step or per_step or checkpoint):
                    continue
                loss = self._count(queued)
                if per_step:
                    lr = optimizer.lr
                    schedule.step()  # type: ignore[union-attr]
                for hook in self._each_step:
                    hook(trainer, self.step, loss)
                if checkpoint:
                    # A resumed run must begin with a training step, so what is due after the last waits.
                    due = loader.position == len(loader)
                    if not due:
                        sums.seconds = spent + time.perf_counter() - started
                        self.save()
                trainer.has_accuracy, queued = len(queued.result) == 2, None
        if queued is not None:
            self._count(queued)
            trainer.has_accuracy = len(queued.result) == 2
        sums.seconds = spent + time.perf_counter() - started
        return lr, due

    def _next(self, batches: Iterator[Batch], queued: _Step | None) -> Batch | None:
        """Return the next batch; the time for which nothing is done but wait for it counts as a stall."""
        if queued is not None and not self.loader.ready:
            queued.result[0].item()  # there is time to take part in the step
        ended, started = pending.counts()
        asked = time.perf_counter()
        batch = next(batches, None)
        if ended == started:
            self.sums.stalled += time.perf_counter() - asked
        return batch

    def _count(self, step: _Step) -> float:
        """Wait for the loss of a step, and add it up."""
        loss = step.result[0].item()
        if not math.isfinite(loss):
            raise self._explained(loss, step.x, step.y)
        n, sums = len(step.x), self.sums
        sums.loss += loss if self.trainer.loss_is_sum else loss * n
        sums.count += n
        if len(step.result) == 2:
            sums.correct += int(step.result[1].item())
        self.step += 1
        return loss

    def _finish_epoch(self, lr: float, started: float, spent: float) -> None:
        trainer, sums = self.trainer, self.sums
        if trainer.steps.scaler is not None and trainer.steps.scaler.scale <= LEAST:
            raise NonFiniteLoss(
                f"the gradients are not finite at step {self.step} (epoch {len(trainer.history) + 1}, learning rate "
                f"{lr:g}), however small the loss is scaled; train in float32 to find the operation",
                *(self.step, len(trainer.history) + 1, lr, ""),
            )
        found: dict[str, Any] = {}
        if self.validation is not None:
            found = trainer.evaluate(self.validation)
        record = Epoch(
            epoch=len(trainer.history) + 1,
            lr=lr,
            loss=sums.loss / sums.count,
            accuracy=sums.correct / sums.count if trainer.has_accuracy else None,
            validation_loss=found.get("loss"),
            validation_accuracy=found.get("accuracy"),
            validation_correct=found.get("correct"),
            validation_count=found.get("count"),
            train_seconds=sums.seconds,
            stall_seconds=sums.stalled,
            seconds=spent + time.perf_counter() - started,
        )
        self.sums = Sums()
        trainer.history.append(record)
        if trainer.schedule is not None and trainer.schedule_per == "epoch":
            trainer.schedule.step()
        for c in self.callbacks:
            c.on_epoch_end(trainer, record)

    # --- a loss that is not finite ----------------------------------------------------------------------------

    def _explained(self, loss: float, x: np.ndarray, y: Any) -> NonFiniteLoss:
        """Return the error that names what made the loss NaN or infinite, by replaying the step eagerly."""
        trainer, state = self.trainer, random.default.state
        drawn = state.numpy().copy()
        op, cause = "", _first_leaf(trainer, x, y)
        if not cause:
            cause = "replayed one by one with NumPy, all of its operations gave finite values: it is at the edge"
            try:
                with anomaly(trainer.model):
                    trainer.steps.gradients(x, y)
            except NonFiniteValue as e:
                op, cause = e.op, f"{e}"
            state.assign(drawn)
        step, epoch, lr = self.step + 1, len(trainer.history) + 1, trainer.optimizer.lr
        return NonFiniteLoss(
            f"the loss is {loss} at step {step} (epoch {epoch}, learning rate {lr:g}): {cause}", step, epoch, lr, op
        )

    # --- checkpoints --------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint."""
        now = self.step, len(self.trainer.history)
        if self.checkpoints and self._saved != now:
            self.checkpoints.save(self.step, *self.capture())
            self._saved = now

    def capture(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return all that the rest of the run depends on."""
        trainer = self.trainer
        parts = {
            "model": trainer.model.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "random": random.get_state(),
        }
        if trainer.steps.scaler is not None:
            parts["scaler"] = trainer.steps.scaler.state_dict()
        states: list[dict[str, Any]] = []
        for i, c in enumerate(self._stateful):
            state = c.state_dict()
            parts[f"callback{i}"] = {k: v for k, v in state.items() if isinstance(v, np.ndarray)}
            states.append({k: v for k, v in state.items() if not isinstance(v, np.ndarray)})
        meta = {
            "made_by": self._identity(),
            "step": self.step,
            "stopped": trainer.stopped,
            "loader": self.loader.state_dict(),
            "schedule": None if trainer.schedule is None else trainer.schedule.state_dict(),
            "sums": asdict(self.sums),
            "history": trainer.history.to_dicts(),
            "callbacks": states,
        }
        return meta, join(parts)

    def restore(self, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Continue from what :meth:`capture` returned.

        Raises
        ------
        FileError
            When it is of a run with another model, optimizer, schedule, callbacks or data.
        """
        trainer = self.trainer
        try:
            mine = self._identity()
            for what, value in meta["made_by"].items():
                if value != mine.get(what):
                    raise ValueError(f"{what} {value}, this run has {mine.get(what)}")
            self.loader.load_state_dict(meta["loader"])
            trainer.model.load_state_dict(part(arrays, "model"))
            trainer.optimizer.load_state_dict(part(arrays, "optimizer"))
            if trainer.steps.scaler is not None:
                trainer.steps.scaler.load_state_dict(part(arrays, "scaler"))
            if trainer.schedule is not None:
                trainer.schedule.load_state_dict(meta["schedule"])
            random.set_state(part(arrays, "random"))
            self.step, trainer.stopped = meta["step"], meta["stopped"]
            self.sums = Sums(**meta["sums"])
            for record in meta["history"]:
                trainer.history.append(Epoch(**record))
            for i, (c, state) in enumerate(zip(self._stateful, meta["callbacks"], strict=True)):
                c.load_state_dict({**state, **part(arrays, f"callback{i}")})
        except (ValueError, TypeError, KeyError) as e:
            raise FileError(f"the checkpoint is of another run: {e}") from None
        self._saved = self.step, len(trainer.history)

    def _identity(self) -> dict[str, str]:
        """Return what a checkpoint must share with the run that resumes it, as text."""
        trainer = self.trainer
        optimizer = trainer.optimizer
        options = ", ".join(f"{name}={getattr(optimizer, name)!r}" for name in optimizer._options)
        groups = [(len(g.params), g.lr_scale, g.weight_decay, g.l1) for g in optimizer.groups]
        return {
            "optimizer": f"{type(optimizer).__name__}({options}) of {groups}",
            "schedule": f"{trainer.schedule!r} per {trainer.schedule_per}",
            "loss": type(trainer.loss).__name__,
            "data": self._fingerprint,
            "callbacks": ", ".join(type(c).__name__ for c in self._stateful) or "none",
            "precision": trainer.steps.precision,
        }


def _fingerprint(data: ArrayDataset) -> str:
    """Return what tells one dataset from another."""
    total = zlib.crc32(repr((data.scale.tolist(), data.offset.tolist())).encode())
    for array in (data.x, data.y):
        for start in range(0, 0 if array is None else len(array), 1024):
            total = zlib.crc32(array[start : start + 1024].tobytes(), total)  # type: ignore[index]
    return f"{len(data)} samples of {data.sample_shape} {data.x.dtype} with CRC {total:08x}"


def _first_leaf(trainer: Trainer, x: np.ndarray, y: Any) -> str:
    """Return which input, target or weight was not finite before the step, or an empty string."""
    named = [("input", x), ("target", y)]
    named += [(f"parameter {n!r}", p.numpy()) for n, p in trainer.model.named_parameters()]
    named += [(f"buffer {n!r}", b.numpy()) for n, b in trainer.model.named_buffers()]
    for what, value in named:
        if value is not None and value.dtype.kind == "f" and not np.isfinite(value).all():
            text = f"the {what} of the step holds {first(value)}"
            if what in ("input", "target"):
                return text
            return (
                f"{text} already: an earlier update made it so; train with compile=False inside "
                "smelt.train.anomaly() to find the operation"
            )
    return ""
