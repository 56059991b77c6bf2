"""Small models, data and trainers that the tests of training share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import smelt
from smelt import data, nn, optim, train

SAMPLES, SIDE, CLASSES = 90, 8, 4


def images(n: int = SAMPLES, seed: int = 0) -> data.ArrayDataset:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, n)
    x = rng.integers(0, 60, (n, 1, SIDE, SIDE))
    for i, label in enumerate(y):
        x[i, 0, 2 * label : 2 * label + 2] += 150
    return data.ArrayDataset(x.astype(np.uint8), y, name="bars", classes=CLASSES, scale=1 / 255)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, CLASSES))


def dropout_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64, CLASSES),
    )


MODELS: dict[str, Callable[[], nn.Module]] = {"mlp": mlp, "dropout_cnn": dropout_cnn}


def make(
    model: str = "mlp", optimizer: str = "adam", schedule: str = "cosine", seed: int = 0, **options: Any
) -> smelt.Trainer:
    smelt.seed(seed)
    optimizers = {
        "adam": lambda: optim.Adam(lr=3e-3, weight_decay=1e-4),
        "sgd": lambda: optim.SGD(lr=0.1, momentum=0.9),
    }
    schedules = {
        "none": lambda: (None, "epoch"),
        "cosine": lambda: (optim.CosineAnnealing(t_max=20, min_lr=1e-5), "epoch"),
        "onecycle": lambda: (optim.OneCycle(0.05, total_steps=24), "step"),
    }
    chosen, per = schedules[schedule]()
    return smelt.Trainer(
        MODELS[model](), nn.CrossEntropyLoss(), optimizers[optimizer](), chosen, schedule_per=per, **options
    )


def everything(trainer: smelt.Trainer) -> dict[str, bytes]:
    """Return all that a run ends with, but for times, as bytes by name."""
    out = {f"model {k}": v.tobytes() for k, v in trainer.model.state_dict().items()}
    out |= {f"optimizer {k}": v.tobytes() for k, v in trainer.optimizer.state_dict().items()}
    out |= {f"random {k}": v.tobytes() for k, v in smelt.random.get_state().items()}
    records = [{k: v for k, v in r.items() if "seconds" not in k} for r in trainer.history.to_dicts()]
    return out | {"history": repr(records).encode()}


class Killed(Exception):
    """What stops a run in the middle."""


class StopAt(train.Callback):
    """Raises after a given step, as sudden as a callback can be."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: smelt.Trainer, step: int, loss: float) -> None:
        if step == self.step:
            raise Killed
