"""Networks for the tests of ONNX files: every layer in some form, with running statistics that say something."""

from __future__ import annotations

import functools

import numpy as np

import smelt
from smelt import models, nn, ops
from smelt.nn import functional as F
from smelt.tensor import Tensor


class Functions(nn.Module):
    """Functions and operators in place of layers."""

    def __init__(self) -> None:
        self.scale = smelt.Parameter(np.linspace(-1, 2, 6, dtype=np.float32).reshape(6, 1, 1))
        self.mix = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        x = F.relu6(F.group_norm(x * self.scale + 0.5, 3))
        x = smelt.concat([x, x[:, ::-1, 1:, :-1].max((2, 3), keepdims=True).broadcast_to((n, 6, h, w))], axis=1)
        x = smelt.where(x > 0.25, x, -x.abs()).reshape(n, 6, 2 * h * w).mean(2)
        return (self.mix(x).clip(-1.0, 1.5) ** 2 + x.sum(1, keepdims=True)).exp().log()


class Two(nn.Module):
    """Two inputs, three outputs, one of which is an input."""

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = x + y
        return z, x, z


class Shapes(nn.Module):
    """Values that follow the batch: counts, positions, shapes."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n = x.shape[0]
        turned = x.permute(1, 0, 2).reshape(3, -1)
        spread = smelt.tensor([[1.0], [2.0]]).broadcast_to((n, 2, 4))
        return turned, x.mean(0), ops.argmax(smelt.concat([x, spread], axis=1), axes=(1, 2))


def images() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), nn.LeakyReLU(0.1)),
        *(nn.Conv2d(6, 9, 3, padding="same", groups=3), nn.BatchNorm2d(9), nn.SiLU(), nn.Dropout(0.3)),
        *(nn.Add(nn.Conv2d(9, 9, 1), nn.Identity()), nn.GroupNorm(3, 9), nn.Hardswish()),
        *(nn.AvgPool2d(2, stride=1, padding=1), nn.MaxPool2d(3, stride=2, padding=1), nn.ReLU6()),
        *(nn.Concat(nn.GlobalAvgPool2d(keepdims=True), nn.GlobalMaxPool2d(keepdims=True)), nn.Flatten()),
        *(nn.Linear(18, 7), nn.LayerNorm(7), nn.GELU(), nn.Linear(7, 5), nn.Softmax()),
    )


def sequences() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv1d(3, 8, 5, stride=2, padding=2), nn.BatchNorm1d(8, affine=False), nn.Hardsigmoid()),
        *(nn.MaxPool1d(2), nn.AvgPool1d(3, 1, 1, count_include_pad=False), nn.Linear(7, 6), nn.Tanh()),
        *(nn.LayerNorm((8, 6), elementwise_affine=False), nn.Linear(6, 6, bias=False), nn.GELU("tanh")),
        *(nn.Flatten(), nn.Linear(48, 5), nn.LogSoftmax()),
    )


CASES = {
    "images": (images, (3, 12, 11)),
    "sequences": (sequences, (3, 30)),
    "functions": (Functions, (6, 5, 4)),
    "shapes": (Shapes, (3, 4)),
    "sigmoid": (nn.Sigmoid, (4,)),
}
"""Builders, and the shape of one sample."""


def settled(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Return the model in evaluation mode, its running statistics those of a few batches."""
    smelt.seed(0)
    for name, parameter in model.named_parameters():
        if "weight" in name and parameter.ndim == 1:  # of a normalization: else all ones
            parameter.assign(np.linspace(0.5, 1.5, parameter.size, dtype=np.float32))
    model.train()
    for seed in range(3):
        model(samples(shape, 8, seed))
    return model.eval()


def samples(shape: tuple[int, ...], count: int, seed: int = 0) -> Tensor:
    """Return random samples."""
    return smelt.tensor(np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32))


@functools.cache
def zoo(name: str, most: int = 96) -> tuple[nn.Module, tuple[int, ...]]:
    """Return a network of the zoo, settled on small images, and the shape of its samples: at most 96 × 96, or as given.

    It is the same for all tests: to be read, not changed.
    """
    smelt.seed(0)
    shape = models.INPUT_SHAPES[name]
    image = shape if len(shape) == 1 else (shape[0], *(min(d, most) for d in shape[1:]))
    return settled(models.MODELS[name](), (3, 32, 32) if name.startswith("mobilenet") else image), image
