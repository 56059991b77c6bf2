"""Smelt: train small neural networks on CPUs at hardware speed, measure them, make them small, ship them."""

from smelt._version import __version__
from smelt.errors import FileError, RecipeError, ShapeError, TraceError
from smelt.measure.summary import summary
from smelt.random import seed
from smelt.runtime.step import compile, explain
from smelt.runtime.workers import get_threads, set_threads
from smelt.tensor import (
    Parameter,
    Tensor,
    arange,
    concat,
    full,
    maximum,
    minimum,
    no_grad,
    ones,
    stack,
    tensor,
    where,
    zeros,
)

__all__ = [
    "FileError",
    "Parameter",
    "RecipeError",
    "ShapeError",
    "Tensor",
    "TraceError",
    "__version__",
    "arange",
    "compile",
    "concat",
    "explain",
    "full",
    "get_threads",
    "maximum",
    "minimum",
    "no_grad",
    "ones",
    "seed",
    "set_threads",
    "stack",
    "summary",
    "tensor",
    "where",
    "zeros",
]
