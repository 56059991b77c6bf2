"""NPZ, NumPy's archive of arrays: the path of a file and names in; those arrays out. Nothing is unpickled.

An NPZ file is a zip archive with one `NAME.npy` for each array: a magic string, a version, a one-line header
that looks like a Python dictionary, then the elements. The header is matched, never evaluated.
"""

import codecs
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from smelt.data.dataset import ArrayDataset
from smelt.data.errors import DataError
from smelt.data.limits import CHUNK, Source, check_expansion, count_bytes, dims, open_regular, read_array

MAX_HEADER = 10_000
"""Largest header of one array, in bytes."""
MAX_DIRECTORY = CHUNK
"""Largest table of contents of an archive, in bytes: more than ten thousand arrays."""

codecs.lookup("cp437")  # zipfile needs it for names, and reading a file should import nothing
_MAGIC = b"\x93NUMPY"
_ITEM = re.compile(
    r"""\s*(['"])(descr|fortran_order|shape)\1\s*:\s*"""
    r"""(?:(['"])([^'"]*)\3|(True|False)|\(([\d,\s]*)\))\s*(,|(?=\}))\s*"""
)
_SHAPE = re.compile(r"\s*(?:\d{1,20}\s*(?:,\s*\d{1,20}\s*)*,?\s*)?", re.ASCII)
_DTYPE = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248])", re.ASCII)


def npz(path: str | os.PathLike[str], x: str = "x", y: str | None = "y") -> ArrayDataset:
    """Read a dataset from an NPZ file, as written by `numpy.savez` or `numpy.savez_compressed`.

    Parameters
    ----------
    path : path-like
        The file.
    x : str, default "x"
        Name of the array of samples, first axis samples.
    y : str or None, default "y"
        Name of the array of labels or targets; None for samples alone.

    Returns
    -------
    ArrayDataset
        The samples as stored (integers stay integers, `scale` 1) and int64 labels or targets as stored.

    Raises
    ------
    DataError
        If the file is missing, corrupt, or truncated; has no array of that name; declares a shape that its
        bytes do not bear out; holds Python objects; or if the arrays do not make a dataset.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "tiny.npz")
    ...     np.savez(file, x=np.zeros((5, 3), np.float32), y=np.arange(5))
    ...     npz(file)
    ArrayDataset('tiny', 5 samples of (3,) float32, labels int64)
    """
    path = Path(path)
    names = [x] if y is None else [x, y]
    arrays = read(path, names)
    return ArrayDataset(arrays[x], None if y is None else arrays[y], name=path.stem)


def read(path: str | os.PathLike[str], names: Iterable[str] | None = None) -> dict[str, npt.NDArray[Any]]:
    """Read arrays of numbers from an NPZ file.

    Parameters
    ----------
    path : path-like
        The file.
    names : iterable of str, optional
        The arrays to read; all by default.

    Returns
    -------
    dict of str to numpy.ndarray
        Name → array, of the stored shape and element type (bool, integers and floats) in native byte order.

    Raises
    ------
    DataError
        As for `npz`.
    """
    path = Path(path)
    where = f"'{path}'"
    file, size = open_regular(path)
    with file:
        try:
            with zipfile.ZipFile(cast(BinaryIO, _Bounded(file))) as archive:
                members = _members(archive, where)
                chosen = list(members) if names is None else list(dict.fromkeys(names))
                for name in chosen:
                    if name not in members:
                        present = ", ".join(map(repr, list(members)[:20])) or "nothing"
                        raise DataError(f"{where}: no array named {name!r}, expected one of: {present}")
                return {name: _read_member(archive, members[name], size, f"{where}, array {name!r}") for name in chosen}
        except DataError:
            raise
        except (zipfile.BadZipFile, EOFError, zlib.error, struct.error) as error:
            raise DataError(f"{where}: corrupt or truncated ({error}), expected a whole NPZ file") from None
        except OSError as error:
            raise DataError(f"{where}: cannot be read ({error.strerror or error}), expected a whole file") from None
        except (ValueError, NotImplementedError, RuntimeError, OverflowError) as error:
            # zipfile lets these out for nonsense offsets, versions, flags and names.
            raise DataError(f"{where}: not a sound zip archive ({error}), expected an NPZ file") from None


