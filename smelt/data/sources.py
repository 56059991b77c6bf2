"""Datasets from elsewhere in memory: NumPy arrays, or scikit-learn's digits, in; datasets out."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from smelt.data.dataset import ArrayDataset
from smelt.data.errors import DataError


def from_arrays(
    x: npt.ArrayLike,
    y: npt.ArrayLike | None = None,
    *,
    name: str = "",
    classes: Sequence[str] | int | None = None,
    scale: npt.ArrayLike = 1.0,
    offset: npt.ArrayLike = 0.0,
) -> ArrayDataset:
    """Make a dataset of arrays, or of anything NumPy can read as an array.

    Parameters
    ----------
    x : array_like
        Samples along the first axis.
    y : array_like, optional
        Labels or targets along the first axis.
    name, classes, scale, offset
        As for `ArrayDataset`. For bytes of images, give `scale=1 / 255`.

    Returns
    -------
    ArrayDataset
        The arrays, not copied.

    Raises
    ------
    DataError
        As for `ArrayDataset`.

    Examples
    --------
    >>> from_arrays([[0.0, 1.0], [1.0, 0.0]], [1, 0], classes=["up", "down"])
    ArrayDataset(2 samples of (2,) float64, labels int64, 2 classes)
    """
    return ArrayDataset(x, y, name, classes, scale=scale, offset=offset)


def digits(test_fraction: float = 0.2, seed: int = 0) -> tuple[ArrayDataset, ArrayDataset]:
    """Load scikit-learn's digits: 1,797 images of 8×8 pixels that come with it.

    Parameters
    ----------
    test_fraction : float, default 0.2
        How much of them to test with, above 0 and below 1.
    seed : int, default 0
        Which ones, from 0 to 2**64 − 1.

    Returns
    -------
    train, test : ArrayDataset
        x uint8 (n, 1, 8, 8) from 0 to 16, batched as float32 from 0 to 1; y int64 from 0 to 9.

    Raises
    ------
    DataError
        If scikit-learn is not installed, or a part would be empty.

    Examples
    --------
    >>> train, test = digits()
    >>> len(train), len(test), train.sample_shape
    (1438, 359, (1, 8, 8))
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError("digits: scikit-learn is missing, expected after: pip install smelt[sklearn]") from None
    data, labels = load_digits(return_X_y=True)
    x = data.astype(np.uint8).reshape(-1, 1, 8, 8)
    train, test = ArrayDataset(x, labels, "digits", 10, scale=1 / 16).split(test_fraction, seed)
    train.name, test.name = "digits train", "digits test"
    return train, test
