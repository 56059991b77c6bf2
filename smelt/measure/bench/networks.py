"""What is measured: the name of a network of the zoo in; the network, its loss and batches of data out.

Every contender makes the same from the same seed: the same weights, the same statistics of batch normalization, the
same data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import smelt
from smelt import nn
from smelt.models import INPUT_SHAPES, MODELS

TRAIN = {"mnist_cnn": 64, "ds_cnn": 64, "resnet8": 64, "autoencoder": 128, "lenet_300_100": 32}
"""The networks of ``smelt bench train`` and their batches."""

INFER = {
    "mnist_cnn": (1, 64),
    "ds_cnn": (1, 64),
    "resnet8": (1, 64),
    "autoencoder": (1, 64),
    "mobilenet_v1": (1, 64),
    "mobilenet_v2": (1, 8),
}
"""The networks of ``smelt bench infer`` and their batches."""

BATCHES = 8  # different ones, so that no step sees the same data twice in a row


@dataclass(frozen=True)
class Network:
    """A network of the zoo with data that fit it."""

    name: str
    model: nn.Sequential
    shape: tuple[int, ...]
    classes: int

    @property
    def learns_its_input(self) -> bool:
        """Whether the target of a sample is the sample (an autoencoder, mean squared error), not a class."""
        return self.classes == 0

    @property
    def drops(self) -> bool:
        """Whether there is dropout, so that two training steps differ."""
        return any(isinstance(m, nn.Dropout) for _, m in self.model.named_modules())

    def batches(self, size: int, count: int = BATCHES) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return ``count`` batches: float32 (size, ...) and int64 classes (size,), or twice the same array."""
        rng = np.random.default_rng(0)
        out = []
        for _ in range(count):
            x = rng.normal(size=(size, *self.shape)).astype(np.float32)
            out.append((x, x if self.learns_its_input else rng.integers(0, self.classes, size)))
        return out


def make(name: str) -> Network:
    """Return a network of the zoo; always with the same weights.

    Batch normalization starts with statistics that are not 0 and 1, so that leaving them out would show.

    Examples
    --------
    >>> network = make("autoencoder")
    >>> network.shape, network.learns_its_input
    ((640,), True)
    """
    smelt.seed(0)
    model = MODELS[name]()
    rng = np.random.default_rng(1)
    for _, module in model.named_modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            n = module.num_features
            module.load_state_dict(
                {
                    "running_mean": rng.normal(0, 0.1, n).astype(np.float32),
                    "running_var": rng.uniform(0.8, 1.25, n).astype(np.float32),
                },
                strict=False,
            )
    last = [m for _, m in model.named_modules() if isinstance(m, nn.Linear)][-1]
    return Network(name, model, INPUT_SHAPES[name], 0 if name == "autoencoder" else last.out_features)
