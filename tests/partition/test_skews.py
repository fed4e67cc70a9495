"""Label and size skews, and whole numbers from shares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloge.errors import PartitionError
from fedloge.partition import (
    dirichlet,
    label_and_quantity,
    local_tails,
    partition_rng,
    quantity,
    shards,
)
from fedloge.partition.partition import counts_by_class, verify_parts
from fedloge.partition.whole_numbers import apportioned, fitted
from fedloge.rng import rng


def blocks(*sizes: int) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), sizes)


def sizes_of(parts: list[np.ndarray]) -> np.ndarray:
    return np.array([len(part) for part in parts])


@given(
    shares=st.lists(st.floats(0, 100), min_size=1, max_size=8).filter(any),
    total=st.integers(0, 60),
    least=st.integers(0, 7),
)
def test_whole_numbers_sum_to_the_total_and_none_is_too_small(shares, total, least) -> None:
    least = min(least, total // len(shares))
    given_ = apportioned(np.array(shares), total, least)
    assert given_.sum() == total
    assert given_.min() >= least
    if not least:
        exact = np.array(shares) / sum(shares) * total
        assert np.abs(given_ - exact).max() < 1 + 1e-9


def test_a_fitted_table_keeps_its_columns_exactly() -> None:
    table = fitted(np.ones((3, 2)), np.array([4.0, 4.0, 4.0]), np.array([7, 5]))
    assert table.sum(axis=0).tolist() == [7, 5]
    assert set(table.sum(axis=1).tolist()) <= {3, 4, 5}


def test_a_minimum_size_leaves_a_split_that_has_it_alone() -> None:
    labels = blocks(200, 100, 50)
    plain = dirichlet(labels, 5, partition_rng(3), alpha=5.0)
    least = int(sizes_of(plain).min())
    again = dirichlet(labels, 5, partition_rng(3), alpha=5.0, min_size=least)
    assert all(np.array_equal(a, b) for a, b in zip(plain, again, strict=True))


@settings(max_examples=40, deadline=None)
@given(
    alpha=st.sampled_from([0.02, 0.1, 1.0]),
    clients=st.integers(1, 30),
    by=st.sampled_from(["class", "client"]),
    seed=st.integers(0, 50),
)
def test_a_minimum_size_is_kept_however_skewed(alpha, clients, by, seed) -> None:
    labels = blocks(120, 45, 17, 6, 2, 1)
    least = len(labels) // clients
    parts = dirichlet(labels, clients, partition_rng(seed), alpha=alpha, by=by, min_size=least)
    verify_parts(parts, len(labels), clients, who="property")
    assert sizes_of(parts).min() >= least


def test_a_minimum_size_that_is_impossible_is_refused_before_anything_is_drawn() -> None:
    generator = partition_rng(0)
    with pytest.raises(
        PartitionError,
        match=r"40 clients of at least 10 examples need 400, there are 308; lower "
        r"partitioner-options.min-size to at most 7, or num-clients",
    ):
        dirichlet(blocks(300, 8), 40, generator, min_size=10)
    assert generator.random() == partition_rng(0).random()


def test_dirichlet_by_client_has_equal_sizes_and_skewed_classes() -> None:
    labels = blocks(*[100] * 10)
    few = dirichlet(labels, 10, partition_rng(0), alpha=0.05, by="client")
    even = dirichlet(labels, 10, partition_rng(0), alpha=1000.0, by="client")
    assert set(sizes_of(few)) == set(sizes_of(even)) == {100}
    assert counts_by_class(few, labels, 10).max(axis=1).mean() > 50
    assert counts_by_class(even, labels, 10).max() < 25


def test_shards_by_hand() -> None:
    # Six shards of two: client sizes are 4, and a client holds at most two classes of these even ones.
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2])
    parts = shards(labels, 3, rng(0, "test"))
    counts = counts_by_class(parts, labels, 3)
    assert sizes_of(parts).tolist() == [4, 4, 4]
    assert (counts % 2 == 0).all()
    with pytest.raises(
        PartitionError, match="7 clients of 2 shards need 14 shards, of 12 examples"
    ):
        shards(labels, 7, rng(0, "test"))


def test_a_power_law_by_hand() -> None:
    # 1, 1/2 and 1/3 of the largest: of 11 these are 6, 3 and 2.
    parts = quantity(blocks(11), 3, rng(0, "test"), law="power")
    assert sorted(sizes_of(parts).tolist()) == [2, 3, 6]


def test_log_normal_sizes_have_the_spread_that_is_asked() -> None:
    parts = quantity(blocks(200_000), 400, rng(0, "test"), law="log-normal", sigma=0.7, min_size=1)
    assert np.log(sizes_of(parts)).std() == pytest.approx(0.7, rel=0.1)


def test_an_option_of_another_law_is_refused() -> None:
    with pytest.raises(PartitionError, match=r"sigma \(2\) is not read with law = 'power'"):
        quantity(blocks(11), 3, rng(0, "test"), law="power", sigma=2.0)


def test_both_skews_at_once() -> None:
    labels = blocks(*[400] * 10)
    parts = label_and_quantity(labels, 20, rng(0, "test"), alpha=0.1, sigma=1.0)
    counts = counts_by_class(parts, labels, 10)
    assert counts.sum(axis=1).max() > 4 * counts.sum(axis=1).min()
    assert (counts.max(axis=1) / counts.sum(axis=1)).mean() > 0.5


def test_every_client_has_a_tail_of_its_own_and_all_together_none() -> None:
    labels = blocks(*[400] * 10)
    parts = local_tails(labels, 10, rng(0, "test"), imbalance_factor=0.1)
    counts = counts_by_class(parts, labels, 10)
    # Ten clients take turns at the heads of ten classes, so the fit is exact but for rounding.
    assert (counts.sum(axis=0) == 400).all()
    assert np.abs(counts.sum(axis=1) - 400).max() <= 5
    assert sorted(counts.argmax(axis=1)) == list(range(10))
    own = -np.sort(-counts, axis=1)
    assert own[:, 0] / own[:, -1] == pytest.approx(np.full(10, 10.0), rel=0.15)


def test_local_tails_over_a_global_one_are_mixed() -> None:
    labels = blocks(800, 400, 200, 100)
    parts = local_tails(labels, 8, rng(0, "test"), imbalance_factor=0.1, own_heads="random")
    counts = counts_by_class(parts, labels, 4)
    assert counts.sum(axis=0).tolist() == [800, 400, 200, 100]
    assert len(set(map(tuple, np.argsort(-counts, axis=1).tolist()))) > 2
    with pytest.raises(PartitionError, match=r"imbalance-factor must be in \(0, 1\], got 2"):
        local_tails(labels, 8, rng(0, "test"), imbalance_factor=2.0)
