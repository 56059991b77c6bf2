"""Lower a call of a user's function: its operands and results as dense arrays, and who calls it.

In: a call group. Out: one kernel. A NumPy function is called once, by the thread that called the step. A native
function that works per sample is called for a fixed number of slices of the batch, which the threads share: where a
slice begins does not depend on how many threads there are. Any other native function is called once.
"""

from __future__ import annotations

import math

from smelt.compiler.builder import Builder
from smelt.compiler.isa import Isa
from smelt.compiler.loops import AnyIndex, Buffer, Index, Kernel, Operand, Range, as_index, var
from smelt.compiler.passes.fuse import Group
from smelt.compiler.passes.storage import Plan, Storage, dense
from smelt.graph.graph import Node
from smelt.ops.custom import SLICES, Custom
from smelt.ops.primitive import Spec, short_dtype


def lower_call(plan: Plan, group: Group, isa: Isa, name: str) -> tuple[list[Kernel], set[Node]]:
    """Return the kernel of a call group and the nodes it loads; the function's slot is found in ``plan.calls``."""
    node = group.roots[0]
    assert isinstance(node.op, Custom)
    function = node.op.function
    operands = [plan.operand(node, i) for i in range(len(node.inputs))]
    specs = function.infer([x.spec for x in node.inputs])
    b = Builder(name)
    slot = plan.calls[node.attrs["call"]]
    reads = [(plan.storage[x], x.spec) for x in operands]
    writes = list(zip(_results(plan, group, specs, name), specs, strict=True))
    batch = function.batch(len(operands))

    def call(cut: tuple[AnyIndex, Index] | None) -> None:
        def part(storage: Storage, spec: Spec, samples: bool) -> Operand:
            dims = [Index(d) for d in spec.shape]
            if spec.rows:
                dims[spec.rows.axis] = var("n") * spec.rows.per
            index = Index(storage.offset)
            if cut and samples:
                low, dims[0] = cut
                index = as_index(low) * math.prod(spec.shape[1:]) + index
            return Operand(storage.buffer, index, tuple(dims))

        ins = [part(*read, samples=i in batch) for i, read in enumerate(reads)]
        outs = [part(*write, samples=True) for write in writes]
        b.call(function.name, slot, function.evaluate is not None, ins, outs)

    if function.samples is None:
        native = "one thread: a function that does not work per sample"
        b.choose("shared", native if function.evaluate is None else "the calling thread: a Python function")
        call(None)
        units = Range(1, caller=function.evaluate is not None)
    else:
        b.choose("shared", "fixed slices of the batch")
        first = specs[0]
        extent = var("n") * first.rows.per if first.rows else Index(first.shape[0])
        with b.loop("s", var("lo"), var("hi")) as s:
            low = b.let("low", "muldiv", extent, s, SLICES)
            high = b.let("high", "muldiv", extent, s + 1, SLICES)
            with b.when(low, high):
                call((low, high + low * -1))
        units = Range(SLICES)
    kernel = b.finish(units)
    kernel.status = slot + 1
    return [kernel], set(operands)


def _results(plan: Plan, group: Group, specs: list[Spec], name: str) -> list[Storage]:
    """Return where the results go; those that nothing reads go to buffers of their own."""
    found = {n.attrs["output"]: plan.storage[n] for n in group.roots}
    out = []
    for i, spec in enumerate(specs):
        if i not in found:
            buffer = Buffer(f"{name}_{i}", short_dtype(spec.dtype), spec.size, "arena")
            found[i] = Storage(buffer, dense(spec.shape, tuple(range(len(spec.shape)))))
        out.append(found[i])
    return out
