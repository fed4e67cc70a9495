from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloge.data import long_tail_counts, long_tail_indices
from fedloge.errors import ConfigError, DataError

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


def test_pareto_falls_faster_at_first_and_ends_at_the_factor() -> None:
    # With power 1: n / (1 + 3 c / 3) of 120 for four classes and a factor of 1/4.
    counts = long_tail_counts(4, 120, 0.25, "pareto", {"power": 1.0})
    assert counts == [120, 60, 40, 30]
    of_imagenet = long_tail_counts(1000, 1280, 5 / 1280, "pareto")
    assert (of_imagenet[0], of_imagenet[-1]) == (1280, 5)
    assert sum(of_imagenet) == pytest.approx(115_846, rel=0.02)


def test_counts_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "counts.json"
    options = {"file": str(path)}
    labels = np.array([0, 1, 0, 1, 0, 1])

    def cut() -> list[int]:
        return long_tail_indices(labels, 0.5, "counts", options).tolist()

    with pytest.raises(DataError, match=r"counts\.json cannot be read from"):
        cut()
    path.write_text("[1, 3]")
    assert cut() == [0, 1, 3, 5]
    for wrong, said in (
        ("[1]", "has the counts of 1 classes, the training set has 2"),
        ("[4, 1]", "asks for 4 examples of class 0, which has 3"),
        ("[0, 1]", "class 0 would keep none of its 3 examples; change the file"),
        ("[1, -1]", "expected a JSON list of whole numbers"),
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
    ):
        path.write_text(wrong)
        with pytest.raises(DataError, match=said):
            cut()


def test_an_option_of_another_tail_is_refused() -> None:
    with pytest.raises(ConfigError, match="long-tail-options of 'exp': there are no options"):
        long_tail_counts(4, 10, 0.5, "exp", {"power": 1.0})
