"""``smelt.onnx.load``: the path of an ONNX file in; an ordinary module out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from smelt.errors import FileError
from smelt.files import PathLike

if TYPE_CHECKING:
    from smelt.onnx.reader.model import OnnxModel


def load(path: PathLike) -> OnnxModel:
    """Read a network from an ONNX file.

    What comes back is a module as any other, in evaluation mode: call it, compile it, summarize it, train it further,
    export it. Operators that are exactly a layer of the library are that layer. Weights are Parameters under the names
    they have in the file; running statistics are buffers. The batch size is free unless the file's own operations fix
    it.

    Files are read with suspicion: nothing is executed, no more is allocated than the file is large (and 32 MiB for
    constants that are computed), data in other files must lie in the same folder.

    Parameters
    ----------
    path : path
        The file. Versions 7 to 28 of ONNX's operators are understood.

    Returns
    -------
    OnnxModel
        Its arguments are the file's inputs, in order. Several outputs come as a tuple.

    Raises
    ------
    FileError
        One line that says what is wrong with the file, or which node Smelt cannot run, and why.
    ImportError
        When the package ``onnx`` is not installed.

    Examples
    --------
    >>> import os, tempfile, smelt
    >>> from smelt import nn
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "small.onnx")
    ...     smelt.export.onnx(model, path, (4,))
    ...     again = smelt.onnx.load(path)
    >>> again
    OnnxModel(
      (0): Linear(4, 3)
      (1): ReLU()
    )
    >>> [name for name, _ in again.named_parameters()]
    ['0.weight', '0.bias']
    """
    from smelt.onnx.reader.build import build
    from smelt.onnx.reader.parse import read_file

    try:
        return build(read_file(path))
    except MemoryError:
        raise FileError(f"{os.fspath(path)!r}: it does not fit into memory, expected a smaller network") from None
