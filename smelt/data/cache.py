"""Published files on this computer: a description with checksums in; a folder that holds the files out.

A file is downloaded under a temporary name in the folder it goes to, compared with its checksum, and only
then renamed: what has its final name is whole.
"""

import contextlib
import hashlib
import http.client
import logging
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from smelt.data.errors import DataError

_CHUNK = 1 << 16
_TIMEOUT = 30.0
_STALE_AFTER = 24 * 3600.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """One published file.

    Attributes
    ----------
    size : int
        Bytes.
    sha256 : str
        Its SHA-256 digest, 64 lower-case hexadecimal digits.
    """

    size: int
    sha256: str


@dataclass(frozen=True)
class Collection:
    """Files published at one address.

    Attributes
    ----------
    name : str
        Also the name of the folder they are kept in.
    url : str
        Where they are, with a slash at the end.
    files : mapping of str to Published
        File name → what it must be.
    """

    name: str
    url: str
    files: Mapping[str, Published]


def cache_folder() -> Path:
    """Return the folder for this user's downloaded data; it need not exist.

    Returns
    -------
    Path
        `$XDG_CACHE_HOME/smelt`, else `~/Library/Caches/smelt` on macOS and `~/.cache/smelt` elsewhere.

    Raises
    ------
    DataError
        If this user has no home folder.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):
        return Path(base, "smelt")
    try:
        home = Path.home()
    except RuntimeError:
        raise DataError("no home folder for downloads, expected HOME or SMELT_DATA to be set") from None
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "smelt"


def fetch(collection: Collection, folder: Path, *, download: bool = True) -> Path:
    """Make sure that a folder holds all files of a collection.

    Parameters
    ----------
    collection : Collection
        What should be there.
    folder : Path
        Where; it is made if need be. A file of the right size is taken as it is: only whole, verified files
        get their final name.
    download : bool, default True
        Whether to download what is missing.

    Returns
    -------
    Path
        `folder`.

    Raises
    ------
    DataError
        If a file is missing and cannot be, or may not be, downloaded, or is not what was published. What was
        in the folder is left intact.
    """
    for name, published in collection.files.items():
        path = folder / name
        try:
            if path.stat().st_size == published.size:
                continue
        except OSError:
            pass
        if not download:
            raise DataError(
                f"'{folder}': no whole file '{name}' of {collection.name}, "
                "expected it there: allow the download, or name a folder that has it"
            )
        _download(collection.url + name, path, published)
    return folder


def _download(url: str, path: Path, published: Published) -> None:
    _log.info("downloading %s (%.1f MB)", url, published.size / 1e6)
    hint = "put the file there yourself, or name a folder that has it"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise DataError(f"'{path}': cannot be written ({error.strerror}), expected a writable folder") from None
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            size, digest = _receive(url, file.fileno(), published.size)
            if (size, digest) != (published.size, published.sha256):
                what = f"over {published.size} bytes" if size > published.size else f"{size} bytes, sha256 {digest}"
                raise DataError(f"'{url}': gave {what}, expected {published.size} bytes, sha256 {published.sha256}")
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except DataError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DataError(f"'{url}': download to '{path}' failed ({error}), expected the file: {hint}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _receive(url: str, descriptor: int, limit: int) -> tuple[int, str]:
    """Copy an address to a file, at most one byte more than `limit`; return the count and the digest."""
    digest, size = hashlib.sha256(), 0
    request = urllib.request.Request(url, headers={"User-Agent": "smelt"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        while size <= limit and (data := response.read(min(_CHUNK, limit + 1 - size))):
            digest.update(data)
            size += len(data)
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
    return size, digest.hexdigest()


def _remove_stale(path: Path) -> None:
    """Remove what downloads of this file that were killed long ago have left."""
    for left in path.parent.glob(f".{path.name}.*.part"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_AFTER:
                left.unlink()
