"""Module: a piece of a network. Tensors in, tensors out; parameters and parts are found by looking at it.

There is no registration: an attribute that is a Parameter is trained, one that is another Tensor is a buffer,
one that is a Module (or a list or tuple of these) is a part. Names are dotted paths, as PyTorch's:
``"0.weight"``.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from smelt.errors import at_user_line
from smelt.graph.trace import changes, current_tracer, in_layer
from smelt.tensor import Parameter, Tensor

if TYPE_CHECKING:
    from smelt.runtime.inference import Inference

Self = TypeVar("Self", bound="Module")


class Module:
    """A piece of a network with parameters, buffers and parts.

    Subclasses assign them to attributes in ``__init__`` and define ``forward``; they need not call
    ``super().__init__()``. A compiled function that uses a module is traced again when one of the module's
    attributes has been set since.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> class Scale(nn.Module):
    ...     def __init__(self):
    ...         self.factor = smelt.Parameter([2.0])
    ...     def forward(self, x):
    ...         return x * self.factor
    >>> model = Scale()
    >>> model(smelt.tensor([1.0, 3.0])).tolist()
    [2.0, 6.0]
    >>> [name for name, _ in model.named_parameters()]
    ['factor']
    """

    _training = True
    _changes = 0  # how often a public attribute was set: a traced function guards it

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if not name.startswith("_"):
            self.__dict__["_changes"] = self._changes + 1
        changes.note()

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        self.__dict__["_changes"] = self._changes + 1
        changes.note()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the output; subclasses define it."""
        raise NotImplementedError(at_user_line(f"{type(self).__name__} has no forward()"))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run ``forward``; NumPy arrays among the arguments become tensors."""
        args = tuple(Tensor(a) if isinstance(a, np.ndarray) else a for a in args)
        tracer = current_tracer()
        if tracer is None:
            return self.forward(*args, **kwargs)
        if id(self) not in tracer.paths:
            self._name_tensors()
            tracer.paths |= {id(module): path for path, module in self.named_modules()}
        with in_layer(f"{tracer.paths[id(self)]} {type(self).__name__}".lstrip()):
            out = self.forward(*args, **kwargs)
        changes = self._changes
        tracer.guard(f"{type(self).__name__} has the attributes it was traced with", lambda: self._changes == changes)
        return out

    # --- mode -----------------------------------------------------------------------------------------------

    @property
    def training(self) -> bool:
        """Whether dropout drops and batch-norm uses the batch, as in training; True at first.

        A compiled function that read it is traced again when it has changed.
        """
        value = self._training
        tracer = current_tracer()
        if tracer is not None:
            tracer.guard(f"training of {type(self).__name__} is {value}", lambda: self._training == value)
        return value

    def train(self: Self, mode: bool = True) -> Self:
        """Set ``training`` of the module and all its parts; return the module."""
        for _, module in self.named_modules():
            module._training = bool(mode)
        return self

    def eval(self: Self) -> Self:
        """Set ``training`` to False here and in all parts; return the module."""
        return self.train(False)

    def compile(self, *, precision: str = "f32") -> Inference:
        """Return the forward pass in evaluation mode as native code, for arrays in and tensors out.

        Batch normalization and other factors per channel are folded into the weights, which are those of this moment;
        the model itself does not change. See :class:`smelt.Inference`. A training step is compiled by
        :func:`smelt.compile`.

        Parameters
        ----------
        precision : {"f32", "bf16", "f16"}, default "f32"
            What matrix products and convolutions round their operands to.

        Examples
        --------
        >>> import numpy as np
        >>> from smelt import nn
        >>> fast = nn.Sequential(nn.Linear(3, 2), nn.ReLU()).compile()
        >>> fast(np.ones((5, 3), np.float32)).shape
        (5, 2)
        """
        from smelt.runtime.inference import Inference  # it needs modules itself

        return Inference(self, precision)

    # --- parts ----------------------------------------------------------------------------------------------

    def _members(self) -> Iterator[tuple[str, Any]]:
        """Yield (name, parameter, buffer or module) of what this module holds itself."""
        for name, value in vars(self).items():
            yield from _flat(name, value)

    def children(self) -> Iterator[Module]:
        """Yield the modules this one holds directly."""
        return (m for _, m in self._members() if isinstance(m, Module))

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield (dotted name, module) of this module (named ``prefix``) and every part in it, each once."""
        yield from self._walk(prefix, set())

    def _walk(self, prefix: str, seen: set[int]) -> Iterator[tuple[str, Module]]:
        if id(self) in seen:
            return
        seen.add(id(self))
        yield prefix, self
        for name, member in self._members():
            if isinstance(member, Module):
                yield from member._walk(_join(prefix, name), seen)

    def _tensors(self, prefix: str) -> Iterator[tuple[str, Tensor]]:
        seen: set[int] = set()
        for path, module in self.named_modules(prefix):
            for name, tensor in module._members():
                if isinstance(tensor, Tensor) and id(tensor) not in seen:
                    seen.add(id(tensor))
                    full = _join(path, name)
                    if not tensor.name or full.endswith(f".{tensor.name}"):
                        tensor.name = full
                    yield full, tensor

    def _name_tensors(self) -> None:
        for _ in self._tensors(""):
            pass

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Yield (dotted name, parameter), each once; parameters without a name receive this one.

        Examples
        --------
        >>> from smelt import nn
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> [f"{name} {p.shape}" for name, p in model.named_parameters()]
        ['0.weight (3, 2)', '0.bias (3,)', '2.weight (1, 3)', '2.bias (1,)']
        """
        return ((n, t) for n, t in self._tensors(prefix) if isinstance(t, Parameter))

    def parameters(self) -> Iterator[Parameter]:
        """Yield every parameter once."""
        return (p for _, p in self.named_parameters())

    def named_buffers(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Yield (dotted name, tensor) of every tensor that is kept but not trained, each once."""
        return ((n, t) for n, t in self._tensors(prefix) if not isinstance(t, Parameter))

    # --- values ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of all parameters and buffers by dotted name.

        Examples
        --------
        >>> from smelt import nn
        >>> {name: array.shape for name, array in nn.BatchNorm2d(4, affine=False).state_dict().items()}
        {'running_mean': (4,), 'running_var': (4,)}
        """
        return {name: tensor.numpy().copy() for name, tensor in self._tensors("")}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Copy values into the parameters and buffers, in place.

        Parameters
        ----------
        state : mapping of str to array-like
            As :meth:`state_dict` returns. Floating-point values are converted to the dtype here.
        strict : bool, default True
            Whether names that are missing or unexpected are errors; else they are passed over.

        Raises
        ------
        ValueError
            One line that lists every missing or unexpected name and wrong shape; nothing is changed then.

        Examples
        --------
        >>> from smelt import nn
        >>> a, b = nn.Linear(3, 2), nn.Linear(3, 2)
        >>> b.load_state_dict(a.state_dict())
        >>> bool((a.weight.numpy() == b.weight.numpy()).all())
        True
        """
        tensors = dict(self._tensors(""))
        problems = []
        if strict:
            missing = [n for n in tensors if n not in state]
            unexpected = [n for n in state if n not in tensors]
            problems += [f"missing {', '.join(missing)}"] * bool(missing)
            problems += [f"unexpected {', '.join(unexpected)}"] * bool(unexpected)
        arrays = {n: _values(state[n]) for n in tensors if n in state}
        for name, array in arrays.items():
            tensor = tensors[name]
            if array.shape != tensor.shape or array.dtype.kind != tensor.dtype.kind:
                expected = f"{tensor.dtype}{list(tensor.shape)}"
                problems.append(f"{name}: expected {expected}, received {array.dtype}{list(array.shape)}")
        if problems:
            raise ValueError(at_user_line(f"{type(self).__name__}.load_state_dict: {'; '.join(problems)}"))
        for name, array in arrays.items():
            tensors[name].assign(array.astype(tensors[name].dtype))

    # --- description ----------------------------------------------------------------------------------------

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments, read from the attributes of the same names.

        Layers keep every argument of their constructor under its own name (``bias`` may be the parameter
        itself, or None). What comes back is JSON-able but for modules, which :func:`smelt.nn.to_config`
        describes in turn.

        Raises
        ------
        TypeError
            When an argument has no attribute of its name: the class does not keep to this rule.

        Examples
        --------
        >>> from smelt import nn
        >>> nn.Linear(3, 2, bias=False).config()
        {'in_features': 3, 'out_features': 2, 'bias': False}
        """
        out = {}
        for name in _signature(type(self)):
            if not hasattr(self, name):
                raise TypeError(f"{type(self).__name__} has no attribute {name!r} for the argument of that name")
            out[name] = _plain(name, getattr(self, name))
        return out

    def __repr__(self) -> str:
        parts = [(n, m) for n, m in self._members() if isinstance(m, Module)]
        if not parts:
            return f"{type(self).__name__}({_arguments(self)})"
        lines = [f"  ({name}): {module!r}".replace("\n", "\n  ") for name, module in parts]
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (Tensor, Module)):
        yield name, value
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _flat(f"{name}.{i}", item)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _values(value: Any) -> np.ndarray:
    return value.numpy() if isinstance(value, Tensor) else np.asarray(value)


def _signature(cls: type) -> dict[str, inspect.Parameter]:
    if cls.__init__ is object.__init__:  # type: ignore[misc]
        return {}
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]  # type: ignore[misc]
    return {p.name: p for p in parameters}


def _plain(name: str, value: Any) -> Any:
    if name == "bias" and (value is None or isinstance(value, Tensor)):
        return value is not None
    return [_plain("", v) for v in value] if isinstance(value, (tuple, list)) else value


def _arguments(module: Module) -> str:
    """Return the arguments as a user would write them: without those that are the default."""
    shown = []
    for name, parameter in _signature(type(module)).items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            continue
        if not hasattr(module, name):
            return ""
        value = getattr(module, name)
        if name == "bias":
            value = _plain(name, value)
        if isinstance(value, (Tensor, Module)):
            return ""
        if parameter.default is parameter.empty:
            shown.append(repr(value))
        elif value != parameter.default and value != (parameter.default,) * 2:
            shown.append(f"{name}={value!r}")
    return ", ".join(shown)
