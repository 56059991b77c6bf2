"""What a network costs: a model and the shape of one sample in; a table of shapes, parameters, MACs and memory out.

Every figure is counted on the very graph that would be compiled, and the peak of the memory is that of the compiler's
plan. A MAC is one multiply and one add, and is called a MAC: never a FLOP, of which it would be two.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from smelt.autograd import no_grad
from smelt.compiler import program
from smelt.compiler.isa import host
from smelt.compiler.passes.freeze import freeze
from smelt.errors import ShapeError
from smelt.graph.graph import Graph, Node
from smelt.measure.field import receptive_fields
from smelt.nn.calls import Call, CallTracer, each_dtype, leaves
from smelt.nn.convolution import Conv1d, Conv2d
from smelt.nn.linear import Linear
from smelt.nn.module import Module
from smelt.nn.normalization import BatchNorm1d, BatchNorm2d
from smelt.ops.primitive import Rows, Spec
from smelt.tensor import Tensor

_VIEWS = ("reshape",)  # operations whose result lies where their input lies
_LEFT = 3  # columns of the table that are text


@dataclass
class Row:
    """One call of one layer.

    ``parameters`` counts what earlier rows have not: a layer that is called twice has them once. ``activation_bytes``
    is the size of the result, or 0 where the result is another layer's, seen under another shape. ``receptive_field``
    is how many pixels of the input one element of the result can depend on, padding included; () without an image.
    """

    name: str
    type: str
    output_shape: tuple[int, ...]
    parameters: int
    parameter_bytes: int
    macs: int
    flops: int
    activation_bytes: int
    receptive_field: tuple[int, ...] = ()


@dataclass
class Summary:
    """What :func:`summary` counted; ``str()`` is a table.

    Attributes
    ----------
    rows : list of Row
        One for each call of a layer, in the order in which they returned.
    input_shape, output_shape : tuple of int
        With the batch; of the first input and of the first result, where there are several.
    input_shapes : dict of str to tuple of int
        With the batch, of all inputs.
    parameters, parameter_bytes : int
        Everything that is trained, each parameter once; with ``folded``, what an inference program keeps of it.
    buffers, buffer_bytes : int
        What is kept but not trained: running means and variances that are not folded.
    macs, flops : int
        Multiply-accumulates, and floating-point operations (two for each of them, and the rest), of one forward pass
        over the batch.
    activation_bytes : int
        Sum over the rows.
    peak_bytes : int or None
        The most memory for activations at once while one sample is inferred: the arena of ``model.compile()`` on this
        processor, without the arrays that go in and out. None where it was not planned.
    folded : int
        How many batch normalizations were counted as part of the layer before them.
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
    flops: int = 0
    activation_bytes: int = 0
    peak_bytes: int | None = None
    folded: int = 0
    input_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        return asdict(self)

    def to_json(self) -> str:
        """Return everything as one JSON object."""
        return json.dumps(self.to_dict(), indent=2)

    def table(self) -> tuple[list[str], list[list[str]], list[str]]:
        """Return the headings, the cells of every row, and the cells of the line of totals."""
        spatial = any(r.receptive_field for r in self.rows)
        head = ["layer", "type", "output", "params", "bytes", "MACs", "FLOPs", "act. bytes", *["field"] * spatial]
        body = [
            [
                r.name,
                r.type,
                _sizes(r.output_shape),
                *(f"{n:,}" for n in (r.parameters, r.parameter_bytes, r.macs, r.flops, r.activation_bytes)),
                *[_sizes(r.receptive_field)] * spatial,
            ]
            for r in self.rows
        ]
        total = (self.parameters, self.parameter_bytes, self.macs, self.flops, self.activation_bytes)
        return head, body, ["total", "", "", *(f"{n:,}" for n in total), *[""] * spatial]

    def footer(self) -> list[str]:
        """Return the lines under the table."""
        sizes = " and ".join(map(_sizes, self.input_shapes.values()))
        lines = [f"{self.model} on {'inputs' if len(self.input_shapes) > 1 else 'an input'} of {sizes}"]
        lines.append(f"parameters {self.parameters:,} in {self.parameter_bytes:,} bytes")
        if self.folded:
            lines[-1] += f", {self.folded} batch normalizations folded into the layers before them"
        if self.buffers:
            lines.append(f"buffers {self.buffers:,} in {self.buffer_bytes:,} bytes (kept, not trained)")
        if self.peak_bytes is not None:
            lines.append(f"activations of at most {self.peak_bytes:,} bytes at once, as planned for one sample")
        return lines

    def __str__(self) -> str:
        head, body, total = self.table()
        widths = [max(len(line[i]) for line in (head, *body, total)) for i in range(len(head))]

        def text(cells: Sequence[str]) -> str:
            return "  ".join(
                c.ljust(w) if i < _LEFT else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
            ).rstrip()

        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        return "\n".join([text(head), rule, *map(text, body), rule, text(total), *self.footer()])


