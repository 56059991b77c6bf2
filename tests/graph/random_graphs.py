"""Random small networks, made by hypothesis from the primitives' own shape rules.

In: hypothesis' choices. Out: a :class:`Program`, one function that runs eagerly, traced, or compiled.
Primitives with kinks take only values without ties, so that rounding cannot flip a branch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
from hypothesis import strategies as st

from smelt.errors import ShapeError
from smelt.ops import REGISTRY, Spec
from smelt.tensor import Tensor

Shape = tuple[int, ...]
SIZES = (1, 2, 3, 5, 7, 9, 17)
LARGEST = 3000  # elements of one value
FLOAT = np.dtype("float64")
LIMIT = 30.0  # values that may exceed it are scaled down, or a few squarings would overflow


@dataclass(frozen=True)
class Step:
    """One primitive; an operand is the index of an earlier value, or a float constant."""

    op: str
    operands: tuple[int | float, ...]
    attrs: dict[str, Any]


@dataclass(frozen=True)
class Program:
    """A function of arrays: ``steps`` over inputs of ``shapes``; values no step consumes are its results."""

    shapes: tuple[Shape, ...]
    steps: tuple[Step, ...]

    def arrays(self, dtype: str) -> list[np.ndarray]:
        """Return inputs from -2 to 2, distinct, irregularly spaced, exact in float32."""
        rng = np.random.default_rng(len(self.steps))
        sizes = [int(np.prod(s)) for s in self.shapes]
        n = sum(sizes)
        values = (rng.permutation(n) + rng.uniform(0.1, 0.9, n)) * (4 / n) - 2
        parts = np.split(values.astype(np.float32).astype(dtype), np.cumsum(sizes)[:-1])
        return [p.reshape(s) for p, s in zip(parts, self.shapes, strict=True)]

    def results(self, *xs: Tensor) -> list[Tensor]:
        """Return the values no step consumes."""
        values = list(xs)
        for step in self.steps:
            operands = [values[o] if isinstance(o, int) else o for o in step.operands]
            values.append(REGISTRY[step.op](*operands, **step.attrs))
        used = {o for step in self.steps for o in step.operands if isinstance(o, int)}
        return [v for i, v in enumerate(values) if i not in used and i >= len(xs)]

    def __call__(self, *xs: Tensor) -> tuple[Tensor, ...]:
        """Return a loss, the results, and the loss's gradient for every input that has one."""
        leaves = [x.detach() for x in xs]
        for leaf in leaves:
            leaf.requires_grad = True
        results = self.results(*leaves)
        loss = self.loss(results)
        loss.backward()
        return (
            loss,
            *(r.detach() for r in results),
            *(leaf.grad for leaf in leaves if leaf.grad is not None),
        )

    def loss(self, results: list[Tensor]) -> Tensor:
        """Return a scalar in which every element of every result counts."""
        parts = [(r.tanh() * (0.5 + i)).sum() for i, r in enumerate(results)]
        return reduce(operator.add, parts)

    def __repr__(self) -> str:
        lines = [f"%{i} = input{list(s)}" for i, s in enumerate(self.shapes)]
        for i, s in enumerate(self.steps, len(lines)):
            operands = [f"%{o}" if isinstance(o, int) else str(o) for o in s.operands]
            lines.append(f"%{i} = {s.op}({', '.join(operands + [f'{k}={v}' for k, v in s.attrs.items()])})")
        return "\n".join(["", *lines])


@dataclass(frozen=True)
class Value:
    """What the builder knows of a value: ``leaves`` it depends on, whether ties are excluded, its bound."""

    shape: Shape
    dtype: np.dtype
    leaves: frozenset[int]
    clean: bool
    bound: float


class Impossible(Exception):
    """This step does not apply to these values."""


