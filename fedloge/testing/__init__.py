"""Public test suites for a user's own methods and partitioners."""

from fedloge.testing.methods import MethodCheck, check_method, method_checks
from fedloge.testing.partitioners import PartitionerCheck, check_partitioner, partitioner_checks

__all__ = [
    "MethodCheck",
    "PartitionerCheck",
    "check_method",
    "check_partitioner",
    "method_checks",
    "partitioner_checks",
]
