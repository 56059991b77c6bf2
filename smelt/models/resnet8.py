"""ResNet-8: a 32 × 32 colour image in; logits out."""

from __future__ import annotations

from smelt import nn


def resnet8(classes: int = 10, width: int = 16) -> nn.Sequential:
    """Return the image-classification network of the MLPerf Tiny reference models.

    One convolution and three residual blocks: He et al., "Deep residual learning for image recognition"
    (2015), as in Banbury et al., "MLPerf Tiny benchmark" (2021). Input (N, 3, 32, 32), output logits (N,
    classes); 77,706 parameters with folded batch-norm and 12,501,632 MACs by default.

    Parameters
    ----------
    classes : int, default 10
        Size of the output.
    width : int, default 16
        Channels of the first block; the others have two and four times as many.

    Examples
    --------
    >>> import smelt
    >>> from smelt import models
    >>> models.resnet8().eval()(smelt.ones((2, 3, 32, 32))).shape
    (2, 10)
    """
    return nn.Sequential(
        *_conv(3, width, 1),
        nn.ReLU(),
        *_block(width, width, 1),
        *_block(width, 2 * width, 2),
        *_block(2 * width, 4 * width, 2),
        nn.GlobalAvgPool2d(),
        nn.Linear(4 * width, classes),
    )


def _conv(before: int, after: int, stride: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(before, after, 3, stride, "same", bias=False), nn.BatchNorm2d(after)


def _block(before: int, after: int, stride: int) -> tuple[nn.Module, nn.Module]:
    body = nn.Sequential(*_conv(before, after, stride), nn.ReLU(), *_conv(after, after, 1))
    shortcut = nn.Identity() if stride == 1 else nn.Conv2d(before, after, 1, stride, "same")
    return nn.Add(body, shortcut), nn.ReLU()
