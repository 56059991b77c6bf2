"""Lower a call of a user's function: its operands and results as dense arrays, and who calls it.

In: a call group. Out: one kernel. A NumPy function is called once, by the thread that called the step. A native
function that works per sample is called for a fixed number of slices of the batch, which the threads share: where a
slice begins does not depend on how many threads there are. Any other native function is called once.
"""

from __future__ import annotations

from smelt.compiler.isa import Isa
from smelt.compiler.loops import AnyIndex, Buffer, Builder, Index, Kernel, Operand, Range, as_index, var
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
    outputs = _results(plan, group, specs, name)
    b = Builder(name)
    extent = var("n") * specs[0].rows.per if specs[0].rows else Index(specs[0].shape[0] if specs[0].shape else 1)
    batch = function.batch(len(operands))
    slot = plan.calls[node.attrs["call"]]

    def call(low: AnyIndex, rows: Index) -> None:
        def part(storage: Storage, spec: Spec, cut: bool) -> Operand:
            dims = tuple(Index(d) for d in spec.shape)
            if not cut:
                return Operand(storage.buffer, Index(storage.offset), dims)
            row = 1
            for d in spec.shape[1:]:
                row *= d
            return Operand(storage.buffer, as_index(low) * row + storage.offset, (rows, *dims[1:]))

        reads = [part(plan.storage[x], x.spec, i in batch) for i, x in enumerate(operands)]
        writes = [part(s, spec, function.samples is not None) for s, spec in zip(outputs, specs, strict=True)]
        b.call(function.name, slot, function.evaluate is not None, reads, writes)

    if function.evaluate is not None:
        call(0, extent)
        units = Range(1, caller=True)
    elif function.samples is None:
        call(0, extent)
        units = Range(1)
    else:
        with b.loop("s", var("lo"), var("hi")) as s:
            low = b.let("low", "muldiv", extent, s, SLICES)
            high = b.let("high", "muldiv", extent, s + 1, SLICES)
            with b.when(low, high):
                call(low, high + low * -1)
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
