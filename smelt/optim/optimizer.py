"""What all optimizers share: parameters and their gradients in; parameters changed in place out.

Everything that changes from step to step (learning rate, count of steps, moments) is a tensor that exists
before the first step, so that a compiled step binds it once. Everything else is fixed when the optimizer is
made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np

from smelt import ops
from smelt.autograd import no_grad
from smelt.errors import at_user_line
from smelt.functions import where
from smelt.graph.trace import in_layer
from smelt.nn.arguments import flag, number
from smelt.tensor import Parameter, Tensor

Self = TypeVar("Self", bound="Optimizer")
Params = Iterable[Parameter] | Iterable[Mapping[str, Any]]

_GROUP_KEYS = ("params", "lr", "weight_decay", "l1")


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters with options of their own.

    ``lr_scale`` multiplies the optimizer's learning rate, so that a schedule moves all groups in proportion.
    """

    params: tuple[Parameter, ...]
    lr_scale: float
    weight_decay: float
    l1: float


class Optimizer:
    """Base of the optimizers. ``backward`` adds to gradients; :meth:`step` consumes them.

    Parameters
    ----------
    params : iterable of Parameter, or of dict, optional
        What is trained; or groups ``{"params": ..., "lr": ..., "weight_decay": ..., "l1": ...}`` of which all
        but "params" may be missing. May be given later, to :meth:`bind`.
    lr : float
        Learning rate, at least 0.
    weight_decay : float
        Factor of the L2 penalty's gradient.
    l1 : float
        Factor of the L1 penalty's gradient, sign(p).
    decay_bias : bool
        With False, parameters with less than two axes (biases, normalization) have neither penalty.

    Raises
    ------
    ValueError
        When an argument has a wrong value.
    """

    _options: ClassVar[tuple[str, ...]] = ("weight_decay", "l1", "decay_bias")
    _slots: tuple[str, ...] = ()
    _decoupled: ClassVar[bool] = False

    def __init__(self, params: Params | None, lr: float, weight_decay: float, l1: float, decay_bias: bool) -> None:
        owner = type(self).__name__
        self._lr = Tensor(np.asarray(number(owner, "lr", lr, 0.0), np.float64), name="lr")
        self._step = Tensor(np.asarray(0.0, np.float64), name="step")
        self.weight_decay = number(owner, "weight_decay", weight_decay, 0.0)
        self.l1 = number(owner, "l1", l1, 0.0)
        self.decay_bias = flag(owner, "decay_bias", decay_bias)
        self.groups: tuple[Group, ...] = ()
        self.state: dict[int, dict[str, Tensor]] = {}
        if params is not None:
            self.bind(params)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._options and name in self.__dict__:
            raise AttributeError(
                at_user_line(
                    f"{type(self).__name__}.{name} is fixed (a compiled step holds it as a constant): make a "
                    "new optimizer, or change lr"
                )
            )
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={getattr(self, name)!r}" for name in ("lr", *self._options))
        return f"{type(self).__name__}({options})"

    # --- what is trained ------------------------------------------------------------------------------------

    def bind(self: Self, params: Params) -> Self:
        """Set what is trained, and allocate its state; return the optimizer.

        Parameters
        ----------
        params : iterable of Parameter, or of dict
            As in the constructor.

        Raises
        ------
        ValueError
            When it was bound before, there are no parameters, one appears twice, or a group has a wrong key.

        Examples
        --------
        >>> from smelt import nn, optim
        >>> optimizer = optim.Adam(lr=1e-3).bind(nn.Linear(2, 2).parameters())
        >>> len(optimizer.params)
        2
        """
        owner = type(self).__name__
        if self.groups:
            raise ValueError(at_user_line(f"{owner}.bind: it has parameters already; make a new optimizer"))
        items = list(params)
        if all(isinstance(p, Tensor) for p in items):
            items = [{"params": items}] if items else []
        groups = tuple(self._group(i, item) for i, item in enumerate(items))
        flat = [p for g in groups for p in g.params]
        if not flat:
            raise ValueError(at_user_line(f"{owner}.bind: expected at least one parameter, received none"))
        if len({id(p) for p in flat}) != len(flat):
            raise ValueError(at_user_line(f"{owner}.bind: a parameter appears twice"))
        self.groups = groups
        for i, p in enumerate(flat):
            self.state[id(p)] = {
                slot: Tensor(np.zeros(p.shape, p.dtype), name=f"{p.name or i}.{slot}") for slot in self._slots
            }
        return self

    def _group(self, i: int, item: Any) -> Group:
        owner = type(self).__name__
        if not isinstance(item, Mapping) or "params" not in item or set(item) - set(_GROUP_KEYS):
            received = sorted(map(str, item)) if isinstance(item, Mapping) else type(item).__name__
            raise ValueError(
                at_user_line(f"{owner}: group {i}: expected a dict of {', '.join(_GROUP_KEYS)}, received {received}")
            )
        params = tuple(item["params"])
        for p in params:
            if not isinstance(p, Tensor) or not p.requires_grad or p.dtype.kind != "f":
                raise ValueError(at_user_line(f"{owner}: group {i}: expected Parameters, received {type(p).__name__}"))
        lr = number(owner, f"group {i}: lr", item.get("lr", self.lr), 0.0)
        if lr != self.lr and self.lr == 0.0:
            raise ValueError(at_user_line(f"{owner}: group {i}: lr={lr:g} is no multiple of 0, the optimizer's"))
        return Group(
            params,
            1.0 if lr == self.lr else lr / self.lr,
            number(owner, f"group {i}: weight_decay", item.get("weight_decay", self.weight_decay), 0.0),
            number(owner, f"group {i}: l1", item.get("l1", self.l1), 0.0),
        )

    @property
    def params(self) -> list[Parameter]:
        """The parameters of all groups, in order."""
        return [p for g in self.groups for p in g.params]

    @property
    def lr(self) -> float:
        """The learning rate. Assigning it changes a tensor in place: nothing is compiled again."""
        return float(self._lr.item())

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr.assign(number(type(self).__name__, "lr", value, 0.0))

    # --- one step -------------------------------------------------------------------------------------------

    def zero_grad(self) -> None:
        """Forget all gradients. Seldom needed: :meth:`step` does it."""
        for p in self.params:
            p.grad = None

    def step(self, when: Tensor | None = None) -> None:
        """Change the parameters by their gradients, and set these to None.

        Parameters that have no gradient are left alone.

        Parameters
        ----------
        when : Tensor, optional
            A bool scalar. Where it is False, parameters and state keep their values (gradients are consumed
            all the same): ``step(when=smelt.ops.isfinite(loss))``.

        Raises
        ------
        ValueError
            When there are no parameters yet.

        Examples
        --------
        >>> import smelt
        >>> from smelt import optim
        >>> w = smelt.Parameter([1.0])
        >>> optimizer = optim.SGD([w], lr=0.25)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w.item(), w.grad
        (0.5, None)
        """
        if not self.groups:
            raise ValueError(at_user_line(f"{type(self).__name__}.step: expected bind(parameters) first"))
        with no_grad(), in_layer(type(self).__name__):
            t = self._step + 1.0
            for group in self.groups:
                self._step_group(group, t, when)
            _store(self._step, t, when)

    def _step_group(self, group: Group, t: Tensor, when: Tensor | None) -> None:
        lr = self._lr if group.lr_scale == 1.0 else self._lr * group.lr_scale
        scalars = self._scalars(lr, t, group)
        cast: dict[str, dict[str, Tensor]] = {}
        for p in group.params:
            g = p.grad
            if g is None:
                continue
            dtype = p.dtype.name
            if dtype not in cast:
                cast[dtype] = {k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in scalars.items()}
            k = cast[dtype]
            new: Tensor = p
            if self.decay_bias or p.ndim > 1:
                if group.weight_decay and self._decoupled:
                    new = p * k["shrink"]
                elif group.weight_decay:
                    g = g + p * group.weight_decay
                if group.l1:
                    g = g + ops.sign(p) * group.l1
            state = self.state[id(p)]
            change, changed = self._update(g, state, k)
            for slot, value in changed.items():
                _store(state[slot], value, when)
            _store(p, new - change, when)
            p.grad = None

    def _scalars(self, lr: Tensor, t: Tensor, group: Group) -> dict[str, Tensor]:
        """Return what the updates of a group share: float64, computed once per step, cast by the caller."""
        raise NotImplementedError

    def _update(self, g: Tensor, state: dict[str, Tensor], k: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what is subtracted from a parameter with gradient ``g``, and its new state."""
        raise NotImplementedError

    # --- files ----------------------------------------------------------------------------------------------

    def _tensors(self) -> dict[str, Tensor]:
        out = {"lr": self._lr, "step": self._step}
        for i, p in enumerate(self.params):
            out.update({f"{i}.{slot}": t for slot, t in self.state[id(p)].items()})
        return out

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of all that changes from step to step: ``"lr"``, ``"step"``, ``"0.exp_avg"``, ....

        Numbers are the positions of the parameters. Values of the parameters themselves are not part of it.

        Examples
        --------
        >>> import smelt
        >>> from smelt import optim
        >>> list(optim.Adam([smelt.Parameter([1.0])]).state_dict())
        ['lr', 'step', '0.exp_avg', '0.exp_avg_sq']
        """
        return {name: t.numpy().copy() for name, t in self._tensors().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned, to the bit.

        Raises
        ------
        ValueError
            One line that lists every missing or unexpected name and wrong shape; nothing is changed then.
        """
        tensors = self._tensors()
        arrays = {name: np.asarray(value) for name, value in state.items()}
        problems = [f"missing {name}" for name in tensors if name not in arrays]
        problems += [f"unexpected {name}" for name in arrays if name not in tensors]
        for name, t in tensors.items():
            a = arrays.get(name)
            if a is not None and (a.shape != t.shape or a.dtype != t.dtype):
                expected = f"{t.dtype}{list(t.shape)}"
                problems.append(f"{name}: expected {expected}, received {a.dtype}{list(a.shape)}")
        if problems:
            raise ValueError(at_user_line(f"{type(self).__name__}.load_state_dict: {'; '.join(problems)}"))
        for name, t in tensors.items():
            t.assign(arrays[name])


def _store(target: Tensor, value: Tensor, when: Tensor | None) -> None:
    target.assign(value if when is None else where(when, value, target))
