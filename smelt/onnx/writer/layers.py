"""Layers as ONNX operations: one entry per layer that ONNX has a word for, so that exported files stay readable.

In: a call of a library layer, and the name of what it was given. Out: the name of what it returned. Layers that are not
in the table ``LAYERS`` are written as the primitives they are made of, with the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from smelt import nn
from smelt.nn.calls import Call
from smelt.nn.functional import same_padding
from smelt.nn.module import Module
from smelt.onnx.writer.emitter import Emitter
from smelt.onnx.writer.primitives import pads
from smelt.tensor import Tensor

Pair = tuple[int, int]


class Layer:
    """One call of a layer, as its entry in the table sees it."""

    def __init__(self, e: Emitter, call: Call, names: Mapping[int, str]) -> None:
        self.e, self.module, self._names = e, call.module, names
        self.x, self.spec = e.value(call.inputs[0]), call.inputs[0].spec
        self.rank = len(self.spec.shape)

    def weight(self, tensor: Tensor) -> str:
        """Return the name of the initializer of a parameter or buffer."""
        return self.e.weight(self._names[id(tensor)], tensor.numpy())

    def affine(self, size: int) -> tuple[str, str]:
        """Return the names of ``weight`` and ``bias``, or of ones and zeros where the layer has none."""
        m: Any = self.module
        scale = self.weight(m.weight) if m.weight is not None else self._filled(size, 1.0)
        return scale, self.weight(m.bias) if m.bias is not None else self._filled(size, 0.0)

    def _filled(self, size: int, value: float) -> str:
        return self.e.constant([value] * size, self.spec.dtype)


def _plain(kind: str, **attributes: Any) -> Callable[[Layer], str]:
    return lambda c: c.e.last(kind, c.x, **attributes)


def _conv(c: Layer) -> str:
    m: Any = c.module
    kernel, stride, dilation = _tuple(m.kernel_size), _tuple(m.stride), _tuple(m.dilation)
    if m.padding == "same":
        zip4 = zip(c.spec.shape[2:], kernel, stride, dilation, strict=True)
        padding = tuple(same_padding(*sizes) for sizes in zip4)
    else:
        given = _tuple(0 if m.padding == "valid" else m.padding, len(kernel))
        padding = (given[:2], given[2:]) if len(given) == 4 else tuple((p, p) for p in given)
    return c.e.last(
        "Conv",
        c.x,
        c.weight(m.weight),
        *([c.weight(m.bias)] if m.bias is not None else []),
        kernel_shape=kernel,
        strides=stride,
        pads=pads(padding),
        dilations=dilation,
        group=m.groups,
    )


def _tuple(value: Any, length: int = 1) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple) else (value,) * length


def _linear(c: Layer) -> str:
    m: Any = c.module
    weight = c.weight(m.weight)
    bias = [c.weight(m.bias)] if m.bias is not None else []
    if c.rank == 2:
        return c.e.last("Gemm", c.x, weight, *bias, transB=1)
    turned = c.e.op("Transpose", weight, perm=[1, 0])
    if not bias:
        return c.e.last("MatMul", c.x, turned)
    return c.e.last("Add", c.e.op("MatMul", c.x, turned), *bias)


def _batch_norm(c: Layer) -> str:
    m: Any = c.module
    statistics = c.weight(m.running_mean), c.weight(m.running_var)
    affine = c.affine(m.num_features)
    return c.e.last("BatchNormalization", c.x, *affine, *statistics, epsilon=m.eps, momentum=1 - m.momentum)


def _layer_norm(c: Layer) -> str:
    m: Any = c.module
    if m.weight is None:
        scale = [c.e.constant(_ones(m.normalized_shape), c.spec.dtype)]
    else:
        scale = [c.weight(m.weight)] + ([c.weight(m.bias)] if m.bias is not None else [])
    return c.e.last("LayerNormalization", c.x, *scale, axis=-len(m.normalized_shape), epsilon=m.eps)


def _ones(shape: tuple[int, ...]) -> Any:
    return [_ones(shape[1:]) if len(shape) > 1 else 1.0 for _ in range(shape[0])]


def _group_norm(c: Layer) -> str:
    m: Any = c.module
    return c.e.last("GroupNormalization", c.x, *c.affine(m.num_channels), num_groups=m.num_groups, epsilon=m.eps)


def _clip6(c: Layer) -> str:
    return c.e.last("Clip", c.x, c.e.constant(0.0, c.spec.dtype), c.e.constant(6.0, c.spec.dtype))


def _silu(c: Layer) -> str:
    return c.e.last("Mul", c.x, c.e.op("Sigmoid", c.x))


def _pool(kind: str) -> Callable[[Layer], str]:
    def write(c: Layer) -> str:
        m: Any = c.module
        padding = _tuple(m.padding)
        return c.e.last(
            kind,
            c.x,
            kernel_shape=_tuple(m.kernel_size),
            strides=_tuple(m.stride),
            pads=[*padding, *padding],
            count_include_pad=int(m.count_include_pad) if kind == "AveragePool" else None,
        )

    return write


def _global_pool(kind: str) -> Callable[[Layer], str]:
    def write(c: Layer) -> str:
        if c.module.keepdims:  # type: ignore[attr-defined]
            return c.e.last(kind, c.x)
        return c.e.last("Flatten", c.e.op(kind, c.x), axis=1)

    return write


LAYERS: dict[type[Module], Callable[[Layer], str]] = {
    nn.Conv1d: _conv,
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.ReLU: _plain("Relu"),
    nn.ReLU6: _clip6,
    nn.Sigmoid: _plain("Sigmoid"),
    nn.Tanh: _plain("Tanh"),
    nn.SiLU: _silu,
    nn.Hardswish: _plain("HardSwish"),
    nn.Hardsigmoid: _plain("HardSigmoid", alpha=1 / 6, beta=0.5),
    nn.LeakyReLU: lambda c: c.e.last("LeakyRelu", c.x, alpha=c.module.negative_slope),  # type: ignore[attr-defined]
    nn.GELU: lambda c: c.e.last("Gelu", c.x, approximate=c.module.approximate),  # type: ignore[attr-defined]
    nn.Flatten: _plain("Flatten", axis=1),
    nn.Softmax: lambda c: c.e.last("Softmax", c.x, axis=c.module.dim),  # type: ignore[attr-defined]
    nn.LogSoftmax: lambda c: c.e.last("LogSoftmax", c.x, axis=c.module.dim),  # type: ignore[attr-defined]
    nn.MaxPool1d: _pool("MaxPool"),
    nn.MaxPool2d: _pool("MaxPool"),
    nn.AvgPool1d: _pool("AveragePool"),
    nn.AvgPool2d: _pool("AveragePool"),
    nn.GlobalAvgPool2d: _global_pool("GlobalAveragePool"),
    nn.GlobalMaxPool2d: _global_pool("GlobalMaxPool"),
}


def has_word(call: Call) -> bool:
    """Return whether ONNX says in its own words what a call did."""
    if type(call.module) not in LAYERS or len(call.inputs) != 1 or len(call.results) != 1:
        return False
    if isinstance(call.module, nn.Flatten) and call.module.start_dim != 1:
        return False  # ONNX's Flatten has always two axes
    return call.results[0] is not call.inputs[0]
