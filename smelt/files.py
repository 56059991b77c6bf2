"""Model files: a module in; one safetensors file, written whole or not at all, out, and back.

A file is a safetensors file whose only metadata is one JSON text: a SHA-256 of the whole file (with the digest's own
place zeroed), the kind of file, its version and what it holds. A reader compares every size the file claims with the
file's own size before it allocates, refuses any byte that changed, and imports nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
import stat
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from smelt import nn
from smelt.errors import FileError
from smelt.nn.module import Module

PathLike = str | os.PathLike[str]

VERSION = 1
MAX_HEADER = 4 << 20
"""Most bytes of names, shapes and metadata that are read or written."""

_KEY = "smelt"
_PREFIX = b'{"__metadata__":{"smelt":"{\\"sha256\\":\\"'
_DIGEST_AT = 8 + len(_PREFIX)
_BLANK = b"0" * 64
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


def save(model: Module, path: PathLike, extra: Mapping[str, Any] | None = None) -> None:
    """Write a network, architecture and weights, into one file.

    The file is written under a temporary name in the same folder, synced, and renamed: whatever happens, ``path`` is
    the old file or the new one. The same model gives the same bytes.

    Parameters
    ----------
    model : Module
        A library layer, or a container of library layers.
    path : path
        Where to write.
    extra : mapping, optional
        Anything JSON can hold, to be kept with the model; :func:`describe` returns it.

    Raises
    ------
    ValueError
        When the model cannot be described (see :func:`smelt.nn.to_config`), or ``extra`` is not JSON.
    FileError
        When the file cannot be written; what was there is left as it was.

    Examples
    --------
    >>> import os, tempfile, smelt
    >>> from smelt import nn
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "small.smelt")
    ...     smelt.save(model, path)
    ...     again = smelt.load(path)
    >>> bool((again[0].weight.numpy() == model[0].weight.numpy()).all())
    True
    """
    config = nn.to_config(model)
    state = model.state_dict()
    _check_rebuilds(config, state)
    write(path, "model", {"config": config, "extra": dict(extra or {})}, state)


def load(path: PathLike) -> Module:
    """Rebuild the network that :func:`save` wrote; it is in evaluation mode.

    Nothing in the file is executed or imported, and no more is allocated than the file is large.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    Module
        With the weights of the file, to the bit.

    Raises
    ------
    FileError
        One line that says what is wrong with the file, and what was expected.

    Examples
    --------
    >>> import os, tempfile, smelt
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "relu.smelt")
    ...     smelt.save(smelt.nn.ReLU(), path)
    ...     smelt.load(path)
    ReLU()
    """
    meta, arrays = read(path, "model")
    where = f"{os.fspath(path)!r}"
    if set(meta) != {"config", "extra"}:
        raise FileError(f"{where}: its metadata holds {', '.join(sorted(meta)) or 'nothing'}, expected config, extra")
    try:
        total = sum(a.size for a in arrays.values())
        model = nn.from_config(meta["config"], max_parameters=total, initialize=False)
        _check_state(dict(model.state_dict()), arrays)
        model.load_state_dict(arrays)
    except (ValueError, TypeError, OverflowError, RecursionError) as e:
        raise FileError(f"{where}: no network can be made of it: {e}") from None
    return model.eval()


def describe(path: PathLike) -> dict[str, Any]:
    """Return what a model file says besides its weights: ``config`` and ``extra``.

    Raises
    ------
    FileError
        As :func:`load`.

    Examples
    --------
    >>> import os, tempfile, smelt
    >>> from smelt import files, nn
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "relu.smelt")
    ...     smelt.save(nn.ReLU(), path, extra={"accuracy": 0.5})
    ...     files.describe(path)["extra"]
    {'accuracy': 0.5}
    """
    return read(path, "model")[0]


def _check_rebuilds(config: dict[str, Any], state: Mapping[str, np.ndarray]) -> None:
    """Refuse to write what could not be read: weights that are not those of the described layers."""
    total = sum(a.size for a in state.values())
    try:
        _check_state(nn.from_config(config, max_parameters=total, initialize=False).state_dict(), state)
    except ValueError as e:
        raise ValueError(f"save: the weights are not those of the layers as they describe themselves: {e}") from None


def _check_state(expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> None:
    for name in [*expected, *found]:
        sides = [f"{s[name].dtype}{list(s[name].shape)}" if name in s else "nothing" for s in (expected, found)]
        if sides[0] != sides[1]:
            raise ValueError(f"{name}: expected {sides[0]}, received {sides[1]}")


# --- the container -----------------------------------------------------------------------------------------------


def pack(kind: str, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return a file of ``kind`` as bytes: arrays, and what JSON can hold."""
    info = {"sha256": _BLANK.decode(), "kind": kind, "version": VERSION, "meta": meta}
    try:
        text = json.dumps(info, separators=(",", ":"))
    except (TypeError, RecursionError) as e:
        raise ValueError(f"{kind} file: expected values that JSON can hold: {e}") from None
    contiguous = {name: np.asarray(a, order="C") for name, a in arrays.items()}
    blob = bytes(safetensors.numpy.save(contiguous, metadata={_KEY: text}))
    header = int.from_bytes(blob[:8], "little")
    if header > MAX_HEADER:
        raise ValueError(f"{kind} file: names and description take {header:,} bytes, expected at most {MAX_HEADER:,}")
    assert blob.startswith(_PREFIX, 8)
    digest = hashlib.sha256(blob).hexdigest().encode()
    return b"".join((blob[:_DIGEST_AT], digest, memoryview(blob)[_DIGEST_AT + 64 :]))


