"""Small clients dropped or merged, large ones cut, some kept from training; partitions as files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from harness import lines, run_local, tiny

from fedloge.config import Config, from_flat
from fedloge.data.manifest import Manifest
from fedloge.errors import PartitionError, RunDirError
from fedloge.federation import settled
from fedloge.launch.run_on_engine import run_on_engine
from fedloge.partition import (
    NamedParts,
    explicit,
    held_out_clients,
    make_partition,
    read_partition,
    with_all_clients,
    write_partition,
)
from fedloge.partition.client_wraps import wrapped
from fedloge.rng import rng
from fedloge.sweeps.plan import PlannedRun
from fedloge.sweeps.standing import standing
from fedloge.testing import check_partitioner

SITES = Manifest({"site": ["ann"] * 9 + ["bob"] * 2 + ["cem"] * 3 + ["dee"] * 6 + ["eve"]})
NATURAL = {"partitioner": "natural", "dataset": "image-folder"}
LABELS = np.arange(21) % 2
NONE = np.empty(0, dtype=np.int64)


def config(**values: object) -> Config:
    return from_flat(NATURAL | {key.replace("_", "-"): value for key, value in values.items()})


def made(**values: object) -> list[tuple[str, int]]:
    """Names and sizes."""
    partition = make_partition(config(**values), LABELS, NONE, 2, SITES)
    sizes = [len(a) + len(b) for a, b in zip(partition.train, partition.test, strict=True)]
    return list(zip(partition.names, sizes, strict=True))


def test_small_clients_are_refused_dropped_or_merged() -> None:
    with pytest.raises(
        PartitionError, match=r"3 of 5 clients have fewer than 4 images \(client 1 has"
    ):
        made(min_client_images=4)
    assert made(min_client_images=4, small_clients="drop") == [("ann", 9), ("dee", 6)]
    # eve and bob have 3 together, with cem 6.
    merged = made(min_client_images=4, small_clients="merge")
    assert merged == [("ann", 9), ("bob, cem, eve", 6), ("dee", 6)]
    # 1 + 2 are enough; what is left over joins the smallest.
    assert ("cem", 3) in made(min_client_images=3, small_clients="merge")


def test_what_is_dropped_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    dropped = config(min_client_images=4, small_clients="drop")
    partition = make_partition(dropped, LABELS, NONE, 2, SITES)
    assert partition.left_out == 6
    assert "3 clients with fewer than 4 images are dropped, and 6 images with them" in caplog.text
    whole = with_all_clients(dropped, LABELS, SITES)
    assert (whole.num_clients, whole.split_into, whole.clients_per_round) == (2, 5, 2)


def test_large_clients_are_cut_at_random_and_the_rest_keep_all() -> None:
    assert dict(made(max_client_images=4)) == {"ann": 4, "bob": 2, "cem": 3, "dee": 4, "eve": 1}
    one, other = (
        wrapped([np.arange(50)], config(max_client_images=5, seed=seed))[0].tolist()
        for seed in (0, 1)
    )
    assert one != other and one == sorted(one)


def test_more_clients_than_are_left_are_refused_with_the_numbers() -> None:
    asked = config(num_clients=5, min_client_images=4, small_clients="drop", clients_per_round=1)
    with pytest.raises(
        PartitionError, match="2 of 5 clients are left, num-clients is 5; set num-cl"
    ):
        make_partition(asked, LABELS, NONE, 2, SITES)
    whole = asked.replace(num_clients=2, split_into=5)
    assert make_partition(whole, LABELS, NONE, 2, SITES).names == ("ann", "dee")


def test_a_run_settles_how_many_clients_there_are(tmp_path: Path) -> None:
    asked = tiny(tmp_path, num_clients=12, clients_per_round=12, min_client_images=40)
    asked = asked.replace(small_clients="merge", partitioner_options={"alpha": 0.3})
    whole = settled(asked)
    assert whole.split_into == 12
    assert whole.num_clients == whole.clients_per_round < 12
    assert settled(whole) == whole
    # A sweep that plans it knows the run again, which has the number that its plan has not.
    folder = run_on_engine(asked.replace(rounds=1), "local")
    assert standing(PlannedRun(folder.name, "", asked.replace(rounds=1))).state == "done"
    assert standing(PlannedRun(folder.name, "", asked.replace(rounds=2))).state == "begun"
    run_on_engine(asked.replace(rounds=2, resume=True), "local")
    assert standing(PlannedRun(folder.name, "", asked.replace(rounds=2))).state == "done"
    with pytest.raises(RunDirError, match="seed was 0, now 1"):
        standing(PlannedRun(folder.name, "", asked.replace(rounds=2, seed=1)))


def test_held_out_clients_never_train_and_are_measured_apart(tmp_path: Path) -> None:
    asked = tiny(tmp_path, num_clients=6, clients_per_round=3, held_out_clients=2, rounds=6)
    held = held_out_clients(asked)
    assert len(held) == 2
    folder = run_local(asked)
    last = [row for row in lines(folder, "clients") if row["round"] == 6]
    assert len(last) == 6
    assert all(row["trained-rounds"] == 0 for row in last if row["client"] in held)
    figures = lines(folder, "metrics")[-1]
    for side, part in (("held-out", held), ("personal", set(range(6)) - set(held))):
        own = [row["personal/realigned/accuracy"] for row in last if row["client"] in part]
        assert figures[f"{side}/realigned/mean"] == pytest.approx(np.mean(own))
    assert (figures["measured-clients"], figures["measured-held-out-clients"]) == (4, 2)
    info = json.loads((folder / "run.json").read_text())
    assert info["held-out-clients"] == list(held)
    # Their images are not among those by which classes are many, medium and few.
    assert sum(info["train-counts"]) == sum(r["num-train"] for r in last if r["client"] not in held)


def test_a_partition_is_written_and_read_again(tmp_path: Path) -> None:
    asked = config(validation_share=0.2, held_out_clients=1, num_clients=5, clients_per_round=1)
    partition = make_partition(asked, LABELS, NONE, 2, SITES)
    path = tmp_path / "split.json"
    write_partition(path, partition, LABELS, 0)
    again = read_partition(path, LABELS, NONE, 2)
    assert again.digest() == partition.digest()
    assert (again.names, again.held_out) == (partition.names, partition.held_out)
    assert np.array_equal(again.train_counts, partition.train_counts)
    assert np.array_equal(again.local_test_counts, partition.local_test_counts)


def test_a_file_is_a_partitioner(tmp_path: Path) -> None:
    partition = make_partition(config(), LABELS, NONE, 2, SITES)
    path = tmp_path / "split.json"
    write_partition(path, partition, LABELS, 0)
    parts = explicit(LABELS, 0, rng(0, "test"), file=str(path))
    assert isinstance(parts, NamedParts)
    assert parts.names == ("ann", "bob", "cem", "dee", "eve")
    assert parts[0].tolist() == list(range(9))
    options = {"file": str(path)}
    asked = from_flat(NATURAL | {"partitioner": "explicit", "partitioner-options": options})
    # The same seed holds out the same images.
    assert make_partition(asked, LABELS, NONE, 2).digest() == partition.digest()

    def mine(labels: np.ndarray, num_clients: int, rng: np.random.Generator) -> list[np.ndarray]:
        return explicit(labels, num_clients, rng, file=str(path))

    with pytest.raises(PartitionError, match="refuses every setting"):
        check_partitioner(mine)


def test_a_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    partition = make_partition(config(), LABELS, NONE, 2, SITES)
    path = tmp_path / "split.json"

    def refusal(labels: np.ndarray = LABELS, clients: int = 0) -> str:
        with pytest.raises(PartitionError) as caught:
            explicit(labels, clients, rng(0, "test"), file=str(path))
        return str(caught.value)

    assert "cannot be read from" in refusal()
    write_partition(path, partition, LABELS, 0)
    assert "expected 21 training images, got 20" in refusal(LABELS[:20])
    assert "as many images, but with other labels" in refusal(1 - LABELS)
    assert "has 5 clients, num-clients is 4; set num-clients=5" in refusal(clients=4)
    text = path.read_text()
    path.write_text(text.replace('"ann"', '"amy"'))
    assert "its checksum is" in refusal()
    path.write_text(text.replace('"version":1', '"version":2'))
    assert "expected version 1, got 2" in refusal()
    path.write_text("[1]")
    assert "expected a file that 'fedloge partition --out' wrote" in refusal()
    path.write_text(text[:-9])
    assert "not valid JSON" in refusal()
