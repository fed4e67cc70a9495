"""Which client holds which examples: partitioners, and what a partition is."""

from fedloge.partition.builtin import BUILTIN, iid, pathological
from fedloge.partition.client_tests import local_test_counts, local_test_indices
from fedloge.partition.client_wraps import held_out_clients
from fedloge.partition.explicit import explicit, read_partition, write_partition
from fedloge.partition.flower_partitioners import flwr_datasets
from fedloge.partition.label_skew import dirichlet, local_tails, shards
from fedloge.partition.make import (
    group_numbers,
    make_partition,
    number_is_open,
    own_held_out,
    partition_rng,
    resolve_partitioner,
    with_all_clients,
)
from fedloge.partition.natural import feature, natural
from fedloge.partition.partition import NamedParts, Partition, Partitioner, group_by_owner
from fedloge.partition.size_skew import label_and_quantity, quantity

__all__ = [
    "BUILTIN",
    "NamedParts",
    "Partition",
    "Partitioner",
    "dirichlet",
    "explicit",
    "feature",
    "flwr_datasets",
    "group_by_owner",
    "group_numbers",
    "held_out_clients",
    "iid",
    "label_and_quantity",
    "local_tails",
    "local_test_counts",
    "local_test_indices",
    "make_partition",
    "natural",
    "number_is_open",
    "own_held_out",
    "partition_rng",
    "pathological",
    "quantity",
    "read_partition",
    "resolve_partitioner",
    "shards",
    "with_all_clients",
    "write_partition",
]
