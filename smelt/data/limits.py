"""Rules that file readers share: an open file and a declared size in; exactly that, or an error, out.

A size written in a file is a claim. It is compared with the bytes that are there before memory is taken;
where the bytes are compressed, and so cannot be counted without expanding them, the claim is held to a ratio.
"""

import io
import math
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from smelt.data.errors import DataError

MAX_DIMS = 32
FREE_BYTES = 64 << 20
"""Compressed content up to this size, in bytes, is read whatever its ratio."""
MAX_RATIO = 100
"""Beyond `FREE_BYTES`, expanded bytes per compressed byte. Images reach about 10, deflate 1032."""
CHUNK = 1 << 20


class Source(Protocol):
    """Anything that fills a buffer: a file, a gzip stream, a member of a zip archive."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill `buffer` from its start; return the count of bytes written, 0 at the end."""


def open_regular(path: Path) -> tuple[io.BufferedReader, int]:
    """Open a regular file for reading.

    Parameters
    ----------
    path : Path
        The file. Pipes, devices and folders are refused: their size says nothing about what they give.

    Returns
    -------
    file : io.BufferedReader
        The open file; the caller closes it.
    size : int
        Its size in bytes.

    Raises
    ------
    DataError
        If there is no such file, it cannot be opened, or it is not a regular file.
    """
    try:
        # Looked at before opening as well: to open a pipe nobody writes to would wait for ever.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DataError(f"'{path}': not a regular file, expected a data file")
        file = path.open("rb")
    except FileNotFoundError:
        raise DataError(f"'{path}': no such file, expected a data file") from None
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"'{path}': cannot be opened ({reason}), expected a readable file") from None
    return file, os.fstat(file.fileno()).st_size


def count_bytes(shape: Sequence[int], itemsize: int, where: str) -> int:
    """Bytes of an array of `shape`, computed without overflow.

    Parameters
    ----------
    shape : sequence of int
        Dimensions, each at least 0.
    itemsize : int
        Bytes per element.
    where : str
        How to name the array in an error.

    Returns
    -------
    int
        Size in bytes.

    Raises
    ------
    DataError
        If there are more dimensions, or more elements, than an array can have. Dimensions of size 0 do not
        hide the others: NumPy overflows on `(0, 2**62, 4)` too.

    Examples
    --------
    >>> count_bytes((60000, 28, 28), 1, "images")
    47040000
    """
    if len(shape) > MAX_DIMS:
        raise DataError(f"{where}: {len(shape)} dimensions declared, expected at most {MAX_DIMS}")
    if math.prod(max(n, 1) for n in shape) * itemsize >= 1 << 62:
        raise DataError(f"{where}: dimensions {dims(shape)} declared, expected a size that fits in memory")
    return math.prod(shape) * itemsize


def check_expansion(declared: int, packed: int, where: str) -> None:
    """Refuse a declared size that compressed bytes cannot, or should not, expand to.

    Parameters
    ----------
    declared : int
        Bytes after expansion, as the file claims.
    packed : int
        Compressed bytes that are there.
    where : str
        How to name the file in an error.

    Raises
    ------
    DataError
        If `declared` exceeds both `FREE_BYTES` and `MAX_RATIO` times `packed`.
    """
    if declared > max(FREE_BYTES, MAX_RATIO * packed):
        raise DataError(
            f"{where}: {declared} bytes declared in {packed} compressed bytes, "
            f"expected at most {MAX_RATIO} bytes for each"
        )


def read_array(source: Source, shape: Sequence[int], dtype: np.dtype[Any], where: str) -> npt.NDArray[Any]:
    """Read exactly one array, in native byte order.

    Parameters
    ----------
    source : Source
        Where the bytes come from. Memory is touched only as bytes arrive.
    shape : sequence of int
        Dimensions, already compared with the bytes that are there.
    dtype : numpy.dtype
        Element type as stored, with its byte order.
    where : str
        How to name the file in an error.

    Returns
    -------
    numpy.ndarray
        A C-contiguous array of `shape` in native byte order.

    Raises
    ------
    DataError
        If the source ends early or the array does not fit in memory.
    """
    try:
        array = np.empty(tuple(shape), dtype)
    except MemoryError:
        raise DataError(f"{where}: shape {dims(shape)} of {dtype}, expected a size that fits in memory") from None
    view = array.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(view):
        got = source.readinto(view[done : done + CHUNK])
        if not got:
            raise DataError(f"{where}: ends after {done} bytes of data, expected {len(view)} for {dims(shape)}")
        done += got
    if not dtype.isnative:
        array = array.byteswap(inplace=True).view(dtype.newbyteorder("="))
    return array


def dims(shape: Sequence[int]) -> str:
    """Write a shape for a message.

    Examples
    --------
    >>> dims((60000, 28, 28))
    '60000×28×28'
    """
    return "×".join(map(str, shape)) or "()"
