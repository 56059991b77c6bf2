"""DS-CNN: a spectrogram of one second of speech in; logits of keywords out."""

from __future__ import annotations

from smelt import nn


def ds_cnn(classes: int = 12, width: int = 64) -> nn.Sequential:
    """Return the keyword-spotting network of the MLPerf Tiny reference models.

    One convolution and four depthwise separable ones: Zhang et al., "Hello edge: keyword spotting on
    microcontrollers" (2017), as in Banbury et al., "MLPerf Tiny benchmark" (2021). Input (N, 1, 49, 10),
    output logits (N, classes); 22,604 parameters with folded batch-norm and 2,656,768 MACs by default.

    Parameters
    ----------
    classes : int, default 12
        Size of the output.
    width : int, default 64
        Channels of all convolutions.

    Examples
    --------
    >>> import smelt
    >>> from smelt import models
    >>> models.ds_cnn().eval()(smelt.ones((2, 1, 49, 10))).shape
    (2, 12)
    """
    layers: list[nn.Module] = [
        nn.Conv2d(1, width, (10, 4), stride=2, padding="same", bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Dropout(0.2),
    ]
    for _ in range(4):
        layers += [
            nn.Conv2d(width, width, 3, padding="same", groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
    # The reference pools half of the input's size, so that the last of the 25 rows is left out.
    tail = nn.Dropout(0.4), nn.AvgPool2d((24, 5)), nn.Flatten(), nn.Linear(width, classes)
    return nn.Sequential(*layers, *tail)
