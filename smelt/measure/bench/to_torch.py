"""A network of the zoo in PyTorch: a tree of Smelt layers in; a ``torch.nn.Module`` with the same weights out."""

from __future__ import annotations

from typing import Any

from smelt import nn
from smelt.nn.functional.convolution import same_padding


def to_torch(module: nn.Module, shape: tuple[int, ...]) -> Any:
    """Return the network that PyTorch's users would write.

    Parameters
    ----------
    module : Module
        Made of the zoo's layers.
    shape : tuple of int
        Of one sample, without the batch.

    Raises
    ------
    TypeError
        When a layer has no counterpart here.
    """
    import torch

    sample = torch.zeros((2, *shape))
    with torch.no_grad():
        return _convert(module, sample)[0].train()


def _convert(module: nn.Module, sample: Any) -> tuple[Any, Any]:
    """Return the layer, and what it makes of a batch."""
    import torch

    if isinstance(module, nn.Sequential):
        layers = []
        for part in module:
            layer, sample = _convert(part, sample)
            layers.append(layer)
        return torch.nn.Sequential(*layers), sample
    if isinstance(module, nn.Add):
        layer = _sum_of([_convert(branch, sample)[0] for branch in module])
    else:
        layer = _leaf(module, tuple(sample.shape[2:]))
    return layer, layer.eval()(sample)


def _sum_of(branches: list[Any]) -> Any:
    import torch

    class Sum(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branches = torch.nn.ModuleList(branches)

        def forward(self, x: Any) -> Any:
            out = self.branches[0](x)
            for branch in self.branches[1:]:
                out = out + branch(x)
            return out

    return Sum()


def _leaf(module: nn.Module, image: tuple[int, ...]) -> Any:
    import torch

    t = torch.nn
    if isinstance(module, nn.Conv2d):
        return _convolution(module, image)
    if isinstance(module, nn.Linear):
        layer: Any = t.Linear(module.in_features, module.out_features, bias=module.bias is not None)
    elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        kind = t.BatchNorm1d if isinstance(module, nn.BatchNorm1d) else t.BatchNorm2d
        layer = kind(module.num_features, eps=module.eps, momentum=module.momentum)
    elif isinstance(module, nn.MaxPool2d):
        layer = t.MaxPool2d(module.kernel_size, module.stride, module.padding)
    elif isinstance(module, nn.AvgPool2d):
        layer = t.AvgPool2d(module.kernel_size, module.stride, module.padding)
    elif isinstance(module, nn.GlobalAvgPool2d):
        layer = t.Sequential(t.AdaptiveAvgPool2d(1), t.Flatten())
    elif isinstance(module, nn.Dropout):
        layer = t.Dropout(module.p)
    else:
        plain = {nn.ReLU: t.ReLU, nn.ReLU6: t.ReLU6, nn.Flatten: t.Flatten, nn.Identity: t.Identity}
        if type(module) not in plain:
            raise TypeError(f"{type(module).__name__} has no counterpart in PyTorch here")
        layer = plain[type(module)]()
    _copy(module, layer)
    return layer


def _convolution(module: nn.Conv2d, image: tuple[int, ...]) -> Any:
    """Return the convolution, after explicit zeros where they are not the same on both sides.

    Even zeros, which a convolution adds itself, would make PyTorch's ``ds_cnn`` 3 % faster and ``resnet8`` no faster.
    """
    import torch

    if module.padding == "same":
        zipped = zip(image, module.kernel_size, module.stride, module.dilation, strict=True)
        (top, bottom), (left, right) = (same_padding(*a) for a in zipped)
    else:
        rows, columns = (0, 0) if isinstance(module.padding, str) else module.padding
        top, bottom, left, right = rows, rows, columns, columns
    even = (top, left) == (bottom, right)
    layer = torch.nn.Conv2d(
        module.in_channels,
        module.out_channels,
        module.kernel_size,
        module.stride,
        (top, left) if even else 0,
        module.dilation,
        module.groups,
        module.bias is not None,
    )
    _copy(module, layer)
    return layer if even else torch.nn.Sequential(torch.nn.ZeroPad2d((left, right, top, bottom)), layer)


def _copy(module: nn.Module, layer: Any) -> None:
    import torch

    state = {name: torch.from_numpy(array) for name, array in module.state_dict().items()}
    if state:
        layer.load_state_dict(state, strict=False)  # PyTorch also counts batches