def _sizes(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def summary(
    model: Module,
    input_shape: Sequence[int] | Mapping[str, Sequence[int]],
    batch: int = 1,
    dtype: str | Sequence[str] = "float32",
    *,
    folded: bool = False,
    plan: bool = True,
) -> Summary:
    """Count parameters, MACs, FLOPs and activation bytes of a model, per layer and in total.

    Parameters
    ----------
    model : Module
        Traced in evaluation mode; left as it was.
    input_shape : sequence of int, or mapping of str to sequence of int
        Shape of one sample, without the batch; of a model of several inputs, the shape of each by its name, in the
        order of ``forward``'s parameters.
    batch : int, default 1
        Samples; MACs, FLOPs and activation bytes are those of the whole batch.
    dtype : str or sequence of str, default "float32"
        Type of the inputs' elements: one for all, or one for each.
    folded : bool, default False
        Whether batch normalization that follows a convolution or a linear layer is counted as folded into its weights
        and bias, as it is in an inference program.
    plan : bool, default True
        Whether to plan the memory of inference for one sample, which takes longer than all the rest.

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
    >>> print(smelt.summary(model, (4,), plan=False))
    layer  type    output  params  bytes  MACs  FLOPs  act. bytes
    -------------------------------------------------------------
    0      Linear  1×3         15     60    12     27          12
    1      ReLU    1×3          0      0     0      3          12
    2      Linear  1×2          8     32     6     14           8
    -------------------------------------------------------------
    total                      23     92    18     44          32
    Sequential on an input of 1×4
    parameters 23 in 92 bytes
    """
    samples = dict(input_shape) if isinstance(input_shape, Mapping) else {"input": tuple(input_shape)}
    shapes = {name: (batch, *shape) for name, shape in samples.items()}
    if not shapes or not all(isinstance(d, int) and d > 0 for shape in shapes.values() for d in shape):
        shown = ", ".join(map(str, shapes.values())) or "no input"
        raise ShapeError(f"summary: expected a batch and sizes of at least 1, received {shown}")
    dtypes = each_dtype(dtype, list(shapes))
    tracer, graph = _traced(model, list(shapes.values()), dtypes)
    out = _count(model, next(iter(shapes.values())), tracer, graph, folded)
    out.input_shapes = shapes
    if plan:
        one = [(1, *shape) for shape in samples.values()]
        out.peak_bytes = planned_bytes(graph if batch == 1 else _traced(model, one, dtypes)[1])
    return out


def _traced(model: Module, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[np.dtype]) -> tuple[CallTracer, Graph]:
    tracer = CallTracer("summary")
    with no_grad(), tracer.watching(model):
        pairs = enumerate(zip(shapes, dtypes, strict=True))
        inputs = [tracer.input(f"x{i}", Spec(shape, dtype, Rows(0))) for i, (shape, dtype) in pairs]
        result = model(*map(Tensor, inputs))
        outputs = [tracer.lift(t) for t in leaves(result)]
    return tracer, tracer.finish(outputs)


def planned_bytes(graph: Graph) -> int:
    """Return the bytes of the arena in which ``model.compile()`` would run a forward graph on this processor."""
    frozen = freeze(graph, isa=host()).graph
    return program.lower(frozen, None, host()).arena_bytes


def _count(model: Module, shape: tuple[int, ...], tracer: CallTracer, graph: Graph, folded: bool) -> Summary:
    live = set(graph.nodes())
    fields = receptive_fields(graph)
    norms = _folds(tracer, graph) if folded else {}
    out = Summary(type(model).__name__, shape, graph.outputs[0].shape, folded=len(norms))
    counted: set[int] = set()
    gone: set[int] = set()  # buffers of what was folded
    times: dict[str, int] = {}
    for call in tracer.calls:
        nodes = [n for n in call.nodes if n in live]
        parts = any(True for _ in call.module.children())
        own = [t for _, t in call.module._members() if isinstance(t, Tensor) and t.requires_grad]
        if parts and not nodes and not own:
            continue
        times[call.path] = times.get(call.path, 0) + 1
        name = call.path or "(model)"
        arrays = [t.numpy() for t in own if id(t) not in counted]
        counted |= {id(t) for t in own}
        first = call.results[0] if call.results else None
        row = Row(
            name if times[call.path] == 1 else f"{name} again",
            type(call.module).__name__,
            first.shape if first else (),
            sum(a.size for a in arrays),
            sum(a.nbytes for a in arrays),
            sum(_macs(n) for n in nodes),
            sum(_flops(n) for n in nodes),
            _new_bytes(first, call, tracer),
            fields.get(first, ()) if first else (),
        )
        if call in norms:  # its factors are in the weights of the layer before
            row.parameters = row.parameter_bytes = row.flops = row.activation_bytes = 0
            gone |= {id(t) for _, t in call.module._members() if isinstance(t, Tensor)}
        elif first and call in norms.values() and getattr(call.module, "bias", None) is None:
            features = first.shape[1]
            row.parameters += features
            row.parameter_bytes += features * first.dtype.itemsize
            row.flops += first.spec.size
        out.rows.append(row)
    buffers = [t.numpy() for _, t in model.named_buffers() if id(t) not in gone]
    out.buffers, out.buffer_bytes = sum(a.size for a in buffers), sum(a.nbytes for a in buffers)
    for key in ("parameters", "parameter_bytes", "macs", "flops", "activation_bytes"):
        setattr(out, key, sum(getattr(r, key) for r in out.rows))
    return out


def _folds(tracer: CallTracer, graph: Graph) -> dict[Call, Call]:
    """Return the calls of batch normalization of which inference leaves nothing, and the calls of the layers before."""
    left = {n.layer for n in freeze(graph).graph.nodes()}
    layers = {c.results[0]: c for c in tracer.calls if isinstance(c.module, (Conv1d, Conv2d, Linear))}
    norms = [c for c in tracer.calls if isinstance(c.module, (BatchNorm1d, BatchNorm2d))]
    gone = [c for c in norms if f"{c.path} {type(c.module).__name__}".lstrip() not in left]
    return {c: layers[c.inputs[0]] for c in gone if c.inputs[0] in layers}


def _macs(node: Node) -> int:
    return node.op.macs(tuple(i.spec for i in node.inputs), node.spec, node.attrs) if node.op else 0


def _flops(node: Node) -> int:
    return node.op.flops(tuple(i.spec for i in node.inputs), node.spec, node.attrs) if node.op else 0


def _new_bytes(node: Node | None, call: Call, tracer: CallTracer) -> int:
    """Return the bytes of a call's result, or 0 when it is only a view of something made elsewhere."""
    while node is not None and node.opname in _VIEWS and tracer.maker.get(id(node)) is call:
        node = node.inputs[0]
    if node is None or tracer.maker.get(id(node)) is not call:
        return 0
    return node.spec.size * node.dtype.itemsize
