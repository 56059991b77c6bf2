"""ONNX's operators as functions on tensors: ``OPERATORS`` by name, and what is evaluated while loading."""

from smelt.onnx.reader.operators import (
    activation,
    contraction,
    elementwise,
    movement,
    normalization,
    pooling,
    reduction,
    shapes,
)
from smelt.onnx.reader.operators.entry import Entry

OPERATORS: dict[str, Entry] = {
    **elementwise.OPERATORS,
    **activation.OPERATORS,
    **contraction.OPERATORS,
    **pooling.OPERATORS,
    **normalization.OPERATORS,
    **reduction.OPERATORS,
    **movement.OPERATORS,
    **shapes.OPERATORS,
}
