"""What a network costs: a model and the shape of one sample in; a table of shapes, parameters and MACs out.

The model is traced once, in evaluation mode and without gradients, so that every figure is counted on the very graph
that would be compiled. Each node is attributed to the module whose ``forward`` made it.

A MAC is one multiply and one add, and is called a MAC: never a FLOP, of which it would be two.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from smelt.autograd import no_grad
from smelt.errors import ShapeError
from smelt.graph.graph import Graph, Node
from smelt.nn.calls import Call, CallTracer, leaves
from smelt.nn.module import Module
from smelt.ops.primitive import Spec
from smelt.tensor import Tensor

_VIEWS = ("reshape",)  # operations whose result lies where their input lies


@dataclass
class Row:
    """One call of one layer.

    ``parameters`` counts what earlier rows have not: a layer that is called twice has them once. ``activation_bytes``
    is the size of the result, or 0 where the result is another layer's, seen under another shape.
    """

    name: str
    type: str
    output_shape: tuple[int, ...]
    parameters: int
    macs: int
    activation_bytes: int


@dataclass
class Summary:
    """What :func:`summary` counted; ``str()`` is a table.

    Attributes
    ----------
    rows : list of Row
        One for each call of a layer, in the order in which they returned.
    input_shape, output_shape : tuple of int
        With the batch; of the first result, where the model gives several.
    parameters, parameter_bytes : int
        Everything that is trained, each parameter once.
    buffers, buffer_bytes : int
        What is kept but not trained: running means and variances.
    macs : int
        Multiply-accumulates of one forward pass over the batch.
    activation_bytes : int
        Sum over the rows.
    """

    model: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...] = ()
    rows: list[Row] = field(default_factory=list)
    parameters: int = 0
    parameter_bytes: int = 0
    buffers: int = 0
    buffer_bytes: int = 0
    macs: int = 0
    activation_bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        return asdict(self)

    def to_json(self) -> str:
        """Return everything as one JSON object."""
        return json.dumps(self.to_dict(), indent=2)

    def table(self) -> tuple[list[str], list[list[str]], list[str]]:
        """Return the headings, the cells of every row, and the cells of the line of totals."""
        head = ["layer", "type", "output", "parameters", "MACs", "activation bytes"]
        body = [
            [
                r.name,
                r.type,
                "×".join(map(str, r.output_shape)),
                f"{r.parameters:,}",
                f"{r.macs:,}",
                f"{r.activation_bytes:,}",
            ]
            for r in self.rows
        ]
        return head, body, ["total", "", "", f"{self.parameters:,}", f"{self.macs:,}", f"{self.activation_bytes:,}"]

    def footer(self) -> list[str]:
        """Return the lines under the table."""
        lines = [
            f"{self.model} on an input of {'×'.join(map(str, self.input_shape))}",
            f"parameters {self.parameters:,} in {self.parameter_bytes:,} bytes",
        ]
        if self.buffers:
            lines.append(f"buffers {self.buffers:,} in {self.buffer_bytes:,} bytes (kept, not trained)")
        return lines

    def __str__(self) -> str:
        head, body, total = self.table()
        widths = [max(len(line[i]) for line in (head, *body, total)) for i in range(len(head))]

        def text(cells: Sequence[str]) -> str:
            return "  ".join(
                c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
            ).rstrip()

        rule = "-" * len(text(head))
        return "\n".join([text(head), rule, *map(text, body), rule, text(total), *self.footer()])


def summary(model: Module, input_shape: Sequence[int], batch: int = 1, dtype: str = "float32") -> Summary:
    """Count the parameters, MACs and activation bytes of a model, per layer and in total.

    Parameters
    ----------
    model : Module
        Traced in evaluation mode; left as it was.
    input_shape : sequence of int
        Shape of one sample, without the batch.
    batch : int, default 1
        Samples; MACs and activation bytes are those of the whole batch.
    dtype : str, default "float32"
        Type of the input's elements.

    Returns
    -------
    Summary
        ``print`` it for a table.

    Raises
    ------
    ShapeError
        When the model cannot take such an input: the line names the layer.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> print(smelt.summary(model, (4,)))
    layer  type    output  parameters  MACs  activation bytes
    ---------------------------------------------------------
    0      Linear  1×3             15    12                12
    1      ReLU    1×3              0     0                12
    2      Linear  1×2              8     6                 8
    ---------------------------------------------------------
    total                          23    18                32
    Sequential on an input of 1×4
    parameters 23 in 92 bytes
    """
    shape = (batch, *input_shape)
    if not all(isinstance(d, int) and d > 0 for d in shape):
        raise ShapeError(f"summary: expected a batch and sizes of at least 1, received {shape}")
    tracer = CallTracer("summary")
    with no_grad(), tracer.watching(model):
        result = model(Tensor(tracer.input("x", Spec(shape, np.dtype(dtype)))))
        outputs = [tracer.lift(t) for t in leaves(result)]
    return _count(model, shape, tracer, tracer.finish(outputs))


def _count(model: Module, shape: tuple[int, ...], tracer: CallTracer, graph: Graph) -> Summary:
    live = {id(n) for n in graph.nodes()}
    out = Summary(type(model).__name__, shape, graph.outputs[0].shape)
    seen: set[int] = set()
    times: dict[str, int] = {}
    for call in tracer.calls:
        nodes = [n for n in call.nodes if id(n) in live]
        parts = any(True for _ in call.module.children())
        own = [t for _, t in call.module._members() if isinstance(t, Tensor) and t.requires_grad]
        if parts and not nodes and not own:
            continue
        times[call.path] = times.get(call.path, 0) + 1
        name = call.path or "(model)"
        new = [t for t in own if id(t) not in seen]
        seen |= {id(t) for t in new}
        out.rows.append(
            Row(
                name if times[call.path] == 1 else f"{name} again",
                type(call.module).__name__,
                call.results[0].shape if call.results else (),
                sum(math.prod(t.shape) for t in new),
                sum(_macs(n) for n in nodes),
                _new_bytes(call, tracer),
            )
        )
    parameters = [t.numpy() for t in model.parameters()]
    buffers = [t.numpy() for _, t in model.named_buffers()]
    out.parameters, out.parameter_bytes = sum(a.size for a in parameters), sum(a.nbytes for a in parameters)
    out.buffers, out.buffer_bytes = sum(a.size for a in buffers), sum(a.nbytes for a in buffers)
    out.macs = graph.macs
    out.activation_bytes = sum(r.activation_bytes for r in out.rows)
    return out


def _macs(node: Node) -> int:
    return node.op.macs(tuple(i.spec for i in node.inputs), node.spec, node.attrs) if node.op else 0


def _new_bytes(call: Call, tracer: CallTracer) -> int:
    """Return the bytes of a call's result, or 0 when it is only a view of something made elsewhere."""
    node = call.results[0] if call.results else None
    while node is not None and node.opname in _VIEWS and tracer.maker.get(id(node)) is call:
        node = node.inputs[0]
    if node is None or tracer.maker.get(id(node)) is not call:
        return 0
    return node.spec.size * node.dtype.itemsize
