"""Tensors of an ONNX file: a TensorProto in; a NumPy array out.

The size a tensor claims is compared with the bytes that are there before memory is taken. Data may lie in another file,
but only in the model's own folder.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from smelt.data.errors import DataError
from smelt.data.limits import count_bytes, open_regular
from smelt.errors import FileError
from smelt.ops.primitive import DTypes

_RAW = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 11: "float64", 12: "uint32"}
"""Element types of ONNX that Smelt has, by ONNX's numbers."""
_FIELDS = {1: "float_data", 2: "int32_data", 3: "int32_data", 6: "int32_data", 7: "int64_data", 9: "int32_data",
           11: "double_data", 12: "uint64_data"}  # fmt: skip
_NAMES = {10: "float16", 16: "bfloat16", 4: "uint16", 5: "int16", 8: "string", 13: "uint64", 14: "complex64"}

MAX_BESIDE = 1 << 32
"""Most bytes of data in other files."""


def numpy_dtype(number: int, where: str) -> np.dtype:
    """Return the NumPy type of one of ONNX's element types.

    Raises
    ------
    FileError
        When Smelt has no such type.
    """
    if number not in _RAW:
        raise FileError(f"{where}: elements of type {_NAMES.get(number, number)}, expected {', '.join(DTypes)}")
    return np.dtype(_RAW[number])


class Beside:
    """The other files that a model's data may lie in: those of its folder, of which no byte is taken twice.

    Parameters
    ----------
    folder : Path or None
        The model's folder; None when there is none.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._taken: dict[Path, int] = {}

    def read(self, location: str, offset: int, length: int, expected: int, where: str) -> bytes:
        """Return bytes of a file, of which ``expected`` must be there.

        Raises
        ------
        FileError
            When they are not, or the file lies outside of the folder.
        """
        path = _inside(self._folder, location, where)
        try:
            file, size = open_regular(path)
        except DataError as e:
            raise FileError(f"{where}: {e}") from None
        with file:
            if length != expected or offset < 0 or offset + length > size:
                raise FileError(
                    f"{where}: {length:,} bytes from byte {offset:,} of {location!r}, which has {size:,}; expected "
                    f"{expected:,} bytes within it"
                )
            self._take(path, length, size, where)
            file.seek(offset)
            return file.read(length)

    def _take(self, path: Path, length: int, size: int, where: str) -> None:
        """Count bytes of a file: a small one, read again and again, would else fill the memory."""
        self._taken[path] = self._taken.get(path, 0) + length
        if self._taken[path] > size:
            raise FileError(f"{where}: data in {path.name!r} that others have too, expected bytes of its own")
        if sum(self._taken.values()) > MAX_BESIDE:
            raise FileError(f"{where}: expected at most {MAX_BESIDE:,} bytes of data in other files")


def read_tensor(tensor: Any, beside: Beside, where: str) -> np.ndarray:
    """Return the values of a tensor, in native byte order.

    Parameters
    ----------
    tensor : onnx.TensorProto
        Inline, or in a file beside the model.
    beside : Beside
        The files beside the model.
    where : str
        How to name the tensor in an error.

    Raises
    ------
    FileError
        When the size is not what the shape says, or the data lies outside of the folder.
    """
    dtype = numpy_dtype(tensor.data_type, where)
    shape = tuple(tensor.dims)
    if any(d < 0 for d in shape):
        raise FileError(f"{where}: shape {shape}, expected sizes of at least 0")
    try:
        expected = count_bytes(shape, dtype.itemsize, where)
    except DataError as e:
        raise FileError(str(e)) from None
    if tensor.HasField("segment"):
        raise FileError(f"{where}: split into segments, expected a whole tensor")
    if tensor.data_location == tensor.EXTERNAL:
        raw: Any = _external(tensor, beside, expected, where)
    elif tensor.HasField("raw_data"):
        raw = tensor.raw_data
    else:
        return _typed(tensor, shape, dtype, where)
    if len(raw) != expected:
        raise FileError(f"{where}: {len(raw):,} bytes of data, expected {expected:,} for {dtype}{list(shape)}")
    array = np.frombuffer(raw, dtype.newbyteorder("<")).reshape(shape)
    return array.astype(dtype)


def _typed(tensor: Any, shape: tuple[int, ...], dtype: np.dtype, where: str) -> np.ndarray:
    values = getattr(tensor, _FIELDS[tensor.data_type])
    size = math.prod(shape)
    if len(values) != size:
        raise FileError(f"{where}: {len(values):,} elements, expected {size:,} for {dtype}{list(shape)}")
    wide = np.array(values, np.uint64 if dtype == np.uint32 else np.int64 if dtype.kind in "iub" else np.float64)
    return wide.astype(dtype).reshape(shape)


def _external(tensor: Any, beside: Beside, expected: int, where: str) -> bytes:
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", str(expected)))
    except ValueError:
        raise FileError(f"{where}: the place of its data in {location!r} is no number") from None
    return beside.read(location, offset, length, expected, where)


def _inside(folder: Path | None, location: str, where: str) -> Path:
    """Return the path of a file of external data, which must lie in the model's folder, links followed."""
    if folder is None or not location or "\0" in location or os.path.isabs(location):
        raise FileError(f"{where}: data in {location!r}, expected a file in the model's folder")
    home = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(home, location))
    if os.path.commonpath([home, path]) != home or path == home:
        raise FileError(f"{where}: data in {location!r}, expected a file in the model's folder")
    return Path(path)
