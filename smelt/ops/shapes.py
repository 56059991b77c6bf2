"""Shape arithmetic shared by the primitives: broadcasting, axes, and the axis that follows the batch.

In: specs of inputs. Out: shapes, and :class:`Rows` for results, or the reason why the batch axis was lost.
"""

from __future__ import annotations

from collections.abc import Sequence

from smelt.errors import ShapeError
from smelt.ops.primitive import Rows, Shape, Spec


def broadcast_shapes(name: str, *shapes: Shape) -> Shape:
    """Return the NumPy-broadcast shape, or raise a ShapeError that shows all of them."""
    rank = max(len(s) for s in shapes)
    out = []
    for axis in range(rank):
        dims = {s[axis - rank] for s in shapes if len(s) >= rank - axis} - {1}
        if len(dims) > 1:
            shown = " and ".join(str(s) for s in shapes)
            raise ShapeError(f"{name}: shapes {shown} do not broadcast: axis {axis} has sizes {sorted(dims)}")
        out.append(dims.pop() if dims else 1)
    return tuple(out)


def broadcast_rows(specs: Sequence[Spec], shape: Shape) -> tuple[Rows | None, str]:
    """Return where the batch axis lands when ``specs`` broadcast to ``shape``, or why it is lost."""
    found: Rows | None = None
    for spec in specs:
        if spec.rows is None:
            continue
        here = Rows(spec.rows.axis + len(shape) - len(spec.shape), spec.rows.per)
        if spec.shape[spec.rows.axis] != shape[here.axis]:
            return None, "a batch of one is repeated along an operand of fixed shape"
        if found is not None and found != here:
            return None, "the batch axis of two operands falls on different axes"
        found = here
    if found is None:
        return None, ""
    for spec in specs:
        axis = found.axis - (len(shape) - len(spec.shape))
        if spec.rows is None and axis >= 0 and spec.shape[axis] != 1:
            return None, f"an operand of fixed shape {spec.shape} meets the batch axis"
    return found, ""


def normalize_axis(name: str, axis: int, rank: int) -> int:
    """Return ``axis`` counted from the front, or raise."""
    if not -rank <= axis < rank:
        raise ShapeError(f"{name}: axis {axis} is out of range for {rank} dimensions")
    return axis % rank


def normalize_axes(name: str, axes: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Return sorted, distinct axes counted from the front; None means all."""
    if axes is None:
        return tuple(range(rank))
    if isinstance(axes, int):
        axes = (axes,)
    out = tuple(sorted(normalize_axis(name, a, rank) for a in axes))
    if len(set(out)) != len(out):
        raise ShapeError(f"{name}: axes {tuple(axes)} name an axis twice")
    return out


def reshape_rows(spec: Spec, shape: Shape) -> tuple[Rows | None, str]:
    """Return where the batch axis lands in a reshape: it must stay the slowest-varying factor of its axis."""
    if spec.rows is None:
        return None, ""
    before = 1
    for d in spec.shape[: spec.rows.axis]:
        before *= d
    batch = spec.shape[spec.rows.axis] // spec.rows.per
    lead = 1
    for axis, d in enumerate(shape):
        if lead == before and d != 1 and batch and d % batch == 0:
            return Rows(axis, d // batch), ""
        lead *= d
    return None, f"reshape from {spec.shape} to {shape} mixes the batch axis with others"
