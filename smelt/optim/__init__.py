"""Optimizers, gradient clipping and learning-rate schedules, with PyTorch's names, formulas and defaults."""

from smelt.optim.adam import Adam, AdamW
from smelt.optim.clip import clip_grad_norm_, clip_grad_value_
from smelt.optim.optimizer import Group, Optimizer
from smelt.optim.rmsprop import RMSprop
from smelt.optim.scaler import LossScaler
from smelt.optim.schedule import (
    Constant,
    CosineAnnealing,
    ExponentialLR,
    LinearWarmup,
    OneCycle,
    Schedule,
    StepLR,
)
from smelt.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Constant",
    "CosineAnnealing",
    "ExponentialLR",
    "Group",
    "LinearWarmup",
    "LossScaler",
    "OneCycle",
    "Optimizer",
    "RMSprop",
    "Schedule",
    "StepLR",
    "clip_grad_norm_",
    "clip_grad_value_",
]
