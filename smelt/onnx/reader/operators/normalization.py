"""Normalizations: activations in; the same with mean 0 and variance 1 over some of the axes out."""

from __future__ import annotations

from smelt.nn import functional as F
from smelt.onnx.reader.arguments import Arguments, Unsupported, axis_of
from smelt.onnx.reader.operators.entry import Entry
from smelt.tensor import Tensor


def _batch_norm(c: Arguments) -> Tensor | tuple[Tensor, ...]:
    x, scale, bias, mean, var = (c.tensor(i) for i in range(5))
    epsilon, momentum = c.attribute("epsilon", 1e-5), c.attribute("momentum", 0.9)
    if not c.attribute("spatial", 1):
        raise Unsupported("statistics of each position (spatial=0)")
    if not c.attribute("training_mode", 0):
        if any(c.wants(i) for i in range(1, 5)):
            raise Unsupported("results besides the first, outside of training")
        training = c.training and c.kept(3) and c.kept(4)
        return F.batch_norm(x, mean, var, scale, bias, training, 1 - momentum, epsilon)
    axes = (0, *range(2, x.ndim))
    batch_mean = x.mean(axes)
    batch_var = x.var(axes)
    y = F.batch_norm(x, None, None, scale, bias, True, eps=epsilon)
    return y, mean * momentum + batch_mean * (1 - momentum), var * momentum + batch_var * (1 - momentum)


def _instance_norm(c: Arguments) -> Tensor:
    x = c.tensor()
    if x.ndim < 3:
        raise Unsupported(f"an input of shape {x.shape}, expected (N, C, ...)")
    return F.group_norm(x, int(x.shape[1]), c.tensor(1), c.tensor(2), c.attribute("epsilon", 1e-5))


def _layer_norm(c: Arguments) -> tuple[Tensor, ...]:
    x = c.tensor()
    axis = axis_of(c.attribute("axis", -1), x.ndim)
    axes = tuple(range(axis, x.ndim))
    mean = x.mean(axes, keepdims=True)
    centred = x - mean
    deviation = ((centred * centred).mean(axes, keepdims=True) + c.attribute("epsilon", 1e-5)).sqrt()
    out = centred / deviation * c.tensor(1)
    out = out + c.tensor(2) if c.has(2) else out
    return (out, mean, 1.0 / deviation) if c.wants(1) or c.wants(2) else (out,)


def _group_norm(c: Arguments) -> Tensor:
    x, groups, epsilon = c.tensor(), c.attribute("num_groups", 1), c.attribute("epsilon", 1e-5)
    scale, bias = c.tensor(1), c.tensor(2)
    if c.version >= 21:
        return F.group_norm(x, groups, scale, bias, epsilon)
    if x.ndim < 2 or groups < 1 or x.shape[1] % groups:
        raise Unsupported(f"{groups} groups of an input of shape {x.shape}")
    each = int(x.shape[1]) // groups  # before, there was one scale for each group
    scale, bias = (t.reshape(groups, 1).broadcast_to((groups, each)).reshape(groups * each) for t in (scale, bias))
    return F.group_norm(x, groups, scale, bias, epsilon)


OPERATORS: dict[str, Entry] = {
    "BatchNormalization": Entry(_batch_norm, buffers=frozenset({3, 4})),
    "InstanceNormalization": Entry(_instance_norm),
    "LayerNormalization": Entry(_layer_norm),
    "GroupNormalization": Entry(_group_norm),
}
