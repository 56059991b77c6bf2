"""Folders of pictures: a folder with one folder per class in; a dataset of bytes out."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from smelt.data.dataset import ArrayDataset
from smelt.data.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".webp", ".tif", ".tiff"})
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "WEBP", "TIFF")
MAX_PIXELS = 1 << 26
"""Largest picture, in pixels."""

_GRAY = frozenset({"1", "L", "LA"})
_COLOUR = frozenset({"RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr"})


def image_folder(path: str | os.PathLike[str], size: int | tuple[int, int] | None = None) -> ArrayDataset:
    """Load a folder of pictures in which each folder is a class.

    Parameters
    ----------
    path : path-like
        The folder. The folders in it, sorted by name, are classes 0, 1, …; the pictures in each, also in
        folders further down, sorted by path, are its samples. Hidden files, and files that are not called
        like pictures (`SUFFIXES`), are passed over.
    size : int or (int, int), optional
        Resize pictures to this height and width (one number: both), bilinear with antialiasing, whatever
        their proportions. By default all must have the same size already.

    Returns
    -------
    ArrayDataset
        x uint8 (n, channels, height, width), batched as float32 from 0 to 1; one channel if all pictures are
        gray, else three (red, green, blue; transparency is dropped). y int64, `classes` the folders' names.

    Raises
    ------
    DataError
        If Pillow is not installed; there is no such folder, no class in it, or a class without pictures; a
        picture cannot be read, is not of 8 bits, or has another size than the first.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for kind in ("cat", "dog"):
    ...         pathlib.Path(folder, kind).mkdir()
    ...         Image.new("RGB", (8, 6)).save(pathlib.Path(folder, kind, "1.png"))
    ...     ds = image_folder(folder)
    >>> ds.x.shape, ds.y.tolist(), ds.classes
    ((2, 3, 6, 8), [0, 1], ('cat', 'dog'))
    """
    root = Path(path)
    target = _target(size)
    classes, files, labels = _list(root)
    shapes, gray = [], True
    for file in files:
        with _Opened(file) as image:
            gray = gray and image.mode in _GRAY
            shapes.append((image.height, image.width))
    if target is None:
        target = shapes[0]
        for file, shape in zip(files, shapes, strict=True):
            if shape != target:
                raise DataError(
                    f"'{file}': {shape[0]}×{shape[1]} pixels, expected {target[0]}×{target[1]} "
                    "like the first: give size=(height, width) to resize"
                )
    channels = 1 if gray else 3
    try:
        x = np.empty((len(files), channels, *target), np.uint8)
    except MemoryError:
        raise DataError(
            f"'{root}': {len(files)} pictures of {target[0]}×{target[1]}, "
            "expected a size that fits in memory: give a smaller size="
        ) from None
    for index, file in enumerate(files):
        with _Opened(file) as image:
            x[index] = _pixels(image, channels, target)
    return ArrayDataset(x, np.array(labels), root.name, classes, scale=1 / 255)


class _Opened:
    """A picture whose every failure, on opening or on decoding, is a `DataError` that names the file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> "Image":
        try:
            from PIL import Image
        except ImportError:
            raise DataError("image_folder: Pillow is missing, expected after: pip install smelt[images]") from None
        try:
            self._image = Image.open(self._file, formats=FORMATS)
        except Exception as error:
            self._fail(error)
        image = self._image
        if image.mode not in _GRAY | _COLOUR or image.width * image.height > MAX_PIXELS:
            image.close()
            raise DataError(
                f"'{self._file}': {image.width}×{image.height} pixels of kind {image.mode}, "
                f"expected 8 bits per channel and at most {MAX_PIXELS} pixels"
            )
        return image

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._image.close()
        # Pillow's decoders raise whatever they stumble over: OSError, SyntaxError, struct.error, …
        if isinstance(error, Exception) and not isinstance(error, DataError):
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        reason = "too large for memory" if isinstance(error, MemoryError) else error or type(error).__name__
        raise DataError(f"'{self._file}': cannot be read ({reason}), expected a whole picture") from None


def _pixels(image: "Image", channels: int, size: tuple[int, int]) -> npt.NDArray[Any]:
    from PIL.Image import Resampling

    height, width = size
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(height, width, channels).transpose(2, 0, 1)


def _list(root: Path) -> tuple[list[str], list[Path], list[int]]:
    try:
        folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise DataError(f"'{root}': {error.strerror}, expected a folder with one folder per class") from None
    if not folders:
        raise DataError(f"'{root}': no folders in it, expected one for each class")
    files: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found = sorted(
            p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()
        )
        if not found:
            raise DataError(f"'{folder}': no pictures in it, expected some ({', '.join(sorted(SUFFIXES))})")
        files += found
        labels += [label] * len(found)
    return [folder.name for folder in folders], files, labels


def _target(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    pair = tuple(size) if isinstance(size, tuple | list) else (size, size)
    good = len(pair) == 2 and all(isinstance(n, int) and n > 0 for n in pair)
    if not good or pair[0] * pair[1] > MAX_PIXELS:
        raise DataError(f"image_folder: size {size!r}, expected a height and a width in pixels, above 0")
    return pair[0], pair[1]
