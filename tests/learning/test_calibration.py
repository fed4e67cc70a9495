from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_calibration_error

from fedloge.errors import InputError
from fedloge.learning.calibration import Reliability


def drawn(seed: int, examples: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(examples, classes, generator=g)
    return logits.softmax(dim=1), torch.randint(0, classes, (examples,), generator=g)


def test_ece_by_hand() -> None:
    # Two bins. Upper: confidences .6 and .8, one right, so .7 against .5. Lower: .5, which is wrong.
    probabilities = torch.tensor([[0.6, 0.4, 0.0], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2]])
    found = Reliability.of(probabilities, torch.tensor([0, 2, 1]), bins=2)
    torch.testing.assert_close(found.sums, torch.tensor([[1, 2], [0.5, 1.4], [0, 1]]).double())
    assert found.confidence.tolist() == pytest.approx([0.5, 0.7])
    assert found.accuracy.tolist() == [0, 0.5]
    assert found.ece == pytest.approx((0.5 + 0.4) / 3)
    assert found.overconfidence == pytest.approx(1.9 / 3 - 1 / 3)


def test_full_confidence_is_in_the_last_bin() -> None:
    found = Reliability.of(torch.eye(3), torch.tensor([0, 1, 1]))
    assert found.sums[:, -1].tolist() == [3, 3, 2] and not found.sums[:, :-1].any()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.integers(1, 60), st.integers(2, 7), st.integers(1, 20))
def test_ece_is_torchmetrics(seed: int, examples: int, classes: int, bins: int) -> None:
    probabilities, labels = drawn(seed, examples, classes)
    expected = multiclass_calibration_error(
        probabilities.double(), labels, classes, n_bins=bins, norm="l1"
    )
    assert Reliability.of(probabilities, labels, bins).ece == pytest.approx(
        float(expected), abs=1e-6
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.lists(st.integers(0, 9), min_size=1, max_size=5))
def test_sums_of_parts_are_those_of_the_whole(seed: int, sizes: list[int]) -> None:
    probabilities, labels = drawn(seed, sum(sizes), 4)
    parts = zip(probabilities.split(sizes), labels.split(sizes), strict=True)
    total = sum((Reliability.of(p, y) for p, y in parts), start=Reliability.empty())
    whole = Reliability.of(probabilities, labels)
    torch.testing.assert_close(total.sums, whole.sums, atol=1e-12, rtol=0)
    assert total.examples == sum(sizes)


def test_nothing_is_nan() -> None:
    empty = Reliability.of(torch.empty(0, 3), torch.empty(0, dtype=torch.int64))
    assert empty.examples == 0 and math.isnan(empty.ece) and math.isnan(empty.overconfidence)


@pytest.mark.parametrize("bad", [torch.full((2, 3), math.nan), torch.full((2, 3), 7.0)])
def test_what_is_no_probability_is_refused(bad: torch.Tensor) -> None:
    with pytest.raises(InputError, match="give probabilities"):
        Reliability.of(bad, torch.tensor([0, 1]))


def test_a_calibrated_model_has_nearly_none() -> None:
    """Labels drawn from the model's own probabilities."""
    probabilities, _ = drawn(0, 20_000, 5)
    labels = torch.multinomial(probabilities, 1, generator=torch.Generator().manual_seed(1))[:, 0]
    assert Reliability.of(probabilities, labels).ece < 0.02
    assert (
        Reliability.of(probabilities.square() / probabilities.square().sum(1, True), labels).ece
        > 0.04
    )