class _Bounded:
    """A file that refuses to be read in one huge piece, which is how zipfile reads a table of contents."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell
        self.seekable = file.seekable

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(MAX_DIRECTORY + 1 if size < 0 else min(size, MAX_DIRECTORY + 1))
        if len(data) > MAX_DIRECTORY:
            raise zipfile.BadZipFile(f"table of contents over {MAX_DIRECTORY} bytes")
        return data


def _members(archive: zipfile.ZipFile, where: str) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        if name in members:
            raise DataError(f"{where}: two arrays named {name!r}, expected different names")
        members[name] = info
    return members


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, size: int, where: str) -> npt.NDArray[Any]:
    if info.flag_bits & 0x1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{where}: encrypted or compressed in another way, expected stored or deflated")
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
        raise DataError(f"{where}: {info.file_size} bytes stored in {info.compress_size}, expected the same")
    if info.compress_size > size:
        raise DataError(f"{where}: {info.compress_size} bytes declared, expected at most the file's {size}")
    check_expansion(info.file_size, info.compress_size, where)
    with archive.open(info) as stream:
        shape, dtype, fortran, used = _npy_header(stream, where)
        declared = count_bytes(shape, dtype.itemsize, where)
        if used + declared != info.file_size:
            raise DataError(
                f"{where}: {dims(shape)} of {dtype.name} declared, {declared} bytes, "
                f"expected the {info.file_size - used} bytes present"
            )
        array = read_array(cast(Source, stream), shape[::-1] if fortran else shape, dtype, where)
        stream.read(1)  # an empty array has not met the checksum yet
    return array.T if fortran else array


def _npy_header(stream: IO[bytes], where: str) -> tuple[tuple[int, ...], np.dtype[Any], bool, int]:
    start = stream.read(8)
    version = tuple(start[6:8])
    if start[:6] != _MAGIC or version not in ((1, 0), (2, 0), (3, 0)):
        raise DataError(f"{where}: starts with {start.hex(' ')!r}, expected an NPY array of version 1, 2 or 3")
    width = 2 if version == (1, 0) else 4
    length = int.from_bytes(_exactly(stream, width, where), "little")
    if length > MAX_HEADER:
        raise DataError(f"{where}: a header of {length} bytes declared, expected at most {MAX_HEADER}")
    text = _exactly(stream, length, where).decode("latin1")
    shape, dtype, fortran = _parse(text, where)
    return shape, dtype, fortran, 8 + width + length


def _parse(text: str, where: str) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    wrong = f"{where}: header {text.strip()[:80]!r}"
    body = text.strip()
    position, found = 1, dict[str, str]()
    while body.startswith("{") and (item := _ITEM.match(body, position)):
        _, key, _, quoted, truth, numbers, _ = item.groups()
        value = {"descr": quoted, "fortran_order": truth, "shape": numbers}[key]
        if key in found or value is None:
            break
        found[key] = value
        position = item.end()
    if len(found) != 3 or body[position:] != "}":
        raise DataError(f"{wrong}, expected 'descr', 'fortran_order' and 'shape' of one array of numbers")
    if not _DTYPE.fullmatch(found["descr"]):
        raise DataError(f"{wrong}, expected numbers (Python objects and records are never loaded)")
    if not _SHAPE.fullmatch(found["shape"]):
        raise DataError(f"{wrong}, expected a shape such as (60000, 28, 28)")
    shape = tuple(int(n) for n in found["shape"].split(",") if n.strip())
    return shape, np.dtype(found["descr"]), found["fortran_order"] == "True"


def _exactly(stream: IO[bytes], count: int, where: str) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise DataError(f"{where}: ends inside the NPY header, expected {count} bytes and found {len(data)}")
    return data
