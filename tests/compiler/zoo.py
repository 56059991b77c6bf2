"""Training steps of small and middling networks, as many forms of layer as the library has.

In: a case, a dtype, an optimizer. Out: a model with its optimizer, and the function that trains it one step, to be run
eagerly or compiled. The same seed gives the same weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

import smelt
from smelt import models, nn, optim
from smelt.graph.graph import Graph, Node
from smelt.graph.trace import Tracer
from smelt.ops import Rows, Spec
from smelt.tensor import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
Step = Callable[[Tensor, Tensor], Tensor]


def dropout_net() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Linear(20, 33), nn.ReLU(), nn.Dropout(0.4), nn.Linear(33, 17), nn.Tanh(), nn.Dropout(0.2)),
        nn.Linear(17, 5),
    )


def odd_convolutions() -> nn.Sequential:
    """Groups, dilation, stride and padding in forms that no model of the zoo has."""
    return nn.Sequential(
        *(nn.Conv2d(2, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), nn.LeakyReLU(0.1)),
        *(nn.Conv2d(6, 9, 3, padding="same", groups=3), nn.BatchNorm2d(9), nn.SiLU()),
        *(nn.Conv2d(9, 18, (1, 3), stride=(1, 2), padding=(0, 1), groups=9), nn.ReLU()),
        *(nn.AvgPool2d(2, stride=1, padding=1), nn.Conv2d(18, 4, 2, bias=False)),
        *(nn.Flatten(), nn.Linear(100, 5)),
    )


def convolutions_1d() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv1d(3, 8, 5, stride=2, padding=2), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2)),
        *(nn.Conv1d(8, 6, 3, dilation=2), nn.Sigmoid(), nn.Flatten(), nn.Linear(24, 5)),
    )


def normalized() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(2, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.GELU(), nn.MaxPool2d(3, stride=2, padding=1)),
        *(nn.Flatten(), nn.Linear(128, 21), nn.LayerNorm(21), nn.Hardswish(), nn.Linear(21, 5)),
    )


@dataclass(frozen=True)
class Case:
    """A model, the shape of one sample, and whether it learns classes or to reproduce its input."""

    build: Callable[[], nn.Sequential]
    shape: tuple[int, ...]
    classes: int | None = 10

    def data(self, rows: int, dtype: str = "float32", seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return a batch and its targets."""
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(rows, *self.shape)).astype(dtype)
        return x, x.copy() if self.classes is None else rng.integers(0, self.classes, rows)

    @property
    def loss(self) -> Loss:
        """The loss of model output and targets."""
        return nn.functional.mse_loss if self.classes is None else nn.functional.cross_entropy


CASES = {
    "mnist_cnn": Case(models.mnist_cnn, (1, 28, 28)),
    "lenet5": Case(models.lenet5, (1, 28, 28)),
    "ds_cnn": Case(models.ds_cnn, (1, 49, 10), 12),
    "resnet8": Case(lambda: models.resnet8(width=8), (3, 32, 32)),
    "autoencoder": Case(models.autoencoder, (640,), None),
    "dropout": Case(dropout_net, (20,), 5),
    "odd_convolutions": Case(odd_convolutions, (2, 9, 12), 5),
    "convolutions_1d": Case(convolutions_1d, (3, 32), 5),
    "normalized": Case(normalized, (2, 8, 8), 5),
}

MAKE_OPTIMIZER: dict[str, Callable[[], optim.Optimizer]] = {
    "sgd": lambda: optim.SGD(lr=0.02, momentum=0.9, weight_decay=1e-3),
    "adam": lambda: optim.Adam(lr=2e-3, weight_decay=1e-3, eps=1e-4),
}


def convert(model: nn.Module, dtype: str) -> nn.Module:
    """Give a fresh model floating-point values of another dtype."""
    for _, t in [*model.named_parameters(), *model.named_buffers()]:
        if t.dtype.kind == "f":
            t._value = t.numpy().astype(dtype)
    return model


@dataclass
class Training:
    """A model and its optimizer, and one step of training."""

    case: Case
    dtype: str = "float32"
    optimizer_name: str = "adam"
    seed: int = 3
    clip: float | None = None
    model: nn.Module = field(init=False)
    optimizer: optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        smelt.seed(self.seed)
        self.model = convert(self.case.build(), self.dtype)
        self.optimizer = MAKE_OPTIMIZER[self.optimizer_name]().bind(self.model.parameters())

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """Train one step; return the loss."""
        loss = self.case.loss(self.model(x), y)
        loss.backward()
        if self.clip is not None:
            optim.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        return loss

    def forward(self, x: Tensor) -> Tensor:
        """Return the model's output."""
        return self.model(x)

    def values(self) -> dict[str, np.ndarray]:
        """Return copies of parameters, buffers and the optimizer's state by name."""
        return {**self.model.state_dict(), **{f"optim.{k}": v for k, v in self.optimizer.state_dict().items()}}


def eager(step: Step, x: np.ndarray, y: np.ndarray) -> Tensor:
    return step(Tensor(x), Tensor(y))


def trace(function: Callable[..., object], arrays: list[np.ndarray], rows: bool = True, name: str = "step") -> Graph:
    """Return the graph of a function of arrays; with ``rows`` their first axis is the batch."""
    tracer = Tracer(name)
    with tracer:
        batch = Rows(0) if rows else None
        inputs = [Tensor(tracer.input(f"x{i}", Spec(a.shape, a.dtype, batch))) for i, a in enumerate(arrays)]
        result = function(*inputs)
        outputs = list(result) if isinstance(result, (tuple, list)) else [result]
        graph = tracer.finish([tracer.lift(t) for t in outputs])  # type: ignore[arg-type]
    for tensor, before in tracer.grads.values():
        tensor._grad = before
    return graph


def unbound(graph: Graph) -> dict[Node, tuple[int, ...] | None]:
    """Return the strides to lower a graph with whose state lies nowhere yet."""
    return dict.fromkeys(graph.states)
