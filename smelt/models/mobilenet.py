"""MobileNets: colour images in; logits out."""

from __future__ import annotations

from smelt import nn
from smelt.nn.arguments import number


def mobilenet_v1(alpha: float = 0.25, classes: int = 2) -> nn.Sequential:
    """Return MobileNet, by default as the visual-wake-words network of the MLPerf Tiny reference models.

    Thirteen depthwise separable convolutions: Howard et al., "MobileNets" (2017), as in Banbury et al.,
    "MLPerf Tiny benchmark" (2021). Input (N, 3, H, W), output logits (N, classes); 210,850 parameters with
    folded batch-norm by default, and 7,489,664 MACs at 96 × 96.

    Parameters
    ----------
    alpha : float, default 0.25
        Factor of all channels.
    classes : int, default 2
        Size of the output.

    Raises
    ------
    ValueError
        When ``alpha`` leaves no channels.

    Examples
    --------
    >>> import smelt
    >>> from smelt import models
    >>> models.mobilenet_v1().eval()(smelt.ones((1, 3, 96, 96))).shape
    (1, 2)
    """
    alpha = number("mobilenet_v1", "alpha", alpha, 1 / 32, 32.0)
    blocks = [
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        *[(512, 1)] * 5,
        (1024, 2),
        (1024, 1),
    ]
    before = int(32 * alpha)
    layers: list[nn.Module] = [
        nn.Conv2d(3, before, 3, 2, "same", bias=False),
        nn.BatchNorm2d(before),
        nn.ReLU(),
    ]
    for channels, stride in blocks:
        after = int(channels * alpha)
        layers += [
            nn.Conv2d(before, before, 3, stride, "same", groups=before, bias=False),
            nn.BatchNorm2d(before),
            nn.ReLU(),
            nn.Conv2d(before, after, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
        before = after
    return nn.Sequential(*layers, nn.GlobalAvgPool2d(), nn.Linear(before, classes))


def mobilenet_v2(width: float = 1.0, classes: int = 1000) -> nn.Sequential:
    """Return MobileNetV2.

    Inverted residual blocks: Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks" (2018),
    with torchvision's padding and rounding of channels. Input (N, 3, H, W), output logits (N, classes);
    3,504,872 parameters by default, and 300,774,272 MACs at 224 × 224.

    Parameters
    ----------
    width : float, default 1.0
        Factor of all channels, which are rounded to multiples of 8; the last layer has at least 1280.
    classes : int, default 1000
        Size of the output.

    Raises
    ------
    ValueError
        When ``width`` is not a number from 0.05 to 32.

    Examples
    --------
    >>> import smelt
    >>> from smelt import models
    >>> models.mobilenet_v2(0.1, classes=5).eval()(smelt.ones((1, 3, 32, 32))).shape
    (1, 5)
    """
    width = number("mobilenet_v2", "width", width, 0.05, 32.0)
    stages = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]
    before = _eights(32 * width)
    last = _eights(1280 * max(1.0, width))
    layers = _conv(3, before, 3, 2)
    for expand, channels, count, stride in stages:
        after = _eights(channels * width)
        for i in range(count):
            layers.append(_inverted(before, after, expand, stride if i == 0 else 1))
            before = after
    layers += _conv(before, last, 1)
    return nn.Sequential(*layers, nn.GlobalAvgPool2d(), nn.Dropout(0.2), nn.Linear(last, classes))


def _eights(channels: float) -> int:
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def _conv(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU6(),
    ]


def _inverted(before: int, after: int, expand: int, stride: int) -> nn.Module:
    inner = before * expand
    body = nn.Sequential(
        *(_conv(before, inner, 1) if expand != 1 else []),
        *_conv(inner, inner, 3, stride, groups=inner),
        nn.Conv2d(inner, after, 1, bias=False),
        nn.BatchNorm2d(after),
    )
    return nn.Add(body, nn.Identity()) if stride == 1 and before == after else body
