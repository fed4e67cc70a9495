"""Who holds which images: partitioners, and what a partition is."""

from fedloge.partition.base import Partition, Partitioner, group_by_owner
from fedloge.partition.builtin import BUILTIN, dirichlet, iid, pathological, quantity
from fedloge.partition.by_user import by_user
from fedloge.partition.check import check_partitioner
from fedloge.partition.localtest import local_test_counts, local_test_indices
from fedloge.partition.make import make_partition, partition_rng, resolve_partitioner

__all__ = [
    "BUILTIN",
    "Partition",
    "Partitioner",
    "by_user",
    "check_partitioner",
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
]
