"""A dataset in memory: arrays of samples and labels in; checked subsets and float32 batches out.

Samples keep the type they came in, so that MNIST stays 47 MB of bytes. They become float32 batch by batch, as
`x * scale + offset`.
"""

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from smelt.data.errors import DataError
from smelt.data.limits import dims
from smelt.data.randomness import Stream, check_seed, order

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]

_CHECKED_AT_ONCE = 1 << 18


class ArrayDataset:
    """Samples, and labels or targets for them, held in memory.

    Parameters
    ----------
    x : array_like
        Samples along the first axis; bool, integers or floats. Kept as given, not copied.
    y : array_like, optional
        One label or target per sample along the first axis. Integers become int64; floats are kept.
    name : str, default ""
        What to call the data in messages.
    classes : sequence of str, or int, optional
        Names of the classes, or how many there are. Labels are then checked to be 0 … count − 1.
    scale, offset : float or array_like, default 1 and 0
        How samples become float32: `x * scale + offset`. One number, or one for each index of axis 1
        (channels of images, columns of a table).

    Attributes
    ----------
    x : numpy.ndarray
        The samples as stored.
    y : numpy.ndarray or None
        The labels or targets.
    name : str
        As given.
    classes : tuple of str, or None
        Names of the classes.
    scale, offset : numpy.ndarray
        float64, shape () or (x.shape[1],).

    Raises
    ------
    DataError
        If `x` or `y` is not an array of numbers, their lengths differ, a label is out of range, or a float is
        NaN, infinite or too large for float32. The message names the first sample at fault.

    Examples
    --------
    >>> pixels = np.arange(24, dtype=np.uint8).reshape(6, 1, 2, 2)
    >>> ds = ArrayDataset(pixels, [0, 1, 2, 0, 1, 2], name="tiny", classes=3, scale=1 / 255)
    >>> ds
    ArrayDataset('tiny', 6 samples of (1, 2, 2) uint8, labels int64, 3 classes)
    >>> x, y = ds.batch([5, 0])
    >>> x.dtype, x.shape, y.tolist()
    (dtype('float32'), (2, 1, 2, 2), [2, 0])
    """

    def __init__(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike | None = None,
        name: str = "",
        classes: Sequence[str] | int | None = None,
        *,
        scale: npt.ArrayLike = 1.0,
        offset: npt.ArrayLike = 0.0,
    ) -> None:
        where = name or "dataset"
        self.name = name
        self.classes = _class_names(classes, where)
        self.x = _numbers(x, f"{where}: x")
        check_finite(self.x, f"{where}: x")
        self.y = None if y is None else _numbers(y, f"{where}: y")
        if self.y is not None:
            if len(self.y) != len(self.x):
                raise DataError(f"{where}: {len(self.x)} samples and {len(self.y)} labels, expected as many of each")
            if self.classes is not None:
                check_labels(self.y, len(self.classes), where)
            if self.y.dtype.kind in "iu":
                self.y = _int64(self.y, where)
            check_finite(self.y, f"{where}: y")
        self._set_affine(scale, offset)

    def _set_affine(self, scale: npt.ArrayLike, offset: npt.ArrayLike) -> None:
        self.scale = self._per_channel(scale, "scale")
        self.offset = self._per_channel(offset, "offset")
        self._plain = bool((self.scale == 1).all() and (self.offset == 0).all())

    def _per_channel(self, value: npt.ArrayLike, what: str) -> npt.NDArray[np.float64]:
        """Give one float64, or one for each index of axis 1."""
        where = f"{self.name or 'dataset'}: {what}"
        array = np.array(_numbers(np.atleast_1d(value), where), np.float64)
        if array.shape == (1,):
            array = array.reshape(())
        elif self.x.ndim < 2 or array.shape != (self.x.shape[1],):
            channels = f" or {self.x.shape[1]}" if self.x.ndim > 1 else ""
            raise DataError(f"{where}: shape {dims(array.shape)}, expected one number{channels}")
        if not np.isfinite(array).all():
            raise DataError(f"{where}: {array.tolist()}, expected finite numbers")
        return array

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample, such as (1, 28, 28)."""
        return self.x.shape[1:]

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        parts = [repr(self.name)] if self.name else []
        parts.append(f"{len(self)} samples of {self.sample_shape} {self.x.dtype}")
        if self.y is not None:
            parts.append(f"labels {self.y.dtype}" + (f" {self.y.shape[1:]}" if self.y.ndim > 1 else ""))
        if self.classes is not None:
            parts.append(f"{len(self.classes)} classes")
        return f"ArrayDataset({', '.join(parts)})"

    @overload
    def __getitem__(self, index: int) -> tuple[Float32, Any]: ...

    @overload
    def __getitem__(self, index: slice | Sequence[int] | Array) -> "ArrayDataset": ...

    def __getitem__(self, index: int | slice | Sequence[int] | Array) -> "tuple[Float32, Any] | ArrayDataset":
        """Return one sample as (float32 x, y), or the samples that a slice, list or mask selects."""
        if isinstance(index, int | np.integer):
            x = to_float32(self.x[index][None], self)[0]
            return x, None if self.y is None else self.y[index]
        chosen: Any = index if isinstance(index, slice) else np.asarray(index)
        if not isinstance(chosen, slice):
            if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iub"):
                raise IndexError(f"index of shape {chosen.shape} and type {chosen.dtype}, expected a list of integers")
            chosen = chosen if chosen.size else chosen.astype(np.int64)
        return self._with(self.x[chosen], None if self.y is None else self.y[chosen])

    def _with(self, x: Array, y: Array | None) -> "ArrayDataset":
        """Make a dataset of samples that have been checked already."""
        other = object.__new__(ArrayDataset)
        other.__dict__.update(self.__dict__)
        other.x, other.y = x, y
        return other

    def take(self, n: int) -> "ArrayDataset":
        """Return the first `n` samples, without copying.

        Parameters
        ----------
        n : int
            How many, from 0 to the length of the dataset.

        Returns
        -------
        ArrayDataset
            Views of the same arrays.

        Raises
        ------
        DataError
            If there are fewer than `n`.
        """
        if not 0 <= n <= len(self):
            raise DataError(f"{self.name or 'dataset'}: take({n}), expected 0 to {len(self)}, the samples there are")
        return self[:n]

    def split(self, fraction: float, seed: int = 0) -> "tuple[ArrayDataset, ArrayDataset]":
        """Set a random part aside, for validation for instance.

        Parameters
        ----------
        fraction : float
            How much to set aside, above 0 and below 1; the count is rounded.
        seed : int, default 0
            Which samples, from 0 to 2**64 − 1.

        Returns
        -------
        rest, part : ArrayDataset
            `part` holds `round(fraction * len(self))` samples. Both keep the original order.

        Raises
        ------
        DataError
            If either part would be empty.

        Examples
        --------
        >>> train, validation = ArrayDataset(np.zeros((50, 4))).split(0.2)
        >>> len(train), len(validation)
        (40, 10)
        """
        count = round(fraction * len(self)) if 0 < fraction < 1 else 0
        if not 0 < count < len(self):
            raise DataError(
                f"{self.name or 'dataset'}: split({fraction}) of {len(self)} samples, "
                "expected a fraction between 0 and 1 that leaves samples on both sides"
            )
        shuffled = order(len(self), check_seed(seed), stream=Stream.SPLIT)
        return self[np.sort(shuffled[count:])], self[np.sort(shuffled[:count])]

    def normalized(self, mean: npt.ArrayLike, std: npt.ArrayLike) -> "ArrayDataset":
        """Return the same samples, batched as `(value - mean) / std`.

        Parameters
        ----------
        mean, std : float or array_like
            In units of what the dataset gives now (0 … 1 for images): one number, or one for each index of
            axis 1.

        Returns
        -------
        ArrayDataset
            The same arrays with another `scale` and `offset`.

        Raises
        ------
        DataError
            If `std` is not above 0, or the shapes do not fit.

        Examples
        --------
        >>> ds = ArrayDataset(np.full((2, 1, 4, 4), 255, np.uint8), scale=1 / 255).normalized(0.1307, 0.3081)
        >>> round(float(ds[0][0].max()), 3)
        2.821
        """
        mean, std = self._per_channel(mean, "mean"), self._per_channel(std, "std")
        if not (std > 0).all():
            raise DataError(f"{self.name or 'dataset'}: std {std.tolist()}, expected numbers above 0")
        other = self._with(self.x, self.y)
        other._set_affine(self.scale / std, (self.offset - mean) / std)
        return other

    def batch(self, indices: slice | npt.ArrayLike) -> tuple[Float32, Any]:
        """Gather samples as a network reads them.

        Parameters
        ----------
        indices : slice or array_like of int
            Which samples, shape (n,).

        Returns
        -------
        x : numpy.ndarray
            Shape (n, *sample_shape), float32, C-contiguous, newly made.
        y : numpy.ndarray or None
            First axis n, C-contiguous, newly made: int64 labels, or float32 targets.
        """
        chosen = self[indices if isinstance(indices, slice) else np.asarray(indices)]
        return to_float32(chosen.x, self), None if chosen.y is None else to_target(chosen.y)


def to_float32(raw: Array, dataset: ArrayDataset) -> Float32:
    """Turn stored samples into what a network reads: `raw * scale + offset`.

    Parameters
    ----------
    raw : numpy.ndarray
        Shape (n, *sample_shape), any type of number.
    dataset : ArrayDataset
        Whose `scale` and `offset` to use.

    Returns
    -------
    numpy.ndarray
        The same shape, float32, C-contiguous, newly made.
    """
    out = np.empty(raw.shape, np.float32)
    if dataset._plain:
        np.copyto(out, raw, casting="unsafe")
        return out
    scale, offset = (
        value.reshape(value.shape + (1,) * (raw.ndim - 2)) if value.ndim else value
        for value in (dataset.scale, dataset.offset)
    )
    if raw.dtype.itemsize > 2 and raw.dtype != np.float32:
        # A time in seconds since 1970 has no fraction left in float32; take the mean off first.
        np.copyto(out, raw * scale + offset, casting="unsafe")
        return out
    np.multiply(raw, scale.astype(np.float32), out=out, dtype=np.float32)
    if offset.any():
        np.add(out, offset.astype(np.float32), out=out)
    return out


def to_target(y: Array) -> Array:
    """Copy labels as they are, and floats as float32."""
    return np.array(y, np.float32 if y.dtype.kind == "f" else y.dtype, order="C")


def check_finite(array: Array, where: str) -> None:
    """Refuse floats that float32 cannot hold.

    Raises
    ------
    DataError
        Naming the first sample that holds a NaN, an infinity, or a number beyond 3.4e38.
    """
    if array.dtype.kind != "f" or not array.size:
        return
    step = max(1, _CHECKED_AT_ONCE * len(array) // array.size)
    for start in range(0, len(array), step):
        with np.errstate(over="ignore"):
            good = np.isfinite(array[start : start + step].astype(np.float32, copy=False))
        if not good.all():
            place = np.argwhere(~good)[0]
            place[0] += start
            at = f" at {tuple(place[1:].tolist())}" if len(place) > 1 else ""
            value = float(array[tuple(place)])
            raise DataError(f"{where}: sample {place[0]} holds {value}{at}, expected finite float32 numbers")


def check_labels(y: Array, classes: int, where: str) -> None:
    """Refuse labels that are not 0 … classes − 1.

    Raises
    ------
    DataError
        Naming the first index at fault, its label, and what was expected.
    """
    if y.dtype.kind not in "iu":
        raise DataError(f"{where}: labels of type {y.dtype}, expected integers from 0 to {classes - 1}")
    if y.size and (y.min() < 0 or y.max() >= classes):
        first = np.argwhere((y < 0) | (y >= classes))[0]
        raise DataError(
            f"{where}: label {y[tuple(first)]} at index {', '.join(map(str, first))}, "
            f"expected 0 to {classes - 1} ({classes} classes)"
        )


def _numbers(value: npt.ArrayLike, where: str) -> Array:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: not an array ({error}), expected an array of numbers") from None
    if array.dtype.kind not in "biuf" or array.ndim < 1:
        raise DataError(f"{where}: {array.dtype} of shape {array.shape}, expected an array of numbers")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _int64(y: Array, where: str) -> Array:
    if y.dtype == np.uint64 and y.size and y.max() > np.iinfo(np.int64).max:
        raise DataError(f"{where}: label {y.max()}, expected integers below 2**63")
    return y.astype(np.int64, copy=False)


def _class_names(classes: Sequence[str] | int | None, where: str) -> tuple[str, ...] | None:
    if classes is None:
        return None
    names = tuple(map(str, range(classes) if isinstance(classes, int | np.integer) else classes))
    if not names:
        raise DataError(f"{where}: no classes, expected at least one")
    return names
