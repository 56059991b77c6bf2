"""The three functions a trainer runs: a training step, an evaluation step and a prediction, compiled or eager.

In: a model, a loss and an optimizer; then batches. Out: per batch (loss,) or (loss, how many were right), or outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from smelt import ops, random
from smelt.autograd import no_grad
from smelt.data.errors import DataError
from smelt.errors import at_user_line
from smelt.functions import where
from smelt.graph.trace import current_tracer
from smelt.nn.loss import CrossEntropyLoss
from smelt.nn.module import Module
from smelt.optim import LossScaler, Optimizer
from smelt.precision import autocast
from smelt.runtime.step import Compiled
from smelt.tensor import Tensor

LossFunction = Callable[[Tensor, Tensor], Tensor]
Result = tuple[Tensor, ...]


class Steps:
    """The functions of one trainer.

    Attributes
    ----------
    train, evaluate : callable
        ``(x, y) -> (loss, ...)``; ``y`` is None for a model that learns its own input. Steps are queued: from the one
        whose loss is not finite on, none changes anything, until ``halted`` is False again.
    predict : callable
        ``x -> output``.
    halted : Tensor
        Whether there was such a loss.
    classes : int or None
        Columns of the logits, once a step has run with a cross-entropy.
    labels : tuple of int
        Smallest and largest label of the data that come next, to be checked against ``classes``.
    scaler : LossScaler or None
        Of a float16 run.
    """

    def __init__(
        self,
        model: Module,
        loss: LossFunction,
        optimizer: Optimizer,
        accuracy: bool | None,
        compiled: bool,
        precision: str = "f32",
    ) -> None:
        self.model, self.loss, self.optimizer, self.accuracy = model, loss, optimizer, accuracy
        self.precision = precision
        self.scaler = LossScaler() if precision == "f16" else None
        self.halted = Tensor(np.zeros((), np.bool_), name="halted")
        self.classes: int | None = None
        self.labels = (0, 0)
        made: dict[str, Callable[..., Any]] = {
            "train_step": self._train,
            "evaluation_step": self._evaluate,
            "prediction": self._predict,
        }
        self.train, self.evaluate, self.predict = (
            Compiled(f, name, precision, owned=True) if compiled else _eager(f, precision) for name, f in made.items()
        )

    def gradients(self, x: Any, y: Any) -> None:
        """Run forward and backward eagerly, and keep neither gradients nor statistics: a replay to be watched."""
        self.forget()
        buffers = [(t, _kept(t)) for _, t in self.model.named_buffers()]
        try:
            with autocast(self.precision):
                out = self.model(Tensor(x))
                self._loss(out, x if y is None else y).backward()
        finally:
            self.forget()
            for t, before in buffers:
                t.assign(before)

    def forget(self) -> None:
        """Drop the gradients of everything the optimizer and the model hold."""
        self.optimizer.zero_grad()
        for p in self.model.parameters():
            p.grad = None

    def check_labels(self) -> None:
        """Refuse labels that the model has no logit for."""
        low, high = self.labels
        if self.classes is not None and not 0 <= low <= high < self.classes:
            raise DataError(
                f"labels from {low} to {high}, expected 0 to {self.classes - 1}: the model has {self.classes} outputs"
            )

    # --- what is compiled ------------------------------------------------------------------------------------

    def _train(self, x: Tensor, y: Tensor | None) -> Result:
        buffers = [(t, _kept(t)) for _, t in self.model.named_buffers()]
        drawn = random.default.state
        before_drawing = None if current_tracer() else _kept(drawn)
        out = self.model(x)
        loss = self._loss(out, x if y is None else y)
        finite = ops.logical_and(ops.isfinite(loss), ops.logical_not(self.halted))
        if self.scaler is None:
            loss.backward()
            self.optimizer.step(when=finite)
        else:
            self.scaler.scaled(loss).backward()
            self.scaler.step(self.optimizer, when=finite)
        for p in self.model.parameters():  # those the optimizer was not given
            p.grad = None
        with no_grad():
            self.halted.assign(ops.logical_not(finite))
            for t, before in [*buffers, *_bound(drawn, before_drawing)]:
                if not _unchanged(t, before):
                    t.assign(where(finite, t, before))
            return (loss.detach(), *self._correct(out.detach(), y))

    def _evaluate(self, x: Tensor, y: Tensor | None) -> Result:
        out = self.model(x)
        return (self._loss(out, x if y is None else y), *self._correct(out, y))

    def _predict(self, x: Tensor) -> Any:
        return self.model(x)

    def _loss(self, out: Any, target: Any) -> Tensor:
        if isinstance(self.loss, CrossEntropyLoss) and isinstance(out, Tensor) and out.ndim == 2:
            self.classes = int(out.shape[1])
            self.check_labels()
        loss = self.loss(out, target)
        if not isinstance(loss, Tensor) or any(d != 1 for d in loss._spec.shape):
            got = tuple(loss._spec.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(at_user_line(f"Trainer: loss: expected one number per batch, received {got}"))
        return loss.reshape(()) if loss.ndim else loss

    def _correct(self, out: Any, y: Tensor | None) -> Result:
        """Return how many predictions are right, as float32 (exact below 2**24), where there are classes."""
        if self.accuracy is False:
            return ()
        known = isinstance(out, Tensor) and out.ndim == 2 and y is not None and y.ndim == 1 and y.dtype.kind in "iu"
        if not known or y is None:
            if self.accuracy:
                raise ValueError("Trainer: accuracy: expected outputs (batch, classes) and one integer label each")
            return ()
        return ((out.argmax(1) == y).astype("float32").sum(),)


def _eager(function: Callable[..., Any], precision: str) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        with np.errstate(all="ignore"), autocast(precision):  # whoever calls looks at the loss
            return function(*(Tensor(a) if isinstance(a, np.ndarray) else a for a in args))

    return call


def _kept(tensor: Tensor) -> Tensor:
    """Return the value a tensor has now, which stays when the tensor is overwritten."""
    tracer = current_tracer()
    return Tensor(tensor.numpy().copy() if tracer is None else tracer.lift(tensor))


def _bound(tensor: Tensor, before: Tensor | None) -> list[tuple[Tensor, Tensor]]:
    """Return a tensor and the value it had before the step; nothing when the step that is traced did not touch it."""
    tracer = current_tracer()
    if tracer is None:
        return [] if before is None else [(tensor, before)]
    return [(t, Tensor(node)) for t, node in tracer.state.values() if t is tensor]


def _unchanged(tensor: Tensor, before: Tensor) -> bool:
    tracer = current_tracer()
    return tracer is not None and tracer.lift(tensor) is before._value


@contextmanager
def mode(model: Module, training: bool) -> Iterator[None]:
    """Put a model into training or evaluation mode for a while."""
    before = [(m, m._training) for _, m in model.named_modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, value in before:
            module._training = value
