"""Which client holds which examples: partitioners, and what a partition is."""

from fedloge.partition.builtin import BUILTIN, dirichlet, iid, pathological, quantity
from fedloge.partition.by_user import by_user
from fedloge.partition.local_tests import local_test_counts, local_test_indices
from fedloge.partition.make import (
    make_partition,
    partition_rng,
    resolve_partitioner,
    validation_split,
)
from fedloge.partition.partition import Partition, Partitioner, group_by_owner

__all__ = [
    "BUILTIN",
    "Partition",
    "Partitioner",
    "by_user",
    "dirichlet",
    "group_by_owner",
    "iid",
    "local_test_counts",
    "local_test_indices",
    "make_partition",
    "partition_rng",
    "pathological",
    "quantity",
    "resolve_partitioner",
    "validation_split",
]