def write(path: PathLike, kind: str, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file of ``kind`` atomically.

    Raises
    ------
    FileError
        When it cannot be written; what was there is left as it was.
    """
    write_atomic(path, pack(kind, meta, arrays))


def write_atomic(path: PathLike, data: bytes) -> None:
    """Replace the file at ``path`` by ``data``: temporary name, fsync, rename, fsync of the folder.

    Raises
    ------
    FileError
        When that fails: what was there is left as it was, and the temporary file removed.
    """
    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        if os.path.isdir(target):
            raise IsADirectoryError(None, "it is a folder, expected the name of a file")
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_folder(folder)
    except OSError as e:
        kept = "; the file that was there is unchanged" if os.path.isfile(target) else ""
        raise FileError(f"{os.fspath(path)!r}: cannot be written: {e.strerror or e}{kept}") from e


def _sync_folder(folder: str) -> None:
    if os.name == "nt":  # a folder cannot be opened there
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read(path: PathLike, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the description and the arrays (read-only) of a file of ``kind``.

    Raises
    ------
    FileError
        When there is none, or anything about it is not as :func:`write` leaves it.
    """
    where = f"{os.fspath(path)!r}"
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise FileError(f"{where}: not a regular file, expected a Smelt {kind}")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(_DIGEST_AT)
            header_size = int.from_bytes(start[:8], "little")
            if len(start) < _DIGEST_AT or not start.startswith(_PREFIX, 8):
                raise FileError(f"{where}: not a Smelt {kind}: expected safetensors with Smelt's metadata")
            if header_size > min(size - 8, MAX_HEADER):
                raise FileError(
                    f"{where}: the header claims {header_size:,} bytes, expected at most "
                    f"{min(size - 8, MAX_HEADER):,} in a file of {size:,}"
                )
            rest = file.read(size - _DIGEST_AT)
    except OSError as e:
        raise FileError(f"{where}: cannot be read: {e.strerror or e}; expected a Smelt {kind}") from e
    except MemoryError:
        raise FileError(f"{where}: {size:,} bytes do not fit into memory") from None
    if len(rest) != size - _DIGEST_AT:
        raise FileError(f"{where}: {_DIGEST_AT + len(rest):,} bytes could be read, expected {size:,}")
    split = 8 + header_size - _DIGEST_AT
    try:
        header = _parse((start[8:] + rest[:split]).decode("utf-8"))
        layout = _layout(header, size - 8 - header_size)
        _check_digest(start, rest)
        meta = _metadata(header, kind)
    except (ValueError, RecursionError) as e:
        raise FileError(f"{where}: damaged or not a Smelt {kind}: {e}") from None
    arrays = {
        name: np.frombuffer(rest, dtype, math.prod(shape), split + begin).reshape(shape)
        for name, (dtype, shape, begin) in layout.items()
    }
    return meta, arrays


def _parse(text: str) -> dict[str, Any]:
    value = json.loads(text, object_pairs_hook=_distinct)
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise ValueError(f"the key {key[:80]!r} appears twice")
        out[key] = value
    return out


def _layout(header: dict[str, Any], payload: int) -> dict[str, tuple[np.dtype, tuple[int, ...], int]]:
    """Return dtype, shape and offset of every tensor; together they must be exactly the payload."""
    out = {}
    spans = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"tensor {name[:80]!r}: expected dtype, shape and data_offsets")
        dtype = _DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
        shape, offsets = _counts(entry["shape"], 32), _counts(entry["data_offsets"], 2)
        if dtype is None or shape is None or offsets is None or len(offsets) != 2:
            raise ValueError(f"tensor {name[:80]!r}: dtype, shape or data_offsets are not what they should be")
        begin, end = offsets
        if not begin <= end <= payload or math.prod(shape) * np.dtype(dtype).itemsize != end - begin:
            raise ValueError(
                f"tensor {name[:80]!r}: {dtype}{list(shape)} at bytes {begin} to {end} of {payload}: expected a place "
                "of its size within the file"
            )
        spans.append((begin, end, name))
        out[name] = (np.dtype(dtype).newbyteorder("<"), shape, begin)
    at = 0
    for begin, end, name in sorted(spans):
        if begin != at:
            raise ValueError(f"tensor {name[:80]!r}: begins at byte {begin}, expected {at}, where the one before ends")
        at = end
    if at != payload:
        raise ValueError(f"tensors of {at} bytes in all, expected the {payload} that follow the header")
    return out


def _counts(value: Any, most: int) -> tuple[int, ...] | None:
    if not isinstance(value, list) or len(value) > most:
        return None
    good = all(type(v) is int and 0 <= v < 1 << 63 for v in value)
    return tuple(value) if good else None


def _check_digest(start: bytes, rest: bytes) -> None:
    digest = hashlib.sha256(start)
    digest.update(_BLANK)
    digest.update(memoryview(rest)[64:])
    if digest.hexdigest().encode() != rest[:64]:
        raise ValueError("the digest does not fit the contents: something changed since it was written")


def _metadata(header: dict[str, Any], kind: str) -> dict[str, Any]:
    texts = header["__metadata__"]
    if not isinstance(texts, dict) or list(texts) != [_KEY] or not isinstance(texts[_KEY], str):
        raise ValueError("expected Smelt's metadata and no other")
    info = _parse(texts[_KEY])
    if set(info) != {"sha256", "kind", "version", "meta"} or not isinstance(info["meta"], dict):
        raise ValueError("expected the metadata sha256, kind, version and meta")
    if info["kind"] != kind:
        raise ValueError(f"it is a {str(info['kind'])[:40]!r} file, expected {kind!r}")
    if type(info["version"]) is not int or info["version"] != VERSION:
        raise ValueError(f"it has format version {str(info['version'])[:40]}, expected {VERSION}")
    return info["meta"]
