"""Losses against PyTorch in float64: every option, forward and backward."""

from typing import Any

import numpy as np
import pytest

import smelt
from smelt import nn

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peers
tn = torch.nn

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 5)) * 3
LABELS = RNG.integers(0, 5, 6)
PROBABILITIES = RNG.uniform(0.02, 0.98, size=(6, 5))
WEIGHT = RNG.uniform(0.5, 2.0, size=5)
LOGS = np.log(PROBABILITIES / PROBABILITIES.sum(1, keepdims=True))
SPARSE = PROBABILITIES * (PROBABILITIES > 0.3)

CASES: list[tuple[str, dict[str, Any], np.ndarray, np.ndarray]] = [
    ("CrossEntropyLoss", {}, LOGITS, LABELS),
    ("CrossEntropyLoss", {"label_smoothing": 0.1}, LOGITS, LABELS),
    ("CrossEntropyLoss", {"weight": WEIGHT}, LOGITS, LABELS),
    ("CrossEntropyLoss", {"weight": WEIGHT, "label_smoothing": 0.2}, LOGITS, LABELS),
    ("BCEWithLogitsLoss", {}, LOGITS, PROBABILITIES),
    ("BCEWithLogitsLoss", {"pos_weight": WEIGHT}, LOGITS, PROBABILITIES),
    ("BCELoss", {}, PROBABILITIES, PROBABILITIES[::-1].copy()),
    ("MSELoss", {}, LOGITS, PROBABILITIES),
    ("L1Loss", {}, LOGITS, PROBABILITIES),
    ("HuberLoss", {}, LOGITS, PROBABILITIES),
    ("HuberLoss", {"delta": 0.4}, LOGITS, PROBABILITIES),
    ("SmoothL1Loss", {"beta": 0.4}, LOGITS, PROBABILITIES),
    ("KLDivLoss", {}, LOGS, SPARSE),
    ("KLDivLoss", {"log_target": True}, LOGS, LOGS[::-1].copy()),
]


RUNS = [
    pytest.param(*case, reduction, id=f"{case[0]}-{','.join(case[1])}-{reduction}")
    for case in CASES
    for reduction in ("mean", "sum", "none", *["batchmean"] * (case[0] == "KLDivLoss"))
]


@pytest.mark.parametrize(("name", "options", "x", "target", "reduction"), RUNS)
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
def test_loss(name: str, options: dict[str, Any], x: np.ndarray, target: np.ndarray, reduction: str) -> None:
    theirs = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    a = smelt.tensor(x, requires_grad=True)
    b = torch.tensor(x, requires_grad=True)
    la = getattr(nn, name)(reduction=reduction, **options)(a, smelt.tensor(target))
    lb = getattr(tn, name)(reduction=reduction, **theirs)(b, torch.tensor(target))
    np.testing.assert_allclose(la.numpy(), lb.detach().numpy(), rtol=1e-12, atol=1e-14)
    la.sum().backward()
    lb.sum().backward()
    assert a.grad is not None
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_binary_losses_at_large_logits_in_float32(scale: float) -> None:
    x = (LOGITS * scale).astype(np.float32)
    t = (PROBABILITIES > 0.5).astype(np.float32)
    a, b = smelt.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    la = nn.BCEWithLogitsLoss(reduction="none")(a, smelt.tensor(t))
    lb = tn.BCEWithLogitsLoss(reduction="none")(b, torch.tensor(t))
    np.testing.assert_allclose(la.numpy(), lb.detach().numpy(), rtol=1e-5, atol=1e-7)
    la.sum().backward()
    lb.sum().backward()
    assert a.grad is not None
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-5, atol=1e-7)
