"""Small image classifiers and the plain autoencoder: sizes in; networks of library layers out."""

from __future__ import annotations

from itertools import pairwise

from smelt import nn


def mnist_cnn(classes: int = 10) -> nn.Sequential:
    """Return the seven-layer network for 28 × 28 grey images: one convolution, two linear layers.

    Input (N, 1, 28, 28), output logits (N, classes); 805,066 parameters and 1,431,296 MACs for 10 classes.

    Parameters
    ----------
    classes : int, default 10
        Size of the output.

    Examples
    --------
    >>> from smelt import models
    >>> sum(p.size for p in models.mnist_cnn().parameters())
    805066
    """
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(6272, 128),
        nn.ReLU(),
        nn.Linear(128, classes),
    )


def lenet_300_100(classes: int = 10) -> nn.Sequential:
    """Return the fully connected network 784-300-100-classes of the compression literature.

    LeCun et al., "Gradient-based learning applied to document recognition" (1998), with ReLU. Input
    (N, 1, 28, 28), output logits (N, classes); 266,610 parameters and 266,200 MACs for 10 classes.

    Parameters
    ----------
    classes : int, default 10
        Size of the output.

    Examples
    --------
    >>> from smelt import models
    >>> sum(p.size for p in models.lenet_300_100().parameters())
    266610
    """
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 300),
        nn.ReLU(),
        nn.Linear(300, 100),
        nn.ReLU(),
        nn.Linear(100, classes),
    )


def lenet5(classes: int = 10) -> nn.Sequential:
    """Return LeNet-5 as it is used today: ReLU, max pooling, every channel connected.

    LeCun et al., "Gradient-based learning applied to document recognition" (1998). Input (N, 1, 28, 28),
    output logits (N, classes); 61,706 parameters and 416,520 MACs for 10 classes.

    Parameters
    ----------
    classes : int, default 10
        Size of the output.

    Examples
    --------
    >>> from smelt import models
    >>> sum(p.size for p in models.lenet5().parameters())
    61706
    """
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )


def autoencoder(features: int = 640, hidden: int = 128, bottleneck: int = 8) -> nn.Sequential:
    """Return the autoencoder for anomaly detection of the MLPerf Tiny reference models.

    640-128×4-8-128×4-640, with batch-norm and ReLU after all but the last layer: Koizumi et al., "DCASE 2020
    challenge task 2" baseline, as in Banbury et al., "MLPerf Tiny benchmark" (2021). Input and output
    (N, features); 265,864 parameters with folded batch-norm and 264,192 MACs.

    Parameters
    ----------
    features : int, default 640
        Size of the input and the output.
    hidden : int, default 128
        Size of the eight hidden layers.
    bottleneck : int, default 8
        Size of the code.

    Examples
    --------
    >>> import smelt
    >>> from smelt import models
    >>> models.autoencoder()(smelt.ones((2, 640))).shape
    (2, 640)
    """
    sizes = [features, *[hidden] * 4, bottleneck, *[hidden] * 4]
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden, features))
