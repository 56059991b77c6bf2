"""Folding: a network without batch normalization that computes the same."""

from __future__ import annotations

import numpy as np
import pytest

from smelt import nn
from smelt.measure.bench.fold import fold
from smelt.measure.bench.networks import INFER, make


@pytest.mark.parametrize("name", sorted(set(INFER) - {"mobilenet_v2"}))
def test_a_folded_network_computes_the_same_with_the_known_parameters(name: str) -> None:
    network = make(name)
    folded = fold(network.model.eval())
    x = network.batches(2, 1)[0][0]
    a, b = network.model(x).numpy(), folded(x).numpy()
    assert np.abs(a - b).max() < 1e-5 * np.abs(a).max()
    assert not any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout)) for _, m in folded.named_modules())
    known = {"ds_cnn": 22_604, "autoencoder": 265_864, "mobilenet_v1": 210_850, "resnet8": 77_706}
    assert sum(p.size for p in folded.parameters()) == known.get(name, 805_066)


def test_a_normalization_without_a_layer_before_it_is_refused() -> None:
    with pytest.raises(TypeError, match="ReLU before batch normalization, expected Conv2d or Linear"):
        fold(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3)))
