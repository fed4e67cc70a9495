"""The partitioners of flwr-datasets: all that deal out examples, on balanced data and on tails."""

from __future__ import annotations

import numpy as np
import pytest

from fedloge.config import from_flat
from fedloge.data.manifest import Manifest
from fedloge.errors import PartitionError
from fedloge.partition import flwr_datasets, make_partition
from fedloge.partition.partition import verify_parts
from fedloge.rng import rng

pytest.importorskip("flwr_datasets", reason="the extra flwr-datasets is not installed")

BALANCED = np.tile(np.arange(5), 60)
TAIL = np.repeat(np.arange(6), [120, 45, 17, 6, 2, 1])
MANIFEST = Manifest(
    {
        "site": [f"site {i % 4}" for i in range(300)],
        "age": [str(20 + i % 50) for i in range(300)],
    }
)
ALL = {
    "Iid": {},
    "Linear": {},
    "Square": {},
    "Exponential": {},
    "Dirichlet": {"alpha": 1.0},
    "Shard": {"num_shards_per_partition": 2},
    "Pathological": {"num_classes_per_partition": 2},
    "Size": {"partition_sizes": [60, 80, 100, 60]},
    "InnerDirichlet": {"partition_sizes": [75, 75, 75, 75], "alpha": 1.0},
    "NaturalId": {"partition_by": "site"},
    "GroupedNaturalId": {"partition_by": "site", "group_size": 1},
    "Continuous": {"partition_by": "age", "strictness": 0.5},
    "Distribution": {
        "distribution_array": [[1.0, 2.0]] * 5,
        "num_unique_labels_per_partition": 2,
        "preassigned_num_samples_per_label": 1,
    },
}


def split(name: str, labels: np.ndarray, clients: int = 4, **options: object) -> list[np.ndarray]:
    manifest = MANIFEST if len(labels) == len(MANIFEST) else None
    return flwr_datasets(
        labels, clients, rng(0, "test"), name=name, options=options, manifest=manifest
    )


@pytest.mark.parametrize("name", ALL)
def test_every_one_of_them_splits_balanced_data(name: str) -> None:
    clients = 5 if name == "Distribution" else 4  # a multiple of the classes
    parts = split(name, BALANCED, clients, **ALL[name])
    verify_parts(parts, len(BALANCED), clients, lossy=True, who=name)
    assert sum(map(len, parts)) > 200


def test_no_partitioner_is_forgotten() -> None:
    from flwr_datasets import partitioner

    from fedloge.partition.flower_partitioners import _UNUSABLE

    theirs = {name.removesuffix("Partitioner") for name in partitioner.__all__} - {""}
    assert theirs == ALL.keys() | _UNUSABLE.keys()


@pytest.mark.parametrize(
    ("name", "clients", "options", "said"),
    [
        ("Dirichlet", 15, {"alpha": 0.1}, "lower partitioner-options.options.min_partition_size"),
        ("InnerDirichlet", 4, {"partition_sizes": [90] * 4, "alpha": 1.0}, "label-and-quantity"),
        ("Size", 4, {"partition_sizes": [900, 9, 9, 9]}, "take one of fedloge's own"),
    ],
)
def test_what_breaks_on_a_tail_says_why_and_what_to_take(
    name: str, clients: int, options: dict[str, object], said: str
) -> None:
    with pytest.raises(PartitionError, match=f"{name}Partitioner fails on these data") as caught:
        split(name, TAIL, clients, **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_one_that_is_unknown_or_of_no_use_is_refused() -> None:
    with pytest.raises(PartitionError, match=r"unknown partitioner 'Dirichlett' \(did you mean"):
        split("Dirichlett", BALANCED)
    with pytest.raises(PartitionError, match="it deals out columns of a table, not images"):
        split("VerticalEven", BALANCED)
    with pytest.raises(
        PartitionError, match="unknown option 'beta'; known: alpha, min_partition_size"
    ):
        split("Dirichlet", BALANCED, beta=1.0)
    with pytest.raises(PartitionError, match="makes 4 clients, num-clients is 3; set num-clients"):
        split("NaturalId", BALANCED, 3, partition_by="site")


def test_its_options_come_from_the_config() -> None:
    config = from_flat(
        {
            "partitioner": "flwr-datasets",
            "partitioner-options": {"name": "Dirichlet", "options": {"alpha": 0.5}},
            "num-clients": 4,
            "clients-per-round": 2,
        }
    )
    one, other = (make_partition(config, BALANCED, BALANCED, 5) for _ in range(2))
    assert one.digest() == other.digest()
    assert make_partition(config.replace(seed=1), BALANCED, BALANCED, 5).digest() != one.digest()


def test_what_is_left_out_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    parts = split("Size", BALANCED, partition_sizes=[10, 10, 10, 10])
    assert sum(map(len, parts)) == 40
    assert "leaves out 260 of 300 training images" in caplog.text
