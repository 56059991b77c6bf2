"""What the tests of layers share: a seed, and running a function through its traced graph."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from smelt import random
from smelt.graph.graph import Graph
from smelt.graph.interpret import interpret
from smelt.graph.trace import Tracer
from smelt.ops import Rows, Spec
from smelt.tensor import Tensor


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    state = random.get_state()
    random.seed(0)
    yield
    random.set_state(state)


class Traced:
    """A function traced once on arrays that are batches; each call runs the graph and stores state."""

    def __init__(self, function: Callable[..., Tensor], *arrays: np.ndarray) -> None:
        self.tracer = Tracer("test")
        with self.tracer:
            inputs = [
                Tensor(self.tracer.input(f"x{i}", Spec(a.shape, a.dtype, Rows(0) if a.ndim else None)))
                for i, a in enumerate(arrays)
            ]
            self.graph: Graph = self.tracer.finish([self.tracer.lift(function(*inputs))])

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        states = {node: tensor for tensor, node in self.tracer.state.values()}
        (out,), updates = interpret(self.graph, arrays, [t.numpy() for t in states.values()])
        for node, value in zip(self.graph.updates, [np.array(u) for u in updates], strict=True):
            states[node].assign(value)
        return out

    def guards_hold(self) -> bool:
        return all(g.holds() for g in self.tracer.guards)


@pytest.fixture
def traced() -> type[Traced]:
    return Traced


@pytest.fixture
def rng() -> Any:
    return np.random.default_rng(0)
