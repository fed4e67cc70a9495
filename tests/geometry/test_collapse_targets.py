from __future__ import annotations

import math

import pytest
import torch

from fedloge.geometry.collapse_targets import distance, law_target, simplex_target
from fedloge.geometry.feature_sums import FeatureSums
from fedloge.geometry.imbalanced import imbalanced_law
from fedloge.geometry.prototypes import prototypes


def at(means: torch.Tensor) -> FeatureSums:
    """Two examples of every class, both at its mean."""
    labels = torch.arange(len(means)).repeat(2)
    return FeatureSums.of(means.repeat(2, 1), labels, len(means))


@pytest.mark.parametrize("kind", ["sparse-etf", "etf", "basis"])
def test_features_on_their_own_target_are_at_distance_zero(kind: str, tmp_path) -> None:
    w = prototypes(10, 32, kind, seed=3, cache_dir=tmp_path).matrix
    moved = 5 * w.double() @ torch.linalg.qr(torch.randn(32, 32, dtype=torch.float64))[0] + 2
    found = distance(at(moved), w)
    assert found.cos < 1e-5 and found.norms < 1e-5
    # All of these are a simplex here, as 10 classes fit into 32 features.
    assert distance(at(moved), simplex_target(10)).cos < 1e-5


def test_basis_vectors_are_no_simplex_where_none_exists(tmp_path) -> None:
    w = prototypes(30, 8, "basis", seed=0, cache_dir=tmp_path).matrix
    assert distance(at(w), w).cos < 1e-6
    assert distance(at(w), simplex_target(30)).cos > 0.1


def test_the_law_leaves_a_collapsed_class_out() -> None:
    law = imbalanced_law(torch.tensor([200, 100, 50, 20, 4]), [1e-3], 1e-3)
    target = law_target(law)
    assert distance(at(target), target).cos < 1e-12
    # Orthogonal and equally long: the angles of the centred means differ from the law's.
    assert distance(at(torch.eye(5)), target).norms > 0.05


def test_one_class_has_no_angle() -> None:
    found = distance(at(torch.ones(1, 3)), torch.ones(1, 3))
    assert math.isnan(found.cos) and math.isnan(found.norms)


def test_by_hand() -> None:
    # Means at 0 and 2 and 4 on a line: cosines 1 and -1 where a simplex has -1/2; the middle is the centre.
    found = distance(at(torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]])), simplex_target(3))
    assert found.cos == pytest.approx(0.5) and found.norms == pytest.approx(0.0)
