"""Modules made of modules: one after another, or branches of the same input added or concatenated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, overload

from smelt.errors import at_user_line
from smelt.functions import concat
from smelt.nn.arguments import LARGEST, integer, wrong
from smelt.nn.module import Module
from smelt.tensor import Tensor


class _Container(Module):
    """Modules in a list, which are named by their position in it."""

    @property
    def _items(self) -> list[Module]:
        raise NotImplementedError

    def _keep(self, modules: tuple[Module, ...], least: int) -> list[Module]:
        owner = type(self).__name__
        for i, module in enumerate(modules):
            if not isinstance(module, Module):
                raise wrong(owner, f"argument {i}", "a Module", module)
        if len(modules) < least:
            raise ValueError(at_user_line(f"{owner}: expected at least {least} module, received none"))
        return list(modules)

    def _members(self) -> Iterator[tuple[str, Any]]:
        for name, value in super()._members():
            yield name.removeprefix("layers.").removeprefix("branches."), value

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._items)


class Sequential(_Container):
    """Modules one after another: each receives what the one before returned.

    It can be indexed, sliced and iterated over.

    Parameters
    ----------
    *layers : Module
        In order; none at all is the identity.

    Attributes
    ----------
    layers : list of Module
        The same.

    Raises
    ------
    ValueError
        When an argument is not a Module.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> model(smelt.ones((5, 4))).shape
    (5, 2)
    >>> model[:2]
    Sequential(
      (0): Linear(4, 3)
      (1): ReLU()
    )
    """

    def __init__(self, *layers: Module) -> None:
        self.layers = self._keep(layers, least=0)

    @property
    def _items(self) -> list[Module]:
        return self.layers

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: int | slice) -> Module:
        """Return one module, or a Sequential of the same modules."""
        return Sequential(*self.layers[index]) if isinstance(index, slice) else self.layers[index]

    def __setitem__(self, index: int, module: Module) -> None:
        layers = list(self.layers)
        layers[index] = self._keep((module,), least=1)[0]
        self.layers = layers

    def append(self, module: Module) -> Sequential:
        """Add a module at the end; return this Sequential."""
        self.layers = self.layers + self._keep((module,), least=1)
        return self

    def forward(self, x: Any) -> Any:
        """Return what the last module returns."""
        for layer in self.layers:
            x = layer(x)
        return x


class Add(_Container):
    """Sum of branches that all receive the same input: with an :class:`Identity`, a residual block.

    He et al., "Deep residual learning for image recognition" (2015).

    Parameters
    ----------
    *branches : Module
        At least one; their results have one shape.

    Attributes
    ----------
    branches : list of Module
        The same.

    Raises
    ------
    ValueError
        When there is no branch, or an argument is not a Module.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.Add(nn.ReLU(), nn.Identity())(smelt.tensor([-1.0, 2.0])).tolist()
    [-1.0, 4.0]
    """

    def __init__(self, *branches: Module) -> None:
        self.branches = self._keep(branches, least=1)

    @property
    def _items(self) -> list[Module]:
        return self.branches

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of all branches of ``x``."""
        out = self.branches[0](x)
        for branch in self.branches[1:]:
            out = out + branch(x)
        return out


class Concat(_Container):
    """Results of branches that all receive the same input, joined along ``axis``.

    Szegedy et al., "Going deeper with convolutions" (2014).

    Parameters
    ----------
    *branches : Module
        At least one; their results agree in all other axes.
    axis : int, default 1
        The channels.

    Attributes
    ----------
    branches : list of Module
        The same.

    Raises
    ------
    ValueError
        When there is no branch, or an argument has a wrong value.

    Examples
    --------
    >>> import smelt
    >>> from smelt import nn
    >>> nn.Concat(nn.ReLU(), nn.Identity())(smelt.tensor([[-1.0, 2.0]])).tolist()
    [[0.0, 2.0, -1.0, 2.0]]
    """

    def __init__(self, *branches: Module, axis: int = 1) -> None:
        self.branches = self._keep(branches, least=1)
        self.axis = integer("Concat", "axis", axis, low=-LARGEST)

    @property
    def _items(self) -> list[Module]:
        return self.branches

    def forward(self, x: Tensor) -> Tensor:
        """Return the joined results of all branches of ``x``."""
        return concat([branch(x) for branch in self.branches], self.axis)
