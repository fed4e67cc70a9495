"""What clients are tested on: matched, given or own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloge.config import Config, from_flat
from fedloge.data.manifest import Manifest
from fedloge.errors import ConfigError, DataError
from fedloge.partition import make_partition
from fedloge.partition.held_out import hold_out
from fedloge.partition.partition import Partition
from fedloge.rng import rng

NONE = np.empty(0, dtype=np.int64)


def photos(**values: object) -> Config:
    """A config for data of one's own."""
    flat = {key.replace("_", "-"): value for key, value in values.items()}
    base = {"dataset": "image-folder", "partitioner": "iid", "num-clients": 4}
    return from_flat({"clients-per-round": 1, **base, **flat})


def blocks(*sizes: int) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), sizes)


def counts(made: Partition) -> list[int]:
    return [len(test) for test in made.test]


def test_auto_is_own_without_test_images_given_with_them_and_matched_for_a_benchmark() -> None:
    labels, tests = blocks(40, 20), blocks(8, 4)
    assert make_partition(photos(), labels, NONE, 2).test_split == "own"
    assert make_partition(photos(), labels, tests, 2).test_split == "given"
    benchmark = photos(dataset="digits")
    assert make_partition(benchmark, labels, tests, 2).test_split == "matched"
    site = Manifest({"site": ["a"] * 30 + ["b"] * 30})
    natural = photos(partitioner="natural", num_clients=0)
    # Whose the test images are is not known: each client is tested on its own.
    assert make_partition(natural, labels, tests, 2, site).test_split == "own"
    known = Manifest({"site": ["b"] * 6 + ["a"] * 6})
    made = make_partition(natural, labels, tests, 2, site, known)
    assert made.test_split == "given"
    assert [test.tolist() for test in made.test] == [[6, 7, 8, 9, 10, 11], [0, 1, 2, 3, 4, 5]]


def test_own_tests_are_a_fifth_of_each_client_and_nobody_trains_on_them() -> None:
    labels = blocks(40, 20)
    made = make_partition(photos(), labels, NONE, 2)
    assert [len(part) for part in made.train] == [12] * 4
    assert counts(made) == [3] * 4
    assert sorted([*np.concatenate(made.train), *made.own_test]) == list(range(60))
    # The tests stand in the order of the clients.
    assert [test.tolist() for test in made.test] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert (
        made.local_test_counts.sum(axis=0).tolist() == np.bincount(labels[made.own_test]).tolist()
    )
    other = make_partition(photos(seed=1), labels, NONE, 2)
    assert other.digest() != made.digest()


def test_behind_a_test_set_of_its_own_stand_the_clients_images() -> None:
    made = make_partition(photos(test_split="own"), blocks(40, 20), blocks(7), 2)
    assert made.test[0].tolist() == [7, 8, 9]


def test_validation_is_a_share_of_what_is_left_for_training() -> None:
    made = make_partition(photos(validation_share=0.25), blocks(40, 20), NONE, 2)
    assert [len(part) for part in made.validation] == [3] * 4
    assert [len(part) for part in made.train] == [9] * 4
    everything = [*np.concatenate([*made.train, *made.validation]), *made.own_test]
    assert sorted(everything) == list(range(60))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_given_tests_are_used_once_each(data) -> None:
    clients = data.draw(st.integers(1, 8))
    tests = np.array(data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=30)))
    made = make_partition(photos(num_clients=clients), blocks(20, 10, 10), tests, 3)
    assert sorted(np.concatenate(made.test)) == list(range(len(tests)))
    # A client's share of a class is that of the training images, to less than one image.
    for c in range(3):
        exact = made.train_counts[:, c] / made.train_counts[:, c].sum() * (tests == c).sum()
        assert np.abs(made.local_test_counts[:, c] - exact).max() < 1


def test_eight_clients_with_two_test_images_between_them() -> None:
    made = make_partition(photos(num_clients=8), blocks(24, 24), np.array([0, 1]), 2)
    assert sorted(counts(made)) == [0, 0, 0, 0, 0, 0, 1, 1]


def test_test_images_of_a_stranger_are_nobodys(caplog: pytest.LogCaptureFixture) -> None:
    site = Manifest({"site": ["a"] * 5 + ["b"] * 5})
    tests = Manifest({"site": ["a", "c", "c"]})
    config = photos(partitioner="natural", num_clients=0)
    made = make_partition(config, blocks(10), blocks(3), 1, site, tests)
    assert [test.tolist() for test in made.test] == [[0], []]
    assert "2 of 3 test images belong to no client that trains" in caplog.text


def test_a_rule_that_needs_test_images_says_so() -> None:
    for rule in ("given", "matched"):
        with pytest.raises(
            DataError, match=f"test-split={rule} needs test images, and the data name"
        ):
            make_partition(photos(test_split=rule), blocks(40, 20), NONE, 2)
    with pytest.raises(
        ConfigError, match=r"test-share is not read here, got 0\.3; leave it out, or"
    ):
        photos(test_split="given", test_share=0.3)


def test_a_class_of_one_image_is_trained_on_and_never_tested() -> None:
    made = make_partition(photos(num_clients=2), blocks(20, 1), NONE, 2)
    assert made.train_counts.sum(axis=0).tolist() == [16, 1]
    assert made.local_test_counts.sum(axis=0).tolist() == [4, 0]


def test_no_group_is_torn() -> None:
    # Ten lesions of three photographs each, of one patient each: six images are a fifth of thirty.
    labels, groups = blocks(30), np.repeat(np.arange(10), 3)
    kept, held = hold_out(np.arange(30), labels, 0.2, rng(0, "test"), groups)
    assert len(held) == 6
    assert not set(groups[kept]) & set(groups[held])


def test_a_client_of_one_group_holds_nothing_out() -> None:
    kept, held = hold_out(np.arange(9), blocks(9), 0.3, rng(0, "test"), np.zeros(9, dtype=np.int64))
    assert (len(kept), len(held)) == (9, 0)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=40),
    share=st.floats(0, 0.9),
)
def test_groups_stay_whole_and_every_class_is_trained_on(rows, share) -> None:
    groups, labels = (np.array(column) for column in zip(*rows, strict=True))
    kept, held = hold_out(np.arange(len(rows)), labels, share, rng(0, "test"), groups)
    assert sorted([*kept, *held]) == list(range(len(rows)))
    assert not set(groups[kept]) & set(groups[held])
    assert set(labels[kept]) == set(labels)


def test_the_manifests_groups_hold_tests_and_validation_together() -> None:
    group = [str(i // 3) for i in range(60)]
    manifest = Manifest({"site": ["a"] * 30 + ["b"] * 30, "group": group})
    config = photos(partitioner="natural", num_clients=0, validation_share=0.2)
    made = make_partition(config, blocks(60), NONE, 1, manifest)
    sets = [{group[i] for i in part} for part in (*made.train, *made.validation, made.own_test)]
    assert sum(map(len, sets)) == len(set().union(*sets)) == 20
    assert len(made.own_test) == 12