@dataclass
class Builder:
    """Collects steps; every method that adds one returns the new value's index."""

    draw: Callable[[Any], Any]
    values: list[Value] = field(default_factory=list)
    inputs: int = 0
    steps: list[Step] = field(default_factory=list)

    def input(self, shape: Shape) -> int:
        """Add an input; only before the first step."""
        self.values.append(Value(shape, FLOAT, frozenset([self.inputs]), True, 2.0))
        self.inputs += 1
        return self.inputs - 1

    def pick(self, fits: Callable[[Value], bool] = lambda v: True) -> int:
        """Return the index of a floating value that fits, later ones more often."""
        found = [i for i, v in enumerate(self.values) if v.dtype == FLOAT and fits(v)]
        if not found:
            raise Impossible
        return self.draw(st.sampled_from(found + found[-2:] * 2))

    def add(self, op: str, *operands: int | float, clean: bool = True, bound: float | None = None, **attrs: Any) -> int:
        """Append a step; a bound over LIMIT is scaled back by another."""
        values = [self.values[o] for o in operands if isinstance(o, int)]
        constant = Value((), FLOAT, frozenset(), True, 1.0)
        known = [self.values[o] if isinstance(o, int) else constant for o in operands]
        try:
            out = REGISTRY[op].infer(*(Spec(v.shape, v.dtype) for v in known), **attrs)
        except ShapeError:
            raise Impossible from None
        if out.size > LARGEST:
            raise Impossible
        leaves = [v.leaves for v in values]
        disjoint = sum(map(len, leaves)) == len(frozenset().union(*leaves))
        largest = max((v.bound for v in values), default=1.0) if bound is None else bound
        clean = clean and disjoint and all(v.clean for v in values)
        self.steps.append(Step(op, operands, attrs))
        self.values.append(Value(out.shape, out.dtype, frozenset().union(*leaves), clean, largest))
        index = len(self.values) - 1
        return self.add("mul", index, 1.0 / largest, bound=1.0) if largest > LIMIT else index

    def positive(self, x: int) -> int:
        """Return a value of at least 1/2."""
        square = self.add("mul", x, x, bound=self.values[x].bound ** 2)
        return self.add("add", square, 0.5, bound=self.values[square].bound + 0.5)


def _smooth(b: Builder) -> None:
    x = b.pick()
    name = b.draw(st.sampled_from(["tanh", "sigmoid", "erf", "neg", "exp", "log", "log1p", "sqrt", "pow"]))
    if name == "exp":
        b.add("exp", b.add("tanh", x, bound=1.0), bound=2.8)
    elif name in ("log", "log1p", "sqrt"):
        b.add(name, b.positive(x), bound=b.values[x].bound + 1)
    elif name == "pow":
        b.add("pow", b.add("add", b.add("sigmoid", x, bound=1.0), 0.5), 1.5, bound=2.0)
    else:
        b.add(name, x)


def _kinked(b: Builder) -> None:
    b.add(b.draw(st.sampled_from(["relu", "abs"])), b.pick(lambda v: v.clean), clean=False)


def _arithmetic(b: Builder) -> None:
    name = b.draw(st.sampled_from(["add", "sub", "mul", "div"]))
    x, y = b.pick(), b.pick()
    p, q = b.values[x].bound, b.values[y].bound
    if name == "div":
        b.add("div", x, b.positive(y), bound=2 * p)
    else:
        b.add(name, x, y, bound=p * q if name == "mul" else p + q)


def _chosen(b: Builder) -> None:
    x = b.pick(lambda v: v.clean)
    y = b.pick(lambda v: v.clean and not v.leaves & b.values[x].leaves)
    name = b.draw(st.sampled_from(["maximum", "minimum", "where"]))
    if name == "where":
        b.add("where", b.add("lt", x, y), x, b.pick(), clean=False)
    else:
        b.add(name, x, y, clean=False)


def _reduced(b: Builder) -> None:
    name = b.draw(st.sampled_from(["sum", "sum", "max"]))
    x = b.pick(lambda v: len(v.shape) > 0 and (v.clean or name == "sum"))
    v = b.values[x]
    axes = tuple(sorted(b.draw(st.sets(st.integers(0, len(v.shape) - 1), min_size=1))))
    n = int(np.prod([v.shape[a] for a in axes]))
    b.add(name, x, axes=axes, bound=v.bound * n if name == "sum" else v.bound)


def _moved(b: Builder) -> None:
    name = b.draw(st.sampled_from(["permute", "reshape", "slice", "place", "broadcast_to", "concat"]))
    x = b.pick(lambda v: len(v.shape) > 0)
    v, rank = b.values[x], len(b.values[x].shape)
    if name == "permute":
        b.add("permute", x, axes=tuple(b.draw(st.permutations(range(rank)))))
    elif name == "reshape":
        at = b.draw(st.integers(0, rank))
        head, tail = int(np.prod(v.shape[:at])), int(np.prod(v.shape[at:]))
        b.add("reshape", x, shape=b.draw(st.sampled_from([(head * tail,), (head, tail), (head, 1, tail)])))
    elif name == "slice":
        parts = [_part(b, d) for d in v.shape]
        start, step, size = zip(*parts, strict=True)
        b.add("slice", x, start=start, step=step, size=size)
    elif name == "place":
        before = tuple(b.draw(st.integers(0, 2)) for _ in v.shape)
        step = tuple(b.draw(st.sampled_from([1, 1, 2])) for _ in v.shape)
        shape = tuple(p + (d - 1) * s + 2 for p, d, s in zip(before, v.shape, step, strict=True))
        b.add("place", x, clean=False, shape=shape, start=before, step=step, fill=0.25)
    elif name == "broadcast_to":
        b.add("broadcast_to", x, clean=False, shape=(b.draw(st.sampled_from([1, 3])), *v.shape))
    else:
        axis = b.draw(st.integers(0, rank - 1))
        b.add("concat", x, b.pick(lambda w: len(w.shape) == rank), axis=axis)


