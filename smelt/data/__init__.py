"""Datasets and batches: files or arrays in; checked datasets and float32 NumPy batches out.

Every failure is a `DataError`: one line that says what is wrong, where, and what was expected.
"""

from smelt.data import augment
from smelt.data.archive import npz
from smelt.data.classic import fashion_mnist, mnist
from smelt.data.dataset import ArrayDataset
from smelt.data.errors import DataError
from smelt.data.images import image_folder
from smelt.data.loader import Loader
from smelt.data.sources import digits, from_arrays

__all__ = [
    "ArrayDataset",
    "DataError",
    "Loader",
    "augment",
    "digits",
    "fashion_mnist",
    "from_arrays",
    "image_folder",
    "mnist",
    "npz",
]
