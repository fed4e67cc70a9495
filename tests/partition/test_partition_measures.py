from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedloge.learning.metrics import shot_groups
from fedloge.partition import partition_measures as measures
from fedloge.partition.partition_measures import few_classes, measure_partition


def test_figures_by_hand() -> None:
    found = measure_partition(np.array([[8, 8, 0], [4, 0, 0], [0, 12, 1]]))
    assert (found.clients, found.images, found.classes) == (3, 33, 3)
    assert (found.sizes.least, found.sizes.median, found.sizes.most) == (4, 13, 16)
    assert (found.classes_held.least, found.classes_held.most) == (1, 2)
    # Two equal classes count as two, one class as one.
    assert (found.effective_classes.least, found.effective_classes.most) == (1, 2)
    assert found.imbalance == 20 / 1
    assert (found.local_imbalance.least, found.local_imbalance.most) == (1, 12)


def test_divergence_is_one_for_strangers_and_nothing_for_twins() -> None:
    assert measure_partition(np.array([[3, 0], [0, 9]])).divergence == pytest.approx(1)
    assert measure_partition(np.array([[3, 6], [1, 2]])).divergence == pytest.approx(0, abs=1e-12)
    # (1/2, 1/2) and (1, 0) meet at (3/4, 1/4), of entropy 0.8113: 0.8113 - (1 + 0) / 2.
    half = measure_partition(np.array([[5, 5], [7, 0]]))
    assert half.divergence == pytest.approx(0.3113, abs=1e-4)
    assert (half.pairs, half.all_pairs) == (1, 1)
    alone = measure_partition(np.array([[3, 4]]))
    assert math.isnan(alone.divergence) and alone.pairs == 0


def test_of_many_pairs_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    table = np.random.default_rng(0).integers(1, 9, size=(60, 5))
    exact = measure_partition(table)
    monkeypatch.setattr(measures, "MOST_PAIRS", 1000)
    drawn = measure_partition(table)
    assert (exact.pairs, drawn.pairs, drawn.all_pairs) == (1770, 1000, 1770)
    assert drawn.divergence == pytest.approx(exact.divergence, rel=0.1)
    assert drawn.divergence == measure_partition(table).divergence


def test_the_tail_s_coverage_by_hand() -> None:
    # Of 100 images the last five are of classes 2 and 3; the first client has both, the second none.
    found = measure_partition(np.array([[40, 20, 3, 2], [20, 15, 0, 0]]))
    assert found.tail_classes == 2
    assert found.tail_coverage == 0.5
    assert (found.tail_holders.least, found.tail_holders.most) == (1, 1)


@given(counts=st.lists(st.integers(1, 500), min_size=1, max_size=30))
def test_the_tail_is_few_shot_as_elsewhere(counts: list[int]) -> None:
    groups = shot_groups(torch.tensor(counts)).group_of
    assert few_classes(np.array(counts)).tolist() == (groups == 2).tolist()
