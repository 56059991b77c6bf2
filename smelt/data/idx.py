"""IDX, the format of MNIST: the path of a file, gzip or not, in; one NumPy array out.

An IDX file is two zero bytes, a type code, the number of dimensions, each dimension as a big-endian 32-bit
integer, then the elements, big-endian, last dimension fastest. Nothing may follow.
"""

import gzip
import os
import struct
import zlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from smelt.data.errors import DataError
from smelt.data.limits import Source, check_expansion, count_bytes, dims, open_regular, read_array

TYPES: dict[int, np.dtype[Any]] = {
    0x08: np.dtype("u1"),
    0x09: np.dtype("i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
"""Type code in the third byte → element type as stored."""

_GZIP_MAGIC = b"\x1f\x8b"


class _Stream(Source, Protocol):
    def read(self, size: int, /) -> bytes: ...


def read(path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    """Read an IDX file.

    Compression is recognised by its first bytes, not by the file's name. A plain file's declared size is
    compared with the file before memory is taken; a gzip file is read as a stream that stops at the declared
    size.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    numpy.ndarray
        The declared shape; uint8, int8, int16, int32, float32 or float64 in native byte order; C-contiguous.

    Raises
    ------
    DataError
        If the file is missing, is not IDX, is truncated or corrupt, holds more or fewer bytes than its header
        declares, or declares more than fits in memory or can honestly have been compressed.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "labels.idx")
    ...     _ = file.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
    ...     read(file)
    array([7, 2, 1], dtype=uint8)
    """
    path = Path(path)
    where = f"'{path}'"
    file, size = open_regular(path)
    with file:
        try:
            packed = file.read(2) == _GZIP_MAGIC
            file.seek(0)
            if packed:
                with gzip.GzipFile(fileobj=file, mode="rb") as stream:
                    return _read_stream(stream, where, packed=size)
            return _read_plain(file, where, size)
        except (gzip.BadGzipFile, EOFError, zlib.error, struct.error) as error:
            raise DataError(f"{where}: corrupt or truncated gzip ({error}), expected a whole file") from None
        except OSError as error:
            raise DataError(f"{where}: cannot be read ({error.strerror}), expected a readable file") from None


def _read_plain(file: _Stream, where: str, size: int) -> npt.NDArray[Any]:
    shape, dtype = _header(file, where)
    expected = 4 + 4 * len(shape) + count_bytes(shape, dtype.itemsize, where)
    if size != expected:
        raise DataError(f"{where}: {size} bytes, expected {expected} for {dims(shape)} of {dtype.name}")
    return read_array(file, shape, dtype, where)


def _read_stream(stream: _Stream, where: str, packed: int) -> npt.NDArray[Any]:
    shape, dtype = _header(stream, where)
    declared = count_bytes(shape, dtype.itemsize, where)
    check_expansion(declared, packed, where)
    array = read_array(stream, shape, dtype, where)
    # Reading on is also what makes gzip compare its checksum.
    if stream.read(1):
        raise DataError(f"{where}: data goes on after {dims(shape)} of {dtype.name}, expected the file to end")
    return array


def _header(stream: _Stream, where: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    magic = _exactly(stream, 4, where)
    dtype = TYPES.get(magic[2])
    if magic[:2] != b"\0\0" or dtype is None or magic[3] == 0:
        codes = " ".join(f"{code:02x}" for code in TYPES)
        raise DataError(
            f"{where}: starts with {magic.hex(' ')}, expected IDX: 00 00, a type code ({codes}), "
            "and the number of dimensions"
        )
    count = magic[3]
    return struct.unpack(f">{count}I", _exactly(stream, 4 * count, where)), dtype


def _exactly(stream: _Stream, count: int, where: str) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise DataError(f"{where}: ends inside the IDX header, expected {count} bytes and found {len(data)}")
    return data
