"""Batch normalization folded into the layers before it: a network in evaluation mode in; a smaller one out.

Peers receive their networks like this, so that none depends on folding by itself.
"""

from __future__ import annotations

import numpy as np

from smelt import nn


def fold(module: nn.Module) -> nn.Module:
    """Return a network that computes in evaluation mode what ``module`` does; dropout is left out.

    Parameters
    ----------
    module : Module
        Whose batch normalization layers directly follow a convolution or a linear layer in the same Sequential.

    Examples
    --------
    >>> fold(nn.Sequential(nn.Linear(2, 3, bias=False), nn.BatchNorm1d(3), nn.Dropout(0.5)))
    Sequential(
      (0): Linear(2, 3)
    )
    """
    if isinstance(module, nn.Add):
        return nn.Add(*map(fold, module))
    if not isinstance(module, nn.Sequential):
        return module
    layers: list[nn.Module] = []
    for part in module:
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layers.append(_merge(layers.pop(), part))
        elif not isinstance(part, nn.Dropout):
            layers.append(fold(part))
    return nn.Sequential(*layers)


def _merge(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """Return a convolution or linear layer that also normalizes."""
    assert isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d))
    if isinstance(layer, nn.Conv2d):
        out: nn.Module = nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
        )
    elif isinstance(layer, nn.Linear):
        out = nn.Linear(layer.in_features, layer.out_features)
    else:
        raise TypeError(f"{type(layer).__name__} before batch normalization, expected Conv2d or Linear")
    state = {name: array.astype(np.float64) for name, array in layer.state_dict().items()}
    stats = {name: array.astype(np.float64) for name, array in norm.state_dict().items()}
    factor = stats["weight"] / np.sqrt(stats["running_var"] + norm.eps)
    weight = state["weight"] * factor.reshape(-1, *[1] * (state["weight"].ndim - 1))
    bias = (state.get("bias", 0.0) - stats["running_mean"]) * factor + stats["bias"]
    out.load_state_dict({"weight": weight, "bias": bias})
    return out
