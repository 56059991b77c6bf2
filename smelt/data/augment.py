"""Augmentations: a batch of samples as stored and a random generator in; a batch of that shape out.

An augmentation is any callable `(x, rng) -> x`. It sees samples before they become float32, so that 0 is
black whatever the normalisation. All randomness must come from `rng`, which depends only on the loader's
seed, the epoch and the batch: that is what makes a resumed run exact.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from smelt.data.errors import DataError

Array = npt.NDArray[Any]
Augmentation = Callable[[Array, np.random.Generator], Array]


class Compose:
    """Augmentations one after another.

    Parameters
    ----------
    *steps : callable
        Each `(x, rng) -> x`.

    Examples
    --------
    >>> both = Compose(RandomCrop(2), RandomHorizontalFlip())
    >>> both(np.zeros((8, 3, 32, 32), np.uint8), np.random.default_rng(0)).shape
    (8, 3, 32, 32)
    """

    def __init__(self, *steps: Augmentation) -> None:
        self.steps = steps

    def __call__(self, x: Array, rng: np.random.Generator) -> Array:
        """Apply each step to the result of the one before."""
        for step in self.steps:
            x = step(x, rng)
        return x

    def __repr__(self) -> str:
        return f"Compose({', '.join(map(repr, self.steps))})"


class RandomCrop:
    """Pad each image on all sides, then cut out its size at a random place.

    Parameters
    ----------
    padding : int
        Pixels added on each side, at least 0.
    mode : {"constant", "reflect"}, default "constant"
        What is added: `fill`, or the image mirrored at its edge.
    fill : float, default 0
        The value added by "constant", in units of the stored samples.

    Examples
    --------
    >>> crop = RandomCrop(4, mode="reflect")
    >>> crop(np.zeros((8, 3, 32, 32), np.uint8), np.random.default_rng(0)).shape
    (8, 3, 32, 32)
    """

    def __init__(self, padding: int, mode: Literal["constant", "reflect"] = "constant", fill: float = 0) -> None:
        if mode not in ("constant", "reflect"):
            raise DataError(f"RandomCrop: mode {mode!r}, expected 'constant' or 'reflect'")
        self.padding = _pixels(padding, "RandomCrop: padding")
        self.mode = mode
        self.fill = fill

    def __call__(self, x: Array, rng: np.random.Generator) -> Array:
        """Crop samples (n, channels, height, width), or with more axes before the last two."""
        _spatial(x, 2, "RandomCrop")
        sides = (self.padding, self.padding)
        if self.mode == "reflect" and self.padding >= min(x.shape[2:]):
            raise DataError(
                f"RandomCrop: {self.padding} pixels reflected of images {x.shape[2]}×{x.shape[3]}, "
                "expected fewer than the image has"
            )
        return _shifted(x, sides, self.mode, self.fill, rng)

    def __repr__(self) -> str:
        extra = "" if self.mode == "constant" else f", mode={self.mode!r}"
        return f"RandomCrop({self.padding}{extra}{_fill(self.fill)})"


class RandomShift:
    """Move each sample by a random whole number of steps along its last axes, and fill in.

    Parameters
    ----------
    pixels : int or sequence of int
        Largest move in either direction, at least 0. One number holds for all axes after the channels;
        several are for the last axes, in order: `(0, 3)` moves images sideways only, and samples of shape
        (channels, time) take one number.
    fill : float, default 0
        The value of what is uncovered, in units of the stored samples.

    Examples
    --------
    >>> shift = RandomShift((0, 1))
    >>> shift(np.array([[[[1, 2, 3]]]]), np.random.default_rng(2)).tolist()
    [[[[2, 3, 0]]]]
    """

    def __init__(self, pixels: int | Sequence[int], fill: float = 0) -> None:
        many = tuple(pixels) if isinstance(pixels, Sequence) else None
        self.pixels: int | tuple[int, ...]
        if many is None:
            self.pixels = _pixels(pixels, "RandomShift: pixels")
        else:
            self.pixels = tuple(_pixels(n, "RandomShift: pixels") for n in many)
        self.fill = fill

    def __call__(self, x: Array, rng: np.random.Generator) -> Array:
        """Shift samples (n, channels, ...)."""
        if isinstance(self.pixels, int):
            _spatial(x, 1, "RandomShift")
            return _shifted(x, (self.pixels,) * (x.ndim - 2), "constant", self.fill, rng)
        _spatial(x, len(self.pixels), "RandomShift")
        return _shifted(x, self.pixels, "constant", self.fill, rng)

    def __repr__(self) -> str:
        return f"RandomShift({self.pixels}{_fill(self.fill)})"


class RandomHorizontalFlip:
    """Mirror each sample left to right (along its last axis) with probability `p`.

    Parameters
    ----------
    p : float, default 0.5
        Probability, from 0 to 1.

    Examples
    --------
    >>> RandomHorizontalFlip(p=1)(np.array([[[[1, 2, 3]]]]), np.random.default_rng(0)).tolist()
    [[[[3, 2, 1]]]]
    """

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise DataError(f"RandomHorizontalFlip: p {p!r}, expected a probability from 0 to 1")
        self.p = p

    def __call__(self, x: Array, rng: np.random.Generator) -> Array:
        """Flip samples (n, channels, ..., width)."""
        _spatial(x, 1, "RandomHorizontalFlip")
        chosen = rng.random(len(x)) < self.p
        out = x.copy()
        out[chosen] = x[chosen][..., ::-1]
        return out

    def __repr__(self) -> str:
        return f"RandomHorizontalFlip(p={self.p})"


def _shifted(
    x: Array,
    pixels: Sequence[int],
    mode: Literal["constant", "reflect"],
    fill: float,
    rng: np.random.Generator,
) -> Array:
    """Pad the last `len(pixels)` axes, then cut one window per sample, all in one gather."""
    axes = len(pixels)
    width = [(0, 0)] * (x.ndim - axes) + [(n, n) for n in pixels]
    padded = np.pad(x, width, mode="reflect") if mode == "reflect" else _pad(x, width, fill)
    starts = rng.integers(0, 2 * np.array(pixels) + 1, size=(len(x), axes))
    last = tuple(range(x.ndim - axes, x.ndim))
    windows = np.lib.stride_tricks.sliding_window_view(padded, x.shape[x.ndim - axes :], axis=last)
    keep = (slice(None),) * (x.ndim - axes - 1)
    return np.asarray(windows[(np.arange(len(x)), *keep, *starts.T)])


def _pad(x: Array, width: list[tuple[int, int]], fill: float) -> Array:
    # np.pad spends 10 µs an axis on bookkeeping.
    padded = np.full([n + a + b for n, (a, b) in zip(x.shape, width, strict=True)], fill, x.dtype)
    padded[tuple(slice(a, a + n) for n, (a, _) in zip(x.shape, width, strict=True))] = x
    return padded


def _pixels(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise DataError(f"{where} {value!r}, expected a whole number of pixels, at least 0")
    return int(value)


def _spatial(x: Array, axes: int, where: str) -> None:
    if x.ndim < 2 + axes:
        raise DataError(f"{where}: a batch of shape {x.shape}, expected (samples, channels) and {axes} axes or more")


def _fill(fill: float) -> str:
    return f", fill={fill}" if fill else ""
