"""Counter-based random numbers: a seed and the place they are for in; the same numbers each time out.

Nothing is carried from one draw to the next, so any epoch, and any batch of it, can be produced first.
"""

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from smelt.data.errors import DataError


class Stream(IntEnum):
    """What the numbers are for. Different streams of one seed are independent."""

    ORDER = 0
    AUGMENT = 1
    SPLIT = 2


def check_seed(seed: int) -> int:
    """Return `seed` as an int.

    Raises
    ------
    DataError
        If it is not an integer from 0 to 2**64 − 1.

    Examples
    --------
    >>> check_seed(7)
    7
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 1 << 64:
        raise DataError(f"seed: {seed!r}, expected an integer from 0 to 2**64 - 1")
    return int(seed)


def order(count: int, seed: int, epoch: int = 0, stream: Stream = Stream.ORDER) -> npt.NDArray[np.int64]:
    """Return a random order of `count` things, a function of the arguments alone.

    It is made of raw Philox output, which NumPy promises never to change, rather than of `permutation`, which
    it may: a run resumed under another NumPy, or on another processor, sees the same order.

    Parameters
    ----------
    count : int
        How many.
    seed, epoch : int, default 0
        Both from 0 to 2**64 − 1.
    stream : Stream, default Stream.ORDER
        What the order is for.

    Returns
    -------
    numpy.ndarray
        Shape (count,), int64: each of 0 … count − 1 once.

    Examples
    --------
    >>> order(5, seed=0).tolist()
    [0, 2, 1, 4, 3]
    """
    bits = max(count - 1, 0).bit_length()
    mask = np.uint64((1 << bits) - 1)
    keys = _philox(seed, stream, epoch, 0).random_raw(count)
    # The index in the low bits makes every key different, so that any way of sorting gives one answer.
    keys &= ~mask
    keys |= np.arange(count, dtype=np.uint64)
    keys.sort()
    keys &= mask
    return keys.view(np.int64)


def generator(seed: int, epoch: int, batch: int) -> np.random.Generator:
    """Return the generator that augments one batch, a function of the arguments alone.

    Parameters
    ----------
    seed, epoch, batch : int
        Each from 0 to 2**64 − 1.

    Returns
    -------
    numpy.random.Generator
        Good for 2**130 bytes before it meets the next batch's numbers.
    """
    return np.random.Generator(_philox(seed, Stream.AUGMENT, epoch, batch))


def _philox(seed: int, stream: Stream, epoch: int, batch: int) -> np.random.Philox:
    key = np.array([seed, stream], np.uint64)
    counter = np.array([0, 0, batch, epoch], np.uint64)  # word 0 moves first
    return np.random.Philox(key=key, counter=counter)
