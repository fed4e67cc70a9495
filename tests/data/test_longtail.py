from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloge.data import long_tail_counts, long_tail_indices
from fedloge.errors import DataError

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "cifar10-lt-if0.02-alpha0.5-partition.json").read_text()
)


def test_the_authors_class_sizes() -> None:
    counts = long_tail_counts(10, 5000, 0.02, "exp")
    assert counts == GOLDEN["class_sizes"]
    assert sum(counts) == 13_996


def test_curves_by_hand() -> None:
    # 100 * 0.01^(c/2): 100, 10, 1.
    assert long_tail_counts(3, 100, 0.01, "exp") == [100, 10, 1]
    assert long_tail_counts(5, 100, 0.1, "step") == [100, 100, 100, 10, 10]
    assert long_tail_counts(3, 100, 0.1, "none") == [100, 100, 100]
    assert long_tail_counts(1, 100, 0.1, "exp") == [100]


@settings(deadline=None)
@given(
    num_classes=st.integers(2, 200),
    largest=st.integers(100, 6000),
    factor=st.floats(0.01, 1),
    kind=st.sampled_from(["exp", "step"]),
)
def test_curves_fall_from_the_largest(num_classes, largest, factor, kind) -> None:
    counts = long_tail_counts(num_classes, largest, factor, kind)
    assert counts[0] == largest
    assert counts[-1] == int(largest * factor)
    assert all(a >= b for a, b in itertools.pairwise(counts))


def test_the_first_images_of_each_class_are_kept_class_by_class() -> None:
    labels = np.array([1, 0, 0, 1, 0, 1, 0])  # class 0 at 1, 2, 4, 6; class 1 at 0, 3, 5
    assert long_tail_indices(labels, 0.5, "exp").tolist() == [1, 2, 4, 6, 0, 3]
    assert long_tail_indices(labels, 0.5, "none").tolist() == [1, 2, 4, 6, 0, 3, 5]


def test_a_class_that_is_too_small_is_named() -> None:
    with pytest.raises(
        DataError, match="asks for 5 examples of class 1, which has 2; set long-tail"
    ):
        long_tail_indices(np.repeat([0, 1], [10, 2]), 0.5, "exp")
    with pytest.raises(DataError, match=r"class 1 would keep none of its 9 .* \(0.05\)"):
        long_tail_indices(np.repeat([0, 1], [10, 9]), 0.05, "step")
