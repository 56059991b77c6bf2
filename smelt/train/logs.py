"""Logs: one line per epoch appended to a CSV or JSON-lines file.

In: the records of a run. Out: a file that holds each epoch once, however often the run was killed and resumed.
"""

from __future__ import annotations

import csv
import io
import json
import os
from typing import TYPE_CHECKING

from smelt.errors import FileError
from smelt.files import PathLike, write_atomic
from smelt.train.callbacks import Callback
from smelt.train.history import FIELDS, Epoch, finite

if TYPE_CHECKING:
    from smelt.train.trainer import Trainer


class _Log(Callback):
    """Writes the file anew from the history when a run begins, then appends whole lines."""

    def __init__(self, path: PathLike) -> None:
        self.path = os.fspath(path)

    def _head(self) -> str:
        return ""

    def _line(self, record: Epoch) -> str:
        raise NotImplementedError

    def on_fit_start(self, trainer: Trainer) -> None:
        """Write the epochs the run already has: none, or those before the checkpoint it is resumed from."""
        lines = [self._head(), *map(self._line, trainer.history)]
        write_atomic(self.path, "".join(lines).encode())

    def on_epoch_end(self, trainer: Trainer, record: Epoch) -> None:
        """Append the epoch."""
        try:
            with open(self.path, "ab") as file:
                file.write(self._line(record).encode())
        except OSError as e:
            raise FileError(f"{self.path!r}: cannot be written: {e.strerror or e}") from e


class CSVLog(_Log):
    """One row per epoch, under a row of names; a figure there is none of is an empty cell.

    A new run replaces the file; a resumed run continues it.

    Parameters
    ----------
    path : path
        The file.

    Examples
    --------
    >>> from smelt import train
    >>> train.CSVLog("run.csv")._head()[:21]
    'epoch,lr,loss,accurac'
    """

    def _head(self) -> str:
        return ",".join(FIELDS) + "\n"

    def _line(self, record: Epoch) -> str:
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerow(record.to_dict().values())
        return out.getvalue()


class JSONLLog(_Log):
    """One JSON object per line and epoch; a figure that is not finite is null.

    A new run replaces the file; a resumed run continues it.

    Parameters
    ----------
    path : path
        The file.

    Examples
    --------
    >>> from smelt import train
    >>> train.JSONLLog("run.jsonl")._line(train.Epoch(1, 0.1, 2.5))[:37]
    '{"epoch": 1, "lr": 0.1, "loss": 2.5, '
    """

    def _line(self, record: Epoch) -> str:
        return json.dumps(finite(record.to_dict())) + "\n"
