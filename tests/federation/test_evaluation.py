from __future__ import annotations

import math
from pathlib import Path

import harness
import pytest
import torch

from fedloge.federation import Federation
from fedloge.federation.evaluation import client_figures, predictor_guesses
from fedloge.learning.guesses import Guesses
from fedloge.learning.metrics import ShotGroups, shot_groups


def test_a_confusion_matrix_counts_true_rows(tmp_path: Path) -> None:
    fed = Federation(harness.tiny(tmp_path))
    net = fed.net.eval()
    predictor = fed.method.global_predictors(net)["raw"]
    indices = torch.arange(0, len(fed.test), 3)
    guesses = predictor_guesses(fed.method, net, predictor, fed.bank, "v", indices)
    features = fed.bank.fresh(lambda x: fed.method.features(net, x), indices)
    predicted, labels = predictor.head.predict(features), fed.test.labels[indices]
    by_hand = torch.zeros(10, 10, dtype=torch.int64)
    for true, guess in zip(labels.tolist(), predicted.tolist(), strict=True):
        by_hand[true, guess] += 1
    assert torch.equal(guesses.confusion, by_hand)
    own = predictor_guesses(fed.method, net, predictor, fed.bank, None, indices)
    assert torch.equal(own.confusion, by_hand)


def test_client_figures_by_hand() -> None:
    groups: ShotGroups = shot_groups(torch.tensor([100, 30, 5]), "count")
    # Rows of a confusion matrix [[3, 1, 0], [0, 0, 0], [1, 0, 1]].
    labels, first = torch.tensor([0, 0, 0, 0, 2, 2]), torch.tensor([0, 0, 0, 1, 0, 2])
    logits = torch.zeros(6, 3)
    logits[torch.arange(6), first] = 1
    figures = client_figures("raw", Guesses(logits, labels), groups)
    assert figures["personal/raw/accuracy"] == pytest.approx(4 / 6)
    f1 = [2 * 3 / (4 + 4), 2 * 1 / (2 + 1)]  # classes 0 and 2; class 1 is neither there nor right
    assert figures["personal/raw/few"] == pytest.approx(1 / 2)
    assert 0 < figures["personal/raw/macro-f1"] <= max(f1)
    assert figures["personal/raw/recall"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    # Each guess has probability e / (e + 2).
    assert figures["personal/raw/ece"] == pytest.approx(4 / 6 - math.e / (math.e + 2))
    names = ("accuracy", "recall", "macro-f1", "auroc", "ece", "medium", "few")
    assert set(figures) == {f"personal/raw/{name}" for name in names}
