"""MNIST and Fashion-MNIST: a folder, or nothing, in; a pair of datasets, training and test, out."""

import hashlib
import os
from pathlib import Path

from smelt.data import idx
from smelt.data.cache import Collection, Published, cache_folder, fetch
from smelt.data.dataset import ArrayDataset, check_labels
from smelt.data.errors import DataError
from smelt.data.limits import dims

MNIST = Collection(
    "mnist",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    {
        "train-images-idx3-ubyte.gz": Published(
            9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
        ),
        "train-labels-idx1-ubyte.gz": Published(
            28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
        ),
        "t10k-images-idx3-ubyte.gz": Published(
            1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
        ),
        "t10k-labels-idx1-ubyte.gz": Published(
            4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
        ),
    },
)
FASHION_MNIST = Collection(
    "fashion-mnist",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    {
        "train-images-idx3-ubyte.gz": Published(
            26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
        ),
        "train-labels-idx1-ubyte.gz": Published(
            29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
        ),
        "t10k-images-idx3-ubyte.gz": Published(
            4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
        ),
        "t10k-labels-idx1-ubyte.gz": Published(
            5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
        ),
    },
)

DIGITS = tuple("0123456789")
CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

# SHA-256 of the labels alone: the two sets have files of the same names, and are easily taken for each other.
_LABELS = {
    "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13": "mnist",
    "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5": "mnist",
    "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7": "fashion-mnist",
    "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9": "fashion-mnist",
}


def mnist(folder: str | os.PathLike[str] | None = None, *, download: bool = True) -> tuple[ArrayDataset, ArrayDataset]:
    """Load MNIST: handwritten digits, 60,000 for training and 10,000 for testing.

    Parameters
    ----------
    folder : path-like, optional
        A folder with the four IDX files, or with a folder `mnist` that has them; gzip or not, named
        `train-images-idx3-ubyte` or `train-images.idx3-ubyte`. Without it, the folder that the environment
        variable SMELT_DATA names; without that, this user's cache.
    download : bool, default True
        Whether files missing from the cache are downloaded, and compared with their checksums. Nothing is
        ever downloaded into a folder that was named.

    Returns
    -------
    train, test : ArrayDataset
        x uint8 (n, 1, 28, 28), batched as float32 from 0 to 1; y int64 from 0 to 9.

    Raises
    ------
    DataError
        If a file is missing, cannot be downloaded, or is not what it should be.

    Examples
    --------
    >>> train, test = mnist("mnist-folder", download=False)  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    smelt.data.errors.DataError: 'mnist-folder': no such folder, ...
    """
    return _load(MNIST, DIGITS, folder, download)


def fashion_mnist(
    folder: str | os.PathLike[str] | None = None, *, download: bool = True
) -> tuple[ArrayDataset, ArrayDataset]:
    """Load Fashion-MNIST: pictures of clothes in ten classes, in the form of MNIST.

    Parameters
    ----------
    folder : path-like, optional
        As for `mnist`; the folder inside it is called `fashion-mnist`.
    download : bool, default True
        As for `mnist`.

    Returns
    -------
    train, test : ArrayDataset
        x uint8 (n, 1, 28, 28), batched as float32 from 0 to 1; y int64 from 0 to 9.

    Raises
    ------
    DataError
        If a file is missing, cannot be downloaded, or is not what it should be.
    """
    return _load(FASHION_MNIST, CLOTHES, folder, download)


def _load(
    collection: Collection, classes: tuple[str, ...], folder: str | os.PathLike[str] | None, download: bool
) -> tuple[ArrayDataset, ArrayDataset]:
    found = _locate(collection, folder, download)
    train = _part(collection, classes, found, "train", "train")
    test = _part(collection, classes, found, "t10k", "test")
    return train, test


def _locate(collection: Collection, folder: str | os.PathLike[str] | None, download: bool) -> Path:
    named_by = ""
    if folder is None and (folder := os.environ.get("SMELT_DATA") or None) is not None:
        named_by = " (named by SMELT_DATA)"
    if folder is None:
        return fetch(collection, cache_folder() / collection.name, download=download)
    path = Path(folder)
    if not path.is_dir():
        raise DataError(
            f"'{path}'{named_by}: no such folder, expected one with '{next(iter(collection.files))}': "
            "name the folder that has the files, or none to download them"
        )
    inner = path / collection.name
    return inner if inner.is_dir() else path


def _part(collection: Collection, classes: tuple[str, ...], folder: Path, prefix: str, part: str) -> ArrayDataset:
    images_path = _find(folder, f"{prefix}-images", "idx3-ubyte")
    labels_path = _find(folder, f"{prefix}-labels", "idx1-ubyte")
    images, labels = idx.read(images_path), idx.read(labels_path)
    if images.dtype != "u1" or images.ndim != 3 or images.shape[1:] != (28, 28) or not len(images):
        raise DataError(f"'{images_path}': {dims(images.shape)} of {images.dtype}, expected n×28×28 of uint8")
    if labels.dtype != "u1" or labels.ndim != 1:
        raise DataError(f"'{labels_path}': {dims(labels.shape)} of {labels.dtype}, expected n of uint8")
    if len(images) != len(labels):
        raise DataError(f"'{labels_path}': {len(labels)} labels, expected {len(images)}, one for each image")
    check_labels(labels, len(classes), f"'{labels_path}'")
    known = _LABELS.get(hashlib.sha256(labels.tobytes()).hexdigest(), collection.name)
    if known != collection.name:
        raise DataError(f"'{folder}': holds {known}, expected {collection.name}: name the folder that has it")
    x = images.reshape(-1, 1, 28, 28)
    return ArrayDataset(x, labels, f"{collection.name} {part}", classes, scale=1 / 255)


def _find(folder: Path, stem: str, kind: str) -> Path:
    for name in (f"{stem}-{kind}", f"{stem}.{kind}"):
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    raise DataError(
        f"'{folder}': no file '{stem}-{kind}' or '{stem}-{kind}.gz', "
        "expected one of them: name the folder that has it, or none to download it"
    )
