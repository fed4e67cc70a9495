from __future__ import annotations

import csv
import functools
import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fedloge.config import from_flat
from fedloge.errors import ConfigError, PartitionError
from fedloge.federation import Federation
from fedloge.partition import by_user, make_partition
from fedloge.partition.partition import verify_parts
from fedloge.rng import rng
from fedloge.testing import check_partitioner

REAL = Path(__file__).parents[3] / "shared/data/inat-user-class.csv.gz"


def write(path: Path, header: str, *lines: str) -> str:
    path.write_text("\n".join([header, *lines, ""]))
    return str(path)


def split(table: str, labels: list[int], num_clients: int, seed: int = 0) -> list[list[int]]:
    parts = by_user(np.array(labels), num_clients, rng(seed, "test"), table=table)
    return [part.tolist() for part in parts]


@pytest.fixture
def table(tmp_path: Path) -> str:
    """Images 0..4 are cat/1, cat/2, cat/3, dog/4, dog/5; Ann has 2 and 4, Bob 1 and 5, Cem 3."""
    rows = ("2,ann,cat", "1,bob,cat", "5,bob,dog", "4,ann,dog", "3,cem,cat")
    return write(tmp_path / "users.csv", "image_id,user_id,class", *rows)


def test_a_client_is_a_user_and_images_go_by_name(table: str) -> None:
    assert split(table, [0, 0, 0, 1, 1], 3) == [[1, 3], [0, 4], [2]]


def test_the_order_of_the_training_set_counts_only_within_a_class(table: str) -> None:
    assert split(table, [1, 0, 0, 1, 0], 3) == [[0, 2], [1, 3], [4]]


def test_without_image_names_the_lines_of_a_class_stand_in_order(tmp_path: Path) -> None:
    bare = write(tmp_path / "bare.csv", "user,class", "b,y", "a,x", "b,x", "a,y")
    assert split(bare, [0, 0, 1, 1], 2) == [[0, 3], [1, 2]]


def test_fewer_clients_than_users_share_out_whole_users(table: str) -> None:
    users = [{1, 3}, {0, 4}, {2}]
    for seed in range(5):
        parts = split(table, [0, 0, 0, 1, 1], 2, seed)
        assert sorted(i for part in parts for i in part) == [0, 1, 2, 3, 4]
        assert all(any(user <= set(part) for part in parts) for user in users)
        assert max(map(len, parts)) < 5
    assert len({str(split(table, [0, 0, 0, 1, 1], 2, seed)) for seed in range(9)}) > 1


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_users_stay_whole_whatever_the_table(data, tmp_path_factory) -> None:
    rows = data.draw(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 4)), min_size=1))
    path = tmp_path_factory.mktemp("users") / "users.csv"
    text = write(path, "user_id,class", *(f"{user},{label}" for user, label in rows))
    _, labels = np.unique([label for _, label in rows], return_inverse=True)
    users = len({user for user, _ in rows})
    clients = data.draw(st.integers(1, users))
    parts = by_user(labels, clients, rng(1, "test"), table=text)
    verify_parts(parts, len(rows), clients, who="property")
    of = {i: client for client, part in enumerate(parts) for i in part.tolist()}
    # Rows stand in the training set's order here, so row i is image i.
    assert len({(user, of[i]) for i, (user, _) in enumerate(rows)}) == users


def test_it_keeps_the_rules_of_partitioners(tmp_path: Path) -> None:
    lines = [f"{i % 9},{i // 30}" for i in range(300)]
    fits = write(tmp_path / "balanced.csv", "user_id,class", *lines)
    check_partitioner(functools.partial(by_user, table=fits))


