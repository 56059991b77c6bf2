"""What happened in each epoch: figures in; a sequence of records that prints as a table and as JSON out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, overload


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch.

    Attributes
    ----------
    epoch : int
        Counted from 1.
    lr : float
        Learning rate of its last step.
    loss : float
        Mean over the samples trained on, each as it was before the step it took part in.
    accuracy : float or None
        Share of them that were classified correctly; None where there are no classes.
    validation_loss, validation_accuracy : float or None
        The same of the validation data after the epoch; None without.
    validation_correct, validation_count : int or None
        How many of how many.
    train_seconds : float
        Time of the training steps, with the preparation of their batches.
    stall_seconds : float
        The part of it in which nothing was done but wait for a batch.
    seconds : float
        Time of the whole epoch.

    Examples
    --------
    >>> from smelt.train import Epoch
    >>> Epoch(1, lr=0.1, loss=2.5).to_dict()["loss"]
    2.5
    """

    epoch: int
    lr: float
    loss: float
    accuracy: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    validation_correct: int | None = None
    validation_count: int | None = None
    train_seconds: float = 0.0
    stall_seconds: float = 0.0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the figures by name, in the order above."""
        return asdict(self)


FIELDS = tuple(f.name for f in fields(Epoch))


class History(Sequence[Epoch]):
    """The epochs of one run of :meth:`Trainer.fit`, oldest first.

    ``history[-1]`` is the last epoch, ``history.loss`` the list of all losses, and so on for every figure.

    Parameters
    ----------
    epochs : iterable of Epoch, default ()
        The records.

    Examples
    --------
    >>> from smelt.train import Epoch, History
    >>> history = History([Epoch(1, 0.1, 2.5), Epoch(2, 0.1, 1.5)])
    >>> history[-1].loss
    1.5
    >>> history.loss
    [2.5, 1.5]
    >>> history
    epoch  lr   loss
        1  0.1  2.5
        2  0.1  1.5
    """

    def __init__(self, epochs: Iterable[Epoch] = ()) -> None:
        self._epochs = list(epochs)

    @overload
    def __getitem__(self, index: int) -> Epoch: ...
    @overload
    def __getitem__(self, index: slice) -> History: ...
    def __getitem__(self, index: int | slice) -> Epoch | History:
        """Return one epoch, or a history of some."""
        return History(self._epochs[index]) if isinstance(index, slice) else self._epochs[index]

    def __len__(self) -> int:
        return len(self._epochs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, History) and other._epochs == self._epochs

    __hash__ = None  # type: ignore[assignment]

    def __getattr__(self, name: str) -> list[Any]:
        if name not in FIELDS:
            raise AttributeError(f"History has no figure {name!r}; it has {', '.join(FIELDS)}")
        return [getattr(e, name) for e in self._epochs]

    def append(self, epoch: Epoch) -> None:
        """Add the next epoch."""
        self._epochs.append(epoch)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return one dict per epoch."""
        return [e.to_dict() for e in self._epochs]

    def to_json(self) -> str:
        """Return a JSON list of one object per epoch; figures that are not finite are null.

        Examples
        --------
        >>> from smelt.train import Epoch, History
        >>> History([Epoch(1, 0.1, 2.5)]).to_json()[:40]
        '[{"epoch": 1, "lr": 0.1, "loss": 2.5, "a'
        """
        return json.dumps([finite(e.to_dict()) for e in self._epochs])

    def __repr__(self) -> str:
        if not self._epochs:
            return "History of no epochs"
        names = [n for n in FIELDS if any(getattr(e, n) not in (None, 0.0) for e in self._epochs)]
        rows = [[n.replace("_", " ") for n in names]]
        rows += [[show(getattr(e, n)) for n in names] for e in self._epochs]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        aligned = [
            [row[0].rjust(widths[0]), *(v.ljust(w) for v, w in zip(row[1:], widths[1:], strict=True))] for row in rows
        ]
        return "\n".join("  ".join(row).rstrip() for row in aligned)


def finite(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with None in place of figures that JSON cannot say."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}


def show(value: Any) -> str:
    """Return a figure as people read it."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
