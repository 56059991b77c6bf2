"""The model zoo: builders of small networks. All are trees of library layers, so any of them can be saved.

``MODELS`` is the table that recipes and commands choose from; ``INPUT_SHAPES`` says what one sample looks
like.
"""

from collections.abc import Callable

from smelt.models.classic import autoencoder, lenet5, lenet_300_100, mnist_cnn
from smelt.models.ds_cnn import ds_cnn
from smelt.models.mobilenet import mobilenet_v1, mobilenet_v2
from smelt.models.resnet8 import resnet8
from smelt.nn import Sequential

MODELS: dict[str, Callable[..., Sequential]] = {
    "autoencoder": autoencoder,
    "ds_cnn": ds_cnn,
    "lenet5": lenet5,
    "lenet_300_100": lenet_300_100,
    "mnist_cnn": mnist_cnn,
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
    "resnet8": resnet8,
}

INPUT_SHAPES: dict[str, tuple[int, ...]] = {
    "autoencoder": (640,),
    "ds_cnn": (1, 49, 10),
    "lenet5": (1, 28, 28),
    "lenet_300_100": (1, 28, 28),
    "mnist_cnn": (1, 28, 28),
    "mobilenet_v1": (3, 96, 96),
    "mobilenet_v2": (3, 224, 224),
    "resnet8": (3, 32, 32),
}

__all__ = [
    "INPUT_SHAPES",
    "MODELS",
    "autoencoder",
    "ds_cnn",
    "lenet5",
    "lenet_300_100",
    "mnist_cnn",
    "mobilenet_v1",
    "mobilenet_v2",
    "resnet8",
]
