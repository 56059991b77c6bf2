"""Where a NaN or infinity comes from: eager operations watched one by one; the first that makes one is named.

In: code that runs eagerly inside :func:`anomaly`. Out: an error that names the operation, the shapes it received, the
layer it belongs to and the user's line; for a gradient, those of the operation being differentiated.
"""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import numpy as np

from smelt.autograd import mode
from smelt.nn.module import Module
from smelt.ops.primitive import Primitive
from smelt.tensor import Tensor

_TRAIN = os.path.dirname(os.path.abspath(__file__)) + os.sep
_PACKAGE = os.path.dirname(os.path.dirname(_TRAIN)) + os.sep
_CALL = Module.__call__.__code__


class NonFiniteValue(ArithmeticError):
    """An operation inside :func:`anomaly` gave a NaN or an infinity.

    Attributes
    ----------
    op : str
        The primitive, or an empty string.
    """

    def __init__(self, message: str, op: str = "") -> None:
        super().__init__(message)
        self.op = op


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite, and training stopped with everything as it was before that step.

    Attributes
    ----------
    step, epoch : int
        Where, both counted from 1.
    lr : float
        The learning rate of the step.
    op : str
        The primitive that gave the first value that was not finite; empty when it is none's fault.

    Examples
    --------
    >>> import numpy as np, smelt
    >>> from smelt import nn, optim, train
    >>> trainer = smelt.Trainer(nn.Linear(2, 1), lambda out, y: (out * 0).log().mean(), optim.SGD(lr=0.1))
    >>> try:
    ...     trainer.fit(np.ones((8, 2)), epochs=1, batch_size=8, progress=False)
    ... except train.NonFiniteLoss as e:
    ...     print(e.step, e.op)
    1 log
    """

    def __init__(self, message: str, step: int, epoch: int, lr: float, op: str) -> None:
        super().__init__(message)
        self.step, self.epoch, self.lr, self.op = step, epoch, lr, op


@contextmanager
def anomaly(model: Module | None = None) -> Iterator[None]:
    """Raise at the first eager operation, forward or backward, whose result is not finite.

    Compiled functions are not watched: remove ``smelt.compile``, or give the Trainer ``compile=False``.

    Parameters
    ----------
    model : Module, optional
        Whose layers to name in the error.

    Raises
    ------
    NonFiniteValue
        From the operation.

    Examples
    --------
    >>> import smelt
    >>> from smelt import train
    >>> with train.anomaly():
    ...     y = smelt.tensor([1.0, 0.0]).log()
    Traceback (most recent call last):
        ...
    smelt.train.anomaly.NonFiniteValue: log of float32[2] gave -inf at [1] of float32[2]  [...]
    """
    names = {} if model is None else {id(m): name for name, m in model.named_modules()}

    def observe(out: Tensor, op: Primitive, inputs: tuple[Tensor, ...]) -> None:
        record = mode.differentiating
        if out._record is not None:
            out._record.line = _place(names)
        value = out.numpy()
        if value.dtype.kind != "f" or np.isfinite(value).all():
            return
        where = _place(names) if record is None else record.line
        text = f"{op.name} of {', '.join(map(_shape, inputs))} gave {first(value)} of {_shape(out)}"
        bad = [(i, t) for i, t in enumerate(inputs) if t.dtype.kind == "f" and not np.isfinite(t.numpy()).all()]
        if bad:
            i, t = bad[0]
            text = f"{op.name} received {first(t.numpy())} of its argument {i}{f', {t.name!r}' if t.name else ''}"
        if record is not None:
            text += f", differentiating {record.op.name}"
        raise NonFiniteValue(text + where, op.name)

    before = mode.observe
    mode.observe = observe
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        mode.observe, mode.differentiating = before, None


def first(value: np.ndarray) -> str:
    """Return the first value that is not finite, and where it is."""
    at = np.argwhere(~np.isfinite(value))[0].tolist()
    number = value[tuple(at)]
    return f"{number} at {at}" if at else f"{number}"


def _shape(tensor: Tensor) -> str:
    return f"{tensor.dtype}{list(tensor.shape)}"


def _place(names: dict[int, str]) -> str:
    """Return the layer and the user's line that the running operation belongs to."""
    frame: FrameType | None = sys._getframe(1)
    layer, line = "", ""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_TRAIN) and file != __file__:
            break
        if frame.f_code is _CALL and not layer:
            layer = _describe(frame.f_locals["self"], names)
        if not line and not file.startswith((_PACKAGE, "<frozen")):
            source = linecache.getline(file, frame.f_lineno).strip()
            line = f"{os.path.basename(file)}:{frame.f_lineno}" + (f": {source}" if source else "")
        frame = frame.f_back
    return (f" in {layer}" if layer else "") + (f"  [{line}]" if line else "")


def _describe(module: Module, names: dict[int, str]) -> str:
    text = repr(module)
    short = text if "\n" not in text and len(text) <= 80 else type(module).__name__
    name = names.get(id(module))
    return f"layer {name!r}, {short}" if name else short
