"""Public suites that put a user's plug-ins through their paces."""

from fedloge.testing.partitioners import check_partitioner

__all__ = ["check_partitioner"]
