"""Smelt: train small neural networks on CPUs at hardware speed, measure them, make them small, ship them."""

from smelt import export, onnx
from smelt._version import __version__
from smelt.autograd import no_grad
from smelt.custom import custom_op
from smelt.errors import ExportError, FileError, RecipeError, ShapeError, TraceError
from smelt.files import load, save
from smelt.functions import arange, concat, full, maximum, minimum, ones, stack, where, zeros
from smelt.measure.explain import explain
from smelt.measure.summary import summary
from smelt.precision import autocast
from smelt.random import seed
from smelt.runtime.inference import Inference
from smelt.runtime.step import compile
from smelt.runtime.workers import get_threads, set_threads
from smelt.tensor import Parameter, Tensor, tensor
from smelt.train import History, Trainer

__all__ = [
    "ExportError",
    "FileError",
    "History",
    "Inference",
    "Parameter",
    "RecipeError",
    "ShapeError",
    "Tensor",
    "TraceError",
    "Trainer",
    "__version__",
    "arange",
    "autocast",
    "compile",
    "concat",
    "custom_op",
    "explain",
    "export",
    "full",
    "get_threads",
    "load",
    "maximum",
    "minimum",
    "no_grad",
    "ones",
    "onnx",
    "save",
    "seed",
    "set_threads",
    "stack",
    "summary",
    "tensor",
    "where",
    "zeros",
]
