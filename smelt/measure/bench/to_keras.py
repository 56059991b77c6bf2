"""A network of the zoo in Keras: a tree of Smelt layers in; a functional model, channels last, with its weights out."""

from __future__ import annotations

from typing import Any

import numpy as np

from smelt import nn
from smelt.nn.functional.convolution import same_padding


def to_keras(module: nn.Module, shape: tuple[int, ...], batch: int | None = None) -> Any:
    """Return the network that Keras's users would write.

    Parameters
    ----------
    module : Module
        Made of the zoo's layers.
    shape : tuple of int
        Of one sample in Smelt: (C, H, W) or (features,). The model reads (N, H, W, C) or (N, features).
    batch : int, optional
        A fixed number of samples; any number by default.

    Raises
    ------
    TypeError
        When a layer has no counterpart here.
    """
    import keras

    entry = keras.Input(channels_last_shape(shape), batch_size=batch)
    return keras.Model(entry, _Builder().convert(module, entry))


def channels_last_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return (H, W, C) of (C, H, W), and other shapes as they are.

    Examples
    --------
    >>> channels_last_shape((3, 32, 16)), channels_last_shape((640,))
    ((32, 16, 3), (640,))
    """
    return (*shape[1:], shape[0]) if len(shape) == 3 else shape


def channels_last(x: np.ndarray) -> np.ndarray:
    """Return images (N, C, H, W) as contiguous (N, H, W, C), and other arrays as they are."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if x.ndim == 4 else x


class _Builder:
    """Remembers the image that was flattened, because Keras flattens its axes in another order."""

    def __init__(self) -> None:
        self.flattened: tuple[int, ...] | None = None

    def convert(self, module: nn.Module, x: Any) -> Any:
        import keras

        layers = keras.layers
        if isinstance(module, nn.Sequential):
            for part in module:
                x = self.convert(part, x)
            return x
        if isinstance(module, nn.Add):
            return layers.Add()([self.convert(branch, x) for branch in module])
        if isinstance(module, nn.Conv2d):
            return _convolution(module, x)
        if isinstance(module, nn.Linear):
            return self._linear(module, x)
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer = layers.BatchNormalization(momentum=1 - module.momentum, epsilon=module.eps)
            out = layer(x)
            state = module.state_dict()
            layer.set_weights([state[k] for k in ("weight", "bias", "running_mean", "running_var")])
            return out
        if isinstance(module, nn.MaxPool2d) and module.padding == (0, 0):
            return layers.MaxPooling2D(module.kernel_size, module.stride)(x)
        if isinstance(module, nn.AvgPool2d) and module.padding == (0, 0):
            return layers.AveragePooling2D(module.kernel_size, module.stride)(x)
        if isinstance(module, nn.GlobalAvgPool2d):
            return layers.GlobalAveragePooling2D()(x)
        if isinstance(module, nn.Dropout):
            return layers.Dropout(module.p)(x)
        if isinstance(module, nn.ReLU):
            return layers.ReLU()(x)
        if isinstance(module, nn.ReLU6):
            return layers.ReLU(max_value=6.0)(x)
        if isinstance(module, nn.Flatten):
            self.flattened = tuple(x.shape[1:])
            return layers.Flatten()(x)
        if isinstance(module, nn.Identity):
            return x
        raise TypeError(f"{type(module).__name__} has no counterpart in Keras here")

    def _linear(self, module: nn.Linear, x: Any) -> Any:
        import keras

        layer = keras.layers.Dense(module.out_features, use_bias=module.bias is not None)
        out = layer(x)
        state = module.state_dict()
        weight = state["weight"]
        if self.flattened is not None and len(self.flattened) == 3:
            h, w, c = self.flattened
            weight = weight.reshape(-1, c, h, w).transpose(0, 2, 3, 1).reshape(len(weight), -1)
        self.flattened = None
        layer.set_weights([weight.T, *([state["bias"]] if "bias" in state else [])])
        return out


def _convolution(module: nn.Conv2d, x: Any) -> Any:
    import keras

    padding = module.padding
    if isinstance(padding, tuple):
        zipped = list(zip(x.shape[1:3], module.kernel_size, module.stride, module.dilation, strict=True))
        if all(same_padding(*a) == (p, p) for a, p in zip(zipped, padding, strict=True)):
            padding = "same"
        else:
            if padding != (0, 0):
                x = keras.layers.ZeroPadding2D(padding)(x)
            padding = "valid"
    options = {
        "strides": module.stride,
        "padding": padding,
        "dilation_rate": module.dilation,
        "use_bias": module.bias is not None,
    }
    state = module.state_dict()
    if module.groups > 1 and module.groups == module.in_channels == module.out_channels:
        layer = keras.layers.DepthwiseConv2D(module.kernel_size, **options)
        kernel = state["weight"].transpose(2, 3, 0, 1)
    else:
        layer = keras.layers.Conv2D(module.out_channels, module.kernel_size, groups=module.groups, **options)
        kernel = state["weight"].transpose(2, 3, 1, 0)
    out = layer(x)
    layer.set_weights([kernel, *([state["bias"]] if "bias" in state else [])])
    return out
