from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from fedloge.learning.guesses import Guesses, joined
from fedloge.learning.ranking import auroc, macro_auroc


def test_auroc_by_hand() -> None:
    # Class 0: scores .9 and .4 against .5 and .4: of four pairs 2 right, 1 wrong, 1 tied.
    scores = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5], [0.4, 0.6]])
    found = auroc(scores, torch.tensor([0, 0, 1, 1]))
    assert found.tolist() == [2.5 / 4, 2.5 / 4]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.integers(2, 40), st.integers(2, 6), st.sampled_from([1, 2, 8]))
def test_auroc_is_scikit_learns(seed: int, examples: int, classes: int, digits: int) -> None:
    """Coarse scores have ties. Pairs are compared up to 200 examples, beyond that they are sorted."""
    examples += 190 * (seed % 2)
    g = torch.Generator().manual_seed(seed)
    scores = torch.randn(examples, classes, generator=g).softmax(dim=1)
    scores = (scores * 10**digits).round() / 10**digits
    labels = torch.randint(0, classes, (examples,), generator=g)
    found = auroc(scores, labels)
    for c in range(classes):
        own = (labels == c).numpy()
        if own.all() or not own.any():
            assert math.isnan(found[c])
        else:
            assert float(found[c]) == pytest.approx(roc_auc_score(own, scores[:, c]), abs=1e-12)


def test_many_classes_are_ranked_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(50, 9, generator=g), torch.randint(0, 9, (50,), generator=g)
    whole = auroc(scores, labels)
    monkeypatch.setattr("fedloge.learning.ranking._FEW", 0)
    assert torch.equal(auroc(scores, labels), whole)
    monkeypatch.setattr("fedloge.learning.ranking._BLOCK", 100)
    assert torch.equal(auroc(scores, labels), whole)


def test_quality_is_scikit_learns() -> None:
    g = torch.Generator().manual_seed(3)
    logits, labels = torch.randn(300, 5, generator=g), torch.randint(0, 5, (300,), generator=g)
    logits[torch.arange(300), labels] += 1
    quality = Guesses(logits, labels).quality()
    first, probabilities = logits.argmax(dim=1).numpy(), logits.double().softmax(dim=1).numpy()
    assert quality["recall"] == pytest.approx(balanced_accuracy_score(labels, first))
    assert quality["macro-f1"] == pytest.approx(f1_score(labels, first, average="macro"))
    expected = roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert quality["auroc"] == pytest.approx(expected, abs=1e-6)
    assert 0 < quality["ece"] < 1


def test_a_client_of_one_class_has_no_auroc() -> None:
    quality = Guesses(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])).quality()
    assert "auroc" not in quality and quality["recall"] == 0.5


def test_masked_classes_are_ranked_last() -> None:
    """A class that a model never predicts has probability 0 everywhere: all its pairs are ties."""
    logits = torch.tensor([[1.0, -math.inf, 0.0], [0.0, -math.inf, 1.0], [2.0, -math.inf, 0.0]])
    labels = torch.tensor([0, 2, 1])
    assert auroc(Guesses(logits, labels).probabilities, labels).tolist() == [0.5, 0.5, 1.0]
    assert macro_auroc(Guesses(logits, labels).probabilities, labels) == pytest.approx(2 / 3)


def test_logits_that_are_not_finite_have_neither_auroc_nor_ece() -> None:
    guesses = Guesses(torch.tensor([[math.inf, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    assert guesses.reliability is None and guesses.quality().keys() == {"recall", "macro-f1"}


def test_joined_batches_are_the_whole() -> None:
    g = torch.Generator().manual_seed(5)
    logits, labels = torch.randn(30, 4, generator=g), torch.randint(0, 4, (30,), generator=g)
    parts = [Guesses(x, y) for x, y in zip(logits.split(7), labels.split(7), strict=True)]
    whole, again = Guesses(logits, labels), joined(parts)
    assert torch.equal(again.confusion, whole.confusion) and again.quality() == whole.quality()
    assert np.isclose(whole.confusion.sum(), 30)