@pytest.mark.parametrize(
    ("header", "lines", "labels", "clients", "said"),
    [
        ("user_id,class", ["a,x", "b,x"], [0, 0], 3, "2 users, too few for 3 clients"),
        ("user_id,class", ["a,x", "b,y"], [0, 0], 1, "has 2 classes, the training set 1"),
        (
            "user_id,class",
            ["a,x", "b,x"],
            [0, 0, 0],
            1,
            "2 images of class 'x', the training set 3",
        ),
        ("owner,class", ["a,x"], [0], 1, "no column 'user_id', only owner, class"),
        ("user_id,class", ["a,x", "b"], [0, 0], 1, "line 3 has 1 values, expected 2"),
        ("", [], [0], 1, "no column 'user_id', only none"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, header, lines, labels, clients, said) -> None:
    table = write(tmp_path / "users.csv", header, *lines)
    with pytest.raises(PartitionError, match=said):
        split(table, labels, clients)


def test_an_unreadable_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PartitionError, match=r"nowhere\.csv cannot be read \(No such file"):
        split(str(tmp_path / "nowhere.csv"), [0], 1)
    broken = tmp_path / "broken.csv.gz"
    broken.write_bytes(gzip.compress(b"user_id,class\na,x\n" * 500)[:-20])
    with pytest.raises(PartitionError, match="cannot be read"):
        split(str(broken), [0], 1)


def test_the_table_is_an_option_that_must_be_given(tmp_path: Path) -> None:
    given = {"partitioner": "user", "num-clients": 2, "clients-per-round": 1}
    with pytest.raises(
        ConfigError, match="partitioner-options of 'user': table is missing; give it a value"
    ):
        make_partition(from_flat(given), np.array([0]), np.array([0]), 1)
    table = write(tmp_path / "users.csv", "user_id,class", "a,x", "b,x")
    config = from_flat(given | {"partitioner-options": f"table = {table}"})
    made = make_partition(config, np.array([0, 0]), np.array([0, 0]), 1)
    assert made.train_counts.tolist() == [[1], [1]]


def test_an_image_folder_finds_its_owners(tmp_path: Path) -> None:
    rows = []
    for split_name, count in (("train", 4), ("test", 2)):
        for label, shade in (("ape", 40), ("bee", 200)):
            folder = tmp_path / split_name / label
            folder.mkdir(parents=True)
            for i in range(count):
                # The pixels say whose an image is: user 1 has the brighter half.
                Image.new("RGB", (8, 8), (shade + 10 * (i % 2),) * 3).save(
                    folder / f"{label}{i}.png"
                )
                if split_name == "train":
                    rows.append(f"{label}{i}.png,{i % 2},{label}")
    table = write(tmp_path / "users.csv", "image_id,user_id,class", *reversed(rows))
    federation = Federation(
        from_flat(
            {
                "dataset": "image-folder",
                "data-path": str(tmp_path),
                "cache-dir": str(tmp_path / "cache"),
                "long-tail": "none",
                "partitioner": "user",
                "partitioner-options": f"table = {table}",
                "num-clients": 2,
                "clients-per-round": 1,
                "device": "cpu",
            }
        )
    )
    pixels = federation.train.inputs[:, 0, 0, 0].numpy()
    assert [sorted(pixels[part].tolist()) for part in federation.partition.train] == [
        [40, 40, 200, 200],
        [50, 50, 210, 210],
    ]


@pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is not here")
@pytest.mark.parametrize("clients", [20, 3308])
def test_at_true_scale(clients: int) -> None:
    with gzip.open(REAL, "rt", newline="") as f:
        rows = list(csv.DictReader(f))
    _, labels = np.unique([row["class"] for row in rows], return_inverse=True)
    parts = by_user(labels, clients, rng(0, "test"), table=str(REAL))
    verify_parts(parts, 160_000, clients, who="inat")
    client_of = np.empty(len(rows), dtype=np.int64)
    for client, part in enumerate(parts):
        client_of[part] = client
    assert len({(row["user_id"], c) for row, c in zip(rows, client_of, strict=True)}) == 3308
    sizes = np.array([len(part) for part in parts])
    if clients == 3308:
        # The table's own skew, from its README: one user has 4,960 images, another only one.
        assert (sizes.min(), int(np.median(sizes)), sizes.max()) == (1, 14, 4960)
    else:
        assert sizes.min() > 1000