def _part(b: Builder, size: int) -> tuple[int, int, int]:
    """Return (start, step, size) of a slice of an axis."""
    step = b.draw(st.sampled_from([1, 1, -1, 2]))
    first = b.draw(st.integers(0, size - 1))
    longest = (first if step < 0 else size - 1 - first) // abs(step) + 1
    return first, step, b.draw(st.integers(1, longest))


def _product(b: Builder) -> None:
    x = b.pick(lambda v: len(v.shape) >= 2)
    k = b.values[x].shape[-1]
    y = b.pick(lambda v: len(v.shape) >= 2 and k in v.shape[-2:])
    v, w = b.values[x], b.values[y]
    if w.shape[-2] != k:
        y = b.add("permute", y, axes=(*range(len(w.shape) - 2), len(w.shape) - 1, len(w.shape) - 2))
    b.add("matmul", x, y, bound=k * v.bound * w.bound)


def _convolved(b: Builder) -> None:
    x = b.pick(lambda v: len(v.shape) == 4)
    y = b.pick(lambda v: len(v.shape) == 4 and max(v.shape[2:]) <= 3)
    v, w = b.values[x], b.values[y]
    groups = v.shape[1] if w.shape[1] == 1 and w.shape[0] % v.shape[1] == 0 else 1
    pad = b.draw(st.sampled_from([0, 1]))
    attrs = {
        "stride": b.draw(st.sampled_from([(1, 1), (2, 2), (2, 1)])),
        "padding": ((pad, 0), (pad, pad)),
        "dilation": b.draw(st.sampled_from([(1, 1), (1, 1), (2, 1)])),
        "groups": groups,
    }
    b.add("conv2d", x, y, clean=pad == 0, bound=v.bound * w.bound * int(np.prod(w.shape[1:])), **attrs)


def _pooled(b: Builder) -> None:
    name = b.draw(st.sampled_from(["max_pool2d", "sum_pool2d"]))
    x = b.pick(lambda v: len(v.shape) == 4 and (v.clean or name == "sum_pool2d"))
    pad = b.draw(st.sampled_from([0, 0, 1]))
    attrs = {
        "kernel": b.draw(st.sampled_from([(2, 2), (3, 2)])),
        "stride": b.draw(st.sampled_from([(2, 2), (1, 2), (3, 3)])),
        "padding": ((pad, pad), (0, pad)),
    }
    bound = b.values[x].bound * (6 if name == "sum_pool2d" else 1)
    b.add(name, x, clean=False, bound=bound, **attrs)


def _classified(b: Builder) -> None:
    x = b.pick(lambda v: len(v.shape) == 2)
    rows = b.values[x].shape[0]
    labels = b.add("iota", shape=(rows,), axis=0, dtype="int64")
    b.add("softmax_cross_entropy", x, labels, bound=2 * b.values[x].bound + 5)


KINDS = (
    *(
        _smooth,
        _kinked,
        _arithmetic,
        _arithmetic,
        _chosen,
        _reduced,
        _moved,
        _moved,
        _product,
        _convolved,
        _pooled,
    ),
    _classified,
)


@st.composite
def programs(draw: Callable[[Any], Any], max_steps: int = 7) -> Program:
    """Draw a program of 1 to 3 inputs and up to ``max_steps`` kinds of step, with sizes mostly odd."""
    b = Builder(draw)
    size = st.sampled_from(SIZES)
    if draw(st.booleans()):
        c = draw(st.sampled_from((1, 2, 3, 5)))
        b.input(
            (
                draw(st.sampled_from((1, 2, 3))),
                c,
                draw(st.sampled_from((5, 7, 8))),
                draw(st.sampled_from((5, 6))),
            )
        )
        depthwise = draw(st.booleans())
        kernel = (draw(st.sampled_from((1, 3))), draw(st.sampled_from((2, 3))))
        b.input((c * 2 if depthwise else draw(st.sampled_from((1, 4, 17))), 1 if depthwise else c, *kernel))
        if draw(st.booleans()):
            b.input((draw(size), draw(size)))
    else:
        k = draw(size)
        b.input((draw(size), k))
        for shape in draw(st.sampled_from([(), ((k, 5),), ((k,),), ((k, 17), (1, k)), ((3, 1, k), (7, k))])):
            b.input(shape)
    for _ in range(draw(st.integers(2, max_steps))):
        first = draw(st.integers(0, len(KINDS) - 1))
        for kind in KINDS[first:] + KINDS[:first]:
            before = len(b.steps), len(b.values)
            try:
                kind(b)
                break
            except Impossible:
                del b.steps[before[0] :], b.values[before[1] :]
    return Program(tuple(v.shape for v in b.values[: b.inputs]), tuple(b.steps))
