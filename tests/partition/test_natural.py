from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloge.config import from_flat
from fedloge.data.manifest import Manifest
from fedloge.errors import ConfigError, DataError, PartitionError
from fedloge.partition import NamedParts, feature, make_partition, natural
from fedloge.partition.partition import verify_parts
from fedloge.rng import rng

REAL = Path(__file__).parents[3] / "shared/data/inat-user-class.csv.gz"
ANN_BOB_CEM = Manifest({"site": ["bob", "ann", "cem", "ann", "bob"], "style": list("pqpqp")})


def split(manifest: Manifest, clients: int = 0, seed: int = 0, by: str = "site") -> NamedParts:
    labels = np.zeros(len(manifest), dtype=np.int64)
    parts = natural(labels, clients, rng(seed, "test"), manifest=manifest, by=by)
    assert isinstance(parts, NamedParts)
    return parts


def as_lists(parts: list[np.ndarray]) -> list[list[int]]:
    return [part.tolist() for part in parts]


def test_each_value_is_a_client_under_its_name() -> None:
    parts = split(ANN_BOB_CEM)
    assert as_lists(parts) == [[1, 3], [0, 4], [2]]
    assert parts.names == ("ann", "bob", "cem")
    assert split(ANN_BOB_CEM, by="style").names == ("p", "q")


def test_numbers_are_sorted_as_numbers() -> None:
    parts = split(Manifest({"site": ["10", "9", "10"]}))
    assert parts.names == ("9", "10")
    assert as_lists(parts) == [[1], [0, 2]]


def test_fewer_clients_than_values_share_out_whole_values() -> None:
    whole = [{1, 3}, {0, 4}, {2}]
    for seed in range(5):
        parts = split(ANN_BOB_CEM, 2, seed)
        assert sorted(i for part in parts for i in part.tolist()) == [0, 1, 2, 3, 4]
        assert all(any(own <= set(part.tolist()) for part in parts) for own in whole)
        assert sorted(name for names in parts.members for name in names) == ["ann", "bob", "cem"]
    assert len({str(as_lists(split(ANN_BOB_CEM, 2, seed))) for seed in range(9)}) > 1


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_values_stay_whole_whatever_they_are(data) -> None:
    values = data.draw(st.lists(st.text("abc", min_size=1, max_size=3), min_size=1))
    clients = data.draw(st.integers(0, len(set(values))))
    parts = split(Manifest({"site": values}), clients)
    verify_parts(parts, len(values), clients or len(set(values)), who="property")
    of = {i: client for client, part in enumerate(parts) for i in part.tolist()}
    assert len({(value, of[i]) for i, value in enumerate(values)}) == len(set(values))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(PartitionError, match="'site' has 3 values, too few for 4 clients; lower"):
        split(ANN_BOB_CEM, 4)
    with pytest.raises(DataError, match="says no 'owner' of its examples, only site, style"):
        split(ANN_BOB_CEM, by="owner")
    with pytest.raises(PartitionError, match=r"1 of 2 training images have no 'site' \(the first"):
        split(Manifest({"site": ["a", ""]}))


def test_the_number_of_clients_comes_from_the_data() -> None:
    config = from_flat({"partitioner": "natural"})
    assert config.num_clients == 0
    assert from_flat({}).replace(partitioner="natural").num_clients == 0
    labels = np.zeros(5, dtype=np.int64)
    made = make_partition(config, labels, labels, 1, ANN_BOB_CEM)
    assert made.names == ("ann", "bob", "cem")
    assert made.train_counts.tolist() == [[2], [2], [1]]
    with pytest.raises(ConfigError, match="num-clients is 0, which is for partitioners natural"):
        from_flat({"num-clients": 0})


def test_data_that_say_nothing_are_refused_in_one_line() -> None:
    config = from_flat({"partitioner": "natural"})
    with pytest.raises(PartitionError, match="these data say nothing; use data with a folder for"):
        make_partition(config, np.array([0]), np.array([0]), 1)


def test_the_old_name_is_refused_with_the_new_one() -> None:
    with pytest.raises(ConfigError, match=r"'user' is 'natural' now.*options.by=COLUMN"):
        from_flat({"partitioner": "user"})


def test_feature_skew_mixes_domains_and_not_labels() -> None:
    domains = ["photo"] * 600 + ["sketch"] * 600
    labels = np.tile([0, 1], 600)
    manifest = Manifest({"site": domains})
    parts = feature(labels, 6, rng(1, "test"), manifest=manifest, alpha=0.2)
    verify_parts(parts, 1200, 6, who="feature")
    assert [len(part) for part in parts] == [200] * 6
    photos = np.array([(part < 600).mean() for part in parts])
    zeros = np.array([(labels[part] == 0).mean() for part in parts])
    assert photos.min() < 0.2 and photos.max() > 0.8
    assert np.abs(zeros - 0.5).max() < 0.12


@pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is not here")
@pytest.mark.parametrize("clients", [20, 0])
def test_at_true_scale(clients: int) -> None:
    with gzip.open(REAL, "rt", newline="") as f:
        users = [row["user_id"] for row in csv.DictReader(f)]
    parts = split(Manifest({"site": users}), clients)
    verify_parts(parts, 160_000, clients or 3308, who="inat")
    sizes = np.array([len(part) for part in parts])
    if clients == 0:
        # The table's own skew: one user has 4,960 images, another only one.
        assert (sizes.min(), int(np.median(sizes)), sizes.max()) == (1, 14, 4960)
        assert parts.names[:3] == ("0", "1", "2")
    else:
        assert sizes.min() > 1000
