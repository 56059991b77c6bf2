"""Networks as JSON: a module made of library layers in, nested dicts out, and back.

``{"type": "Linear", "args": {"in_features": 4, "out_features": 2, "bias": true}}``. Types are looked up in
the closed table :data:`LAYERS`, nothing is imported, and a network is counted before it is allocated, so that
a file from a stranger can be read.
"""

from __future__ import annotations

import inspect
from typing import Any

from smelt.errors import at_user_line
from smelt.nn import activation, container, convolution, init, linear, normalization, pooling
from smelt.nn.module import Module, _signature

LAYERS: dict[str, type[Module]] = {
    cls.__name__: cls
    for cls in (
        activation.Dropout,
        activation.GELU,
        activation.Hardsigmoid,
        activation.Hardswish,
        activation.LeakyReLU,
        activation.LogSoftmax,
        activation.ReLU,
        activation.ReLU6,
        activation.SiLU,
        activation.Sigmoid,
        activation.Softmax,
        activation.Tanh,
        container.Add,
        container.Concat,
        container.Sequential,
        convolution.Conv1d,
        convolution.Conv2d,
        linear.Flatten,
        linear.Identity,
        linear.Linear,
        normalization.BatchNorm1d,
        normalization.BatchNorm2d,
        normalization.GroupNorm,
        normalization.LayerNorm,
        pooling.AvgPool1d,
        pooling.AvgPool2d,
        pooling.GlobalAvgPool2d,
        pooling.GlobalMaxPool2d,
        pooling.MaxPool1d,
        pooling.MaxPool2d,
    )
}
"""The layers a file may name."""

MAX_DEPTH = 64
MAX_MODULES = 10_000


def to_config(module: Module) -> dict[str, Any]:
    """Describe a network of library layers as JSON-able dicts.

    Parameters
    ----------
    module : Module
        A layer of :data:`LAYERS`, or a container of such.

    Returns
    -------
    dict
        ``{"type": name, "args": {...}}``; modules among the arguments are described the same way. Values of
        parameters and buffers are not part of it: see :meth:`Module.state_dict`.

    Raises
    ------
    ValueError
        When something in it is not a library layer, or appears twice (which a tree cannot say).

    Examples
    --------
    >>> from smelt import nn
    >>> nn.to_config(nn.Sequential(nn.ReLU()))
    {'type': 'Sequential', 'args': {'layers': [{'type': 'ReLU', 'args': {}}]}}
    """
    return _describe(module, "config", {}, 1)


def _describe(module: Module, path: str, seen: dict[int, str], depth: int) -> dict[str, Any]:
    name = type(module).__name__
    if LAYERS.get(name) is not type(module):
        raise _bad(path, f"expected a layer of smelt.nn, received {name}, which is defined elsewhere")
    tensors = [t for _, t in module._members() if not isinstance(t, Module)]
    for thing in (module, *tensors):
        if id(thing) in seen:
            raise _bad(path, f"this {type(thing).__name__} is used in {seen[id(thing)]} already: expected a tree")
        seen[id(thing)] = path
    if depth > MAX_DEPTH:
        raise _bad(path, f"expected at most {MAX_DEPTH} levels of modules")
    args = {}
    for key, value in module.config().items():
        if isinstance(value, list):
            value = [
                _describe(v, f"{path}.args.{key}[{i}]", seen, depth + 1) if isinstance(v, Module) else v
                for i, v in enumerate(value)
            ]
        args[key] = value
    return {"type": name, "args": args}


def from_config(
    config: Any,
    *,
    max_parameters: int = 100_000_000,
    max_modules: int = MAX_MODULES,
    initialize: bool = True,
) -> Module:
    """Build the network that :func:`to_config` described.

    Parameters
    ----------
    config : dict
        Checked strictly: types by :data:`LAYERS`, keys by their constructors, values by the constructors' own
        checks.
    max_parameters : int, default 100,000,000
        Most parameters and buffers in all; counted before each is allocated.
    max_modules : int, default 10,000
        Most modules in all. There are at most 64 levels.
    initialize : bool, default True
        Whether weights are drawn at random. With False they are 0, to be loaded, and no random number is used
        up.

    Returns
    -------
    Module
        In training mode.

    Raises
    ------
    ValueError
        One line that names the place in ``config``, what was received and what was expected.

    Examples
    --------
    >>> from smelt import nn
    >>> nn.from_config({"type": "Linear", "args": {"in_features": 3, "out_features": 2}})
    Linear(3, 2)
    """
    builder = _Builder(max_modules)
    with init.budget(max_parameters, draw=initialize):
        return builder.build(config, "config", 1)


class _Builder:
    def __init__(self, max_modules: int) -> None:
        self.max_modules = max_modules
        self.modules = 0

    def build(self, config: Any, path: str, depth: int) -> Module:
        if not isinstance(config, dict) or set(config) - {"type", "args"} or "type" not in config:
            raise _bad(path, f"expected {{'type': ..., 'args': {{...}}}}, received {_short(config)}")
        name, args = config["type"], config.get("args", {})
        cls = LAYERS.get(name) if isinstance(name, str) else None
        if cls is None:
            raise _bad(f"{path}.type", f"expected one of {', '.join(sorted(LAYERS))}, received {_short(name)}")
        if not isinstance(args, dict):
            raise _bad(f"{path}.args", f"expected a dict of arguments, received {_short(args)}")
        self.modules += 1
        if self.modules > self.max_modules or depth > MAX_DEPTH:
            raise _bad(path, f"expected at most {self.max_modules:,} modules in {MAX_DEPTH} levels")
        parameters = _signature(cls)
        unknown = [k for k in args if k not in parameters]
        if unknown:
            expected = ", ".join(parameters) or "no arguments"
            raise _bad(f"{path}.args", f"{name} takes {expected}, received {_short(unknown[0])}")
        positional: list[Module] = []
        keywords = {}
        for key, parameter in parameters.items():
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                positional = self._modules(args.get(key, []), f"{path}.args.{key}", depth)
            elif key in args:
                keywords[key] = _value(args[key], f"{path}.args.{key}")
            elif parameter.default is parameter.empty:
                raise _bad(f"{path}.args", f"{name} needs {key}, received {_short(list(args))}")
        try:
            return cls(*positional, **keywords)
        except ValueError as e:
            raise _bad(f"{path}.args", str(e)) from None

    def _modules(self, value: Any, path: str, depth: int) -> list[Module]:
        if not isinstance(value, list):
            raise _bad(path, f"expected a list of modules, received {_short(value)}")
        return [self.build(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]


def _value(value: Any, path: str) -> Any:
    if isinstance(value, list):
        return tuple(_scalar(v, path) for v in value)
    return _scalar(value, path)


def _scalar(value: Any, path: str) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise _bad(path, f"expected a number, text, or a list of numbers, received {_short(value)}")


def _short(value: Any) -> str:
    if isinstance(value, (list, dict)) and len(value) > 8:
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _bad(path: str, message: str) -> ValueError:
    return ValueError(f"{path}: {message}" if message.endswith("]") else at_user_line(f"{path}: {message}"))
