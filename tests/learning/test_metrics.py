from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
)

from fedloge.errors import DataError
from fedloge.learning import metrics
from fedloge.rng import rng

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"

# Truth 0: two right, one called 1. Truth 1: one right. Truth 2: never right. Class 3: unseen.
LABELS = torch.tensor([0, 0, 0, 1, 2, 2])
PREDICTIONS = torch.tensor([0, 0, 1, 1, 0, 1])
CONFUSION = torch.tensor([[2, 1, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
TALLY = metrics.Tally.of(PREDICTIONS, LABELS, 4)


def test_confusion_matrix_by_hand() -> None:
    assert torch.equal(metrics.confusion_matrix(PREDICTIONS, LABELS, 4), CONFUSION)


def test_a_tally_by_hand() -> None:
    assert TALLY.right.tolist() == [2, 1, 0, 0]
    assert TALLY.true.tolist() == [3, 1, 2, 0]
    assert TALLY.predicted.tolist() == [3, 3, 0, 0]


def test_accuracies_by_hand() -> None:
    assert metrics.accuracy(TALLY) == 3 / 6
    per_class = metrics.per_class_accuracy(TALLY).tolist()
    assert per_class[:3] == [2 / 3, 1.0, 0.0]
    assert math.isnan(per_class[3])


def test_macro_f1_by_hand() -> None:
    # F1 of 0, 1, 2: 4/6, 2/4, 0; class 3 occurs nowhere and is left out.
    assert metrics.macro_f1(TALLY) == pytest.approx((4 / 6 + 2 / 4 + 0) / 3)


def test_nothing_measured_is_nan() -> None:
    none = torch.empty(0, dtype=torch.long)
    empty = metrics.Tally.of(none, none, 3)
    assert math.isnan(metrics.accuracy(empty))
    assert math.isnan(metrics.macro_f1(empty))
    groups = metrics.shot_groups(torch.tensor([5, 3, 1]))
    assert metrics.group_accuracy(empty, groups) == {}
    assert torch.equal(metrics.confusion_matrix(none, none, 3), torch.zeros(3, 3).long())


@pytest.mark.parametrize("bad", [-1, 3])
def test_out_of_range_is_refused(bad: int) -> None:
    fine, wrong = torch.tensor([0, 2]), torch.tensor([0, bad])
    for count in (metrics.confusion_matrix, metrics.Tally.of):
        with pytest.raises(DataError, match=r"predictions run from .*0\.\.2"):
            count(wrong, fine, 3)
        with pytest.raises(DataError, match="labels run from"):
            count(fine, wrong, 3)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 7).flatmap(
        lambda c: st.tuples(
            st.just(c),
            st.lists(
                st.tuples(st.integers(0, c - 1), st.integers(0, c - 1)), min_size=1, max_size=40
            ),
        )
    )
)
def test_agrees_with_torchmetrics_and_sklearn(case: tuple[int, list[tuple[int, int]]]) -> None:
    num_classes, pairs = case
    predictions, labels = torch.tensor(pairs).T
    confusion = metrics.confusion_matrix(predictions, labels, num_classes)
    oracle = multiclass_confusion_matrix(predictions, labels, num_classes)
    assert torch.equal(confusion, oracle)
    tally = metrics.Tally.of(predictions, labels, num_classes)
    assert torch.equal(tally.right, oracle.diagonal())
    assert torch.equal(tally.true, oracle.sum(dim=1))
    assert torch.equal(tally.predicted, oracle.sum(dim=0))
    assert metrics.accuracy(tally) == pytest.approx(
        float(multiclass_accuracy(predictions, labels, num_classes, average="micro"))
    )
    recall = multiclass_accuracy(predictions, labels, num_classes, average="none")
    ours = metrics.per_class_accuracy(tally)
    assert torch.allclose(ours.nan_to_num(0.0).float(), recall)
    macro = metrics.macro_f1(tally)
    assert macro == pytest.approx(
        float(multiclass_f1_score(predictions, labels, num_classes, average="macro"))
    )
    assert macro == pytest.approx(
        f1_score(labels.numpy(), predictions.numpy(), average="macro", zero_division=0)
    )


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=30))
def test_confusion_matrices_add_up(pairs: list[tuple[int, int]]) -> None:
    predictions, labels = torch.tensor(pairs).T
    half = len(pairs) // 2
    parts = [
        metrics.confusion_matrix(predictions[s], labels[s], 4)
        for s in (slice(half), slice(half, None))
    ]
    assert torch.equal(sum(parts), metrics.confusion_matrix(predictions, labels, 4))


def group_names(counts: list[int], rule: str = "mass") -> list[str]:
    groups = metrics.shot_groups(torch.tensor(counts), rule)  # type: ignore[arg-type]
    return [metrics.GROUPS[g] for g in groups.group_of.tolist()]


