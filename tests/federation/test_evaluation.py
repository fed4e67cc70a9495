from __future__ import annotations

from pathlib import Path

import harness
import pytest
import torch

from fedloge.federation import Federation
from fedloge.federation.evaluation import client_figures, predictor_confusion
from fedloge.learning.metrics import ShotGroups, shot_groups


def test_a_confusion_matrix_counts_true_rows(tmp_path: Path) -> None:
    fed = Federation(harness.tiny(tmp_path))
    net = fed.net.eval()
    predictor = fed.method.global_predictors(net)["raw"]
    indices = torch.arange(0, len(fed.test), 3)
    confusion = predictor_confusion(fed.method, net, predictor, fed.bank, "v", indices)
    features = fed.bank.fresh(lambda x: fed.method.features(net, x), indices)
    predicted, labels = predictor.head.predict(features), fed.test.labels[indices]
    by_hand = torch.zeros(10, 10, dtype=torch.int64)
    for true, guess in zip(labels.tolist(), predicted.tolist(), strict=True):
        by_hand[true, guess] += 1
    assert torch.equal(confusion, by_hand)
    own = predictor_confusion(fed.method, net, predictor, fed.bank, None, indices)
    assert torch.equal(own, by_hand)


def test_client_figures_by_hand() -> None:
    groups: ShotGroups = shot_groups(torch.tensor([100, 30, 5]), "count")
    confusion = torch.tensor([[3, 1, 0], [0, 0, 0], [1, 0, 1]])
    figures = client_figures("raw", confusion, groups)
    assert figures["personal/raw/accuracy"] == pytest.approx(4 / 6)
    f1 = [2 * 3 / (4 + 4), 2 * 1 / (2 + 1)]  # classes 0 and 2; class 1 is neither there nor right
    assert figures["personal/raw/few"] == pytest.approx(1 / 2)
    assert 0 < figures["personal/raw/macro-f1"] <= max(f1)
    assert set(figures) <= {
        f"personal/raw/{n}" for n in ("accuracy", "macro-f1", "many", "medium", "few")
    }
