"""Operators as layers of the library, where one does exactly the same.

In: the steps of a network and what is known of its shapes. Out: the same steps, with ``nn.Conv2d``, ``nn.Linear``,
``nn.BatchNorm2d`` and so on in place of operators, so that what works on layers works on a loaded network. A layer is
called as its weights are (``"0"`` for ``"0.weight"``), else as its node is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from smelt import nn
from smelt.nn import init
from smelt.nn.module import Module
from smelt.onnx.reader.model import PROBLEMS, Operator, Step
from smelt.onnx.reader.parse import shortest
from smelt.ops.primitive import Spec
from smelt.tensor import Parameter, Tensor

Tensors = dict[str, Tensor]
Maker = Callable[["Found"], "tuple[Module, Tensors] | Module | None"]


class Found:
    """An operator that might be a layer: its weights and constants by position, and the shape of its input."""

    def __init__(self, module: Operator, spec: Spec | None) -> None:
        self.weights = {i: getattr(module, name) for i, name in module.weights.items()}
        self.constants, self.version = module.constants, module.version
        self.outputs = module.outputs
        self.rank = len(spec.shape) if spec else None
        self._attributes = module.attributes

    def attribute(self, name: str, default: Any) -> Any:
        """Return an attribute."""
        return self._attributes.get(name, default)

    def only_trained(self, *positions: int) -> bool:
        """Return whether the bound inputs are parameters at these positions (those given) and nothing else."""
        bound = {*self.weights, *self.constants}
        return bound <= set(positions) and all(isinstance(self.weights.get(i), Parameter) for i in bound)


def _pads(f: Found, rank: int) -> Any:
    """Return padding as a layer takes it, or None when it takes no such."""
    auto = f.attribute("auto_pad", "NOTSET")
    if auto == "SAME_UPPER":
        return "same"
    if auto == "VALID":
        return (0,) * rank
    pads = f.attribute("pads", [0] * 2 * rank)
    if auto != "NOTSET":
        return None
    if pads[:rank] == pads[rank:]:
        return tuple(pads[:rank])
    return tuple(p for axis in range(rank) for p in pads[axis::rank]) if rank == 2 else None


def _conv(f: Found) -> tuple[Module, Tensors] | None:
    weight, bias = f.weights.get(1), f.weights.get(2)
    if weight is None or not f.only_trained(1, 2) or weight.ndim not in (3, 4):
        return None
    rank = weight.ndim - 2
    padding = _pads(f, rank)
    if padding is None:
        return None
    groups = f.attribute("group", 1)
    stride, dilation = (tuple(f.attribute(name, [1] * rank)) for name in ("strides", "dilations"))
    sizes = (weight.shape[1] * groups, weight.shape[0])
    options: dict[str, Any] = {"groups": groups, "bias": bias is not None}
    layer: Module
    if rank == 2:
        layer = nn.Conv2d(*sizes, weight.shape[2:], stride, padding, dilation, **options)
    else:
        one = padding if isinstance(padding, str) else padding[0]
        layer = nn.Conv1d(*sizes, weight.shape[2], stride[0], one, dilation[0], **options)
    return layer, {"weight": weight, **({"bias": bias} if bias is not None else {})}


def _gemm(f: Found) -> tuple[Module, Tensors] | None:
    weight, bias = f.weights.get(1), f.weights.get(2)
    plain = f.attribute("transB", 0) == 1 and f.attribute("transA", 0) == 0
    plain = plain and f.attribute("alpha", 1.0) == f.attribute("beta", 1.0) == 1.0
    if weight is None or not plain or not f.only_trained(1, 2) or weight.ndim != 2:
        return None
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    return layer, {"weight": weight, **({"bias": bias} if bias is not None else {})}


def _batch_norm(f: Found) -> tuple[Module, Tensors] | None:
    mean, var = f.weights.get(3), f.weights.get(4)
    if mean is None or var is None or f.attribute("training_mode", 0) or f.outputs != 1 or f.rank not in (2, 3, 4):
        return None
    if any(isinstance(t, Parameter) for t in (mean, var)):
        return None
    kind = nn.BatchNorm2d if f.rank == 4 else nn.BatchNorm1d
    tensors = {"running_mean": mean, "running_var": var}
    affine = {1, 2} <= set(f.weights)
    if affine:
        tensors |= {"weight": f.weights[1], "bias": f.weights[2]}
    elif {1, 2} & set(f.weights) or not (np.all(f.constants[1] == 1) and np.all(f.constants[2] == 0)):
        return None
    momentum = shortest(1 - f.attribute("momentum", 0.9))
    layer = kind(mean.size, f.attribute("epsilon", 1e-5), min(max(momentum, 0.0), 1.0), affine)
    return layer, tensors


def _layer_norm(f: Found) -> tuple[Module, Tensors] | None:
    axis, scale, bias = f.attribute("axis", -1), f.weights.get(1), f.weights.get(2)
    if f.rank is None or f.outputs != 1 or not f.only_trained(1, 2) or scale is None:
        return None
    count = -axis if axis < 0 else f.rank - axis
    if scale.ndim != count or (bias is not None and bias.shape != scale.shape):
        return None
    layer = nn.LayerNorm(scale.shape, f.attribute("epsilon", 1e-5), bias=bias is not None)
    return layer, {"weight": scale, **({"bias": bias} if bias is not None else {})}


def _group_norm(f: Found) -> tuple[Module, Tensors] | None:
    scale, bias = f.weights.get(1), f.weights.get(2)
    if f.version < 21 or not f.only_trained(1, 2) or scale is None or bias is None or scale.shape != bias.shape:
        return None
    layer = nn.GroupNorm(f.attribute("num_groups", 1), scale.size, f.attribute("epsilon", 1e-5))
    return layer, {"weight": scale, "bias": bias}


def _pool(wide: Callable[..., Module], narrow: Callable[..., Module]) -> Maker:
    def make(f: Found) -> Module | None:
        kernel = f.attribute("kernel_shape", [])
        rank = len(kernel)
        padding = _pads(f, rank)
        dilated = any(d != 1 for d in f.attribute("dilations", []))
        if f.outputs != 1 or rank not in (1, 2) or dilated or f.attribute("ceil_mode", 0) or padding in (None, "same"):
            return None
        if len(padding) != rank or any(p >= k for p, k in zip(padding, kernel, strict=True)):
            return None
        stride = f.attribute("strides", [1] * rank)
        options = {}
        if wide is nn.AvgPool2d:
            options["count_include_pad"] = bool(f.attribute("count_include_pad", 0))
        if rank == 2:
            return wide(tuple(kernel), tuple(stride), padding, **options)
        return narrow(kernel[0], stride[0], padding[0], **options)

    return make


def _clip(f: Found) -> Module | None:
    bounds = [f.constants[i].tolist() if i in f.constants else None for i in (1, 2)]
    if f.version < 11:
        bounds = [f.attribute("min", None), f.attribute("max", None)]
    return nn.ReLU6() if bounds == [0.0, 6.0] and not f.weights else None


def _hard_sigmoid(f: Found) -> Module | None:
    slope, offset = f.attribute("alpha", 0.2), f.attribute("beta", 0.5)
    return nn.Hardsigmoid() if np.float32(slope) == np.float32(1 / 6) and offset == 0.5 else None


def _softmax(layer: Callable[[int], Module]) -> Maker:
    return lambda f: layer(f.attribute("axis", -1)) if f.version >= 13 else None


def _global(layer: Callable[[], Module]) -> Maker:
    return lambda f: layer() if f.rank == 4 else None


def _flatten(f: Found) -> Module | None:
    return nn.Flatten() if f.attribute("axis", 1) == 1 and f.rank is not None and f.rank >= 2 else None


def _dropout(f: Found) -> Module | None:
    ratio = float(f.constants[1].reshape(())) if 1 in f.constants else f.attribute("ratio", 0.5)
    always = 2 in f.constants and bool(f.constants[2].reshape(()))
    return nn.Dropout(ratio) if f.outputs == 1 and not always else None


MAKERS: dict[str, Maker] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "GroupNormalization": _group_norm,
    "MaxPool": _pool(nn.MaxPool2d, nn.MaxPool1d),
    "AveragePool": _pool(nn.AvgPool2d, nn.AvgPool1d),
    "GlobalAveragePool": _global(lambda: nn.GlobalAvgPool2d(keepdims=True)),
    "GlobalMaxPool": _global(lambda: nn.GlobalMaxPool2d(keepdims=True)),
    "Relu": lambda f: nn.ReLU(),
    "LeakyRelu": lambda f: nn.LeakyReLU(f.attribute("alpha", 0.01)),
    "Clip": _clip,
    "Sigmoid": lambda f: nn.Sigmoid(),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda f: nn.Hardswish(),
    "Tanh": lambda f: nn.Tanh(),
    "Gelu": lambda f: nn.GELU(f.attribute("approximate", "none")),
    "Softmax": _softmax(nn.Softmax),
    "LogSoftmax": _softmax(nn.LogSoftmax),
    "Flatten": _flatten,
    "Dropout": _dropout,
    "Identity": lambda f: nn.Identity(),
}


def use_layers(steps: list[Step], names: dict[str, str], specs: dict[str, Spec], outputs: list[str]) -> dict[str, str]:
    """Replace operators by layers, in place; return the names of weights by the path of the layer that has them."""
    paths = Counter(step.path for step in steps)
    kept: dict[str, str] = {}
    for step in steps:
        operator, before = step.module, step.path
        assert isinstance(operator, Operator)
        weights = {id(getattr(operator, a)): names[f"{before}.{a}"] for a in operator.weights.values()}
        made = _layer(step, specs)
        if made is not None:
            step.module, tensors = made
            prefix = _prefix(tensors, weights)
            if prefix and not paths[prefix]:
                paths[prefix] += 1
                step.path = prefix
        for name, tensor in step.module._members():
            kept[f"{step.path}.{name}"] = weights[id(tensor)]
    _join_linear(steps, kept, outputs)
    return kept


def _layer(step: Step, specs: dict[str, Spec]) -> tuple[Module, Tensors] | None:
    operator = step.module
    assert isinstance(operator, Operator)
    maker = MAKERS.get(type(operator).__name__)
    data = step.inputs[0] if step.inputs else None
    if maker is None or data is None or sum(name is not None for name in step.inputs) != 1:
        return None
    if data in specs and specs[data].dtype.kind != "f":
        return None
    try:
        with init.budget(sum(getattr(operator, a).size for a in operator.weights.values()), draw=False):
            made = maker(Found(operator, specs.get(data)))
    except PROBLEMS:  # a layer is stricter than the operator, and attributes may be anything
        return None
    layer, tensors = made if isinstance(made, tuple) else (made, {})
    if layer is None:
        return None
    for name, tensor in tensors.items():
        if getattr(layer, name).shape != tensor.shape:
            return None
        setattr(layer, name, tensor)
    return layer, tensors


def _prefix(tensors: Tensors, weights: dict[int, str]) -> str:
    """Return ``"0"`` when the tensors are called ``0.weight``, ``0.bias`` and so on, else nothing."""
    found = {weights[id(t)].removesuffix(f".{name}") for name, t in tensors.items()}
    prefix = found.pop() if len(found) == 1 else ""
    return prefix if all(weights[id(t)] == f"{prefix}.{name}" for name, t in tensors.items()) else ""


def _join_linear(steps: list[Step], names: dict[str, str], outputs: list[str]) -> None:
    """Make one ``nn.Linear`` of a transposed weight, the product with it, and the bias that is added."""
    uses = Counter(name for step in steps for name in step.inputs if name)
    uses.update(outputs)
    makers = {name: step for step in steps for name in step.outputs}
    users = {name: step for step in steps for name in step.inputs if name}
    paths = Counter(step.path for step in steps)
    gone: set[int] = set()
    for product in steps:
        turned = makers.get(product.inputs[1] or "") if _is(product, "MatMul", 2) else None
        if turned is None or not _is(turned, "Transpose", 1) or uses[turned.outputs[0]] != 1:
            continue
        transpose = turned.module
        weight = getattr(transpose, "input0", None)
        if weight is None or weight.ndim != 2 or transpose.attributes.get("perm", [1, 0]) != [1, 0]:  # type: ignore[attr-defined]
            continue
        last = users.get(product.outputs[0])
        bias = _bias(last, weight.shape[0]) if last is not None and uses[product.outputs[0]] == 1 else None
        with init.budget(weight.size + weight.shape[0], draw=False):
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
        tensors: Tensors = {"weight": weight, **({"bias": bias} if bias is not None else {})}
        kept = {id(weight): names.pop(f"{turned.path}.input0")}
        layer.weight, layer.bias = weight, bias
        end = product
        if last is not None and bias is not None:
            gone.add(id(product))
            end = last
            held = next(a for a in ("input0", "input1") if hasattr(last.module, a))
            kept[id(bias)] = names.pop(f"{last.path}.{held}")
        gone.add(id(turned))
        prefix = _prefix(tensors, kept)
        if prefix and not paths[prefix]:
            paths[prefix] += 1
            end.path = prefix
        end.module, end.inputs = layer, [product.inputs[0]]
        names.update({f"{end.path}.{name}": kept[id(t)] for name, t in tensors.items()})
    steps[:] = [s for s in steps if id(s) not in gone]


def _is(step: Step, kind: str, count: int) -> bool:
    return type(step.module).__name__ == kind and isinstance(step.module, Operator) and len(step.inputs) == count


def _bias(step: Step, size: int) -> Parameter | None:
    """Return what a step adds, when it adds one parameter of that size."""
    if not _is(step, "Add", 2):
        return None
    assert isinstance(step.module, Operator)
    found = [getattr(step.module, a) for a in step.module.weights.values()]
    return found[0] if len(found) == 1 and isinstance(found[0], Parameter) and found[0].shape == (size,) else None