def test_mass_cuts_by_hand() -> None:
    # Of 100 images the classes before each hold 0, 60, 80 and 97.
    assert group_names([60, 20, 17, 3]) == ["many", "many", "medium", "few"]
    # Exactly 75 and 95 before a class: it is past the cut.
    assert group_names([75, 20, 5]) == ["many", "medium", "few"]
    # In any order of the classes, and equal counts by class index: 0, 40, 80 before.
    assert group_names([20, 40, 40]) == ["medium", "many", "many"]
    assert group_names([25, 25, 25, 25]) == ["many", "many", "many", "medium"]
    assert group_names([0, 7]) == ["few", "many"]


def test_count_rule_by_hand() -> None:
    assert group_names([500, 101, 100, 20, 19, 0], "count") == [
        "many",
        "many",
        "medium",
        "medium",
        "few",
        "few",
    ]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30))
def test_a_more_frequent_class_is_in_no_rarer_group(counts: list[int]) -> None:
    for rule in ("mass", "count"):
        groups = metrics.shot_groups(torch.tensor(counts), rule)  # type: ignore[arg-type]
        order = np.argsort(-np.array(counts), kind="stable")
        assert np.all(np.diff(groups.group_of.numpy()[order]) >= 0)
        assert sum(groups.sizes().values()) == len(counts)
        assert sum(groups.mask(name) for name in metrics.GROUPS).tolist() == [1] * len(counts)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the authors' logs are not here")
@pytest.mark.parametrize(
    ("setting", "factor", "sizes"), [("a", 0.02, (4, 3, 3)), ("b", 0.01, (3, 3, 4))]
)
def test_mass_rule_explains_the_authors_logs(
    setting: str, factor: float, sizes: tuple[int, int, int]
) -> None:
    """Their accuracy over 10 equal test classes is the group accuracies weighted by group size."""
    counts = torch.tensor([int(5000 * factor ** (c / 9) + 1e-9) for c in range(10)])
    groups = metrics.shot_groups(counts).sizes()
    assert tuple(groups.values()) == sizes
    with (REFERENCE / "cifar10-lt-official-curves.csv").open() as f:
        rows = [row for row in csv.DictReader(f) if row["setting"] == setting]
    assert len(rows) > 100
    for row in rows:
        parts = [float(row[f"global_{name}"]) for name in ("head", "middle", "tail")]
        mean = np.dot(parts, list(groups.values())) / 10
        assert mean == pytest.approx(float(row["global_acc"]), abs=2e-4)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the authors' logs are not here")
def test_mass_rule_on_the_reference_class_sizes() -> None:
    text = (REFERENCE / "cifar10-lt-if0.02-alpha0.5-partition.json").read_text()
    sizes = torch.tensor(json.loads(text)["class_sizes"])
    assert metrics.shot_groups(sizes).sizes() == {"many": 4, "medium": 3, "few": 3}


def test_group_accuracy_by_hand() -> None:
    groups = metrics.ShotGroups(torch.tensor([0, 1, 1, 2]))
    # many: class 0, 2 of 3. medium: classes 1 and 2, 1 of 3. few: class 3 has no samples.
    assert metrics.summary(TALLY, groups) == {"all": 0.5, "many": 2 / 3, "medium": 1 / 3}


def test_across_clients_by_hand() -> None:
    few = metrics.across_clients([0.5, 1.0, math.nan, 0.0])
    assert few["mean"] == 0.5
    assert few["std"] == pytest.approx(math.sqrt(1 / 6))
    assert few["worst-decile"] == 0.0
    # 11 clients: the worst tenth, rounded up, is two of them.
    many = metrics.across_clients([i / 10 for i in range(11)])
    assert many["worst-decile"] == pytest.approx(0.05)
    assert all(math.isnan(v) for v in metrics.across_clients([math.nan]).values())
    assert metrics.across_clients([0.25])["worst-decile"] == 0.25


def test_an_interval_over_clients() -> None:
    draw = rng(0, "test")
    # A mean of 100 values of deviation 0.1 has a deviation of 0.01, so the interval is 0.04 wide.
    values = (0.6 + 0.1 * draw.standard_normal(100)).tolist()
    low, high = metrics.interval_over_clients([*values, math.nan], rng(1, "test")) or (0.0, 0.0)
    assert low < sum(values) / 100 < high
    assert high - low == pytest.approx(0.04, rel=0.25)
    assert metrics.interval_over_clients(values, rng(1, "test")) == (low, high)
    assert metrics.interval_over_clients([0.5, math.nan], draw) is None
    assert metrics.interval_over_clients([0.5, 0.5], draw) == (0.5, 0.5)


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    draw, covered = rng(2, "test"), 0
    for _ in range(200):
        clients = draw.beta(4, 2, size=30).tolist()  # of mean 2/3
        low, high = metrics.interval_over_clients(clients, draw, resamples=400) or (1.0, 0.0)
        covered += low <= 2 / 3 <= high
    assert 0.88 < covered / 200 < 0.99
