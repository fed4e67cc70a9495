"""From a config and the labels to a partition."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloge.config import Config
from fedloge.errors import ConfigError, DataError, FedlogeError, PartitionError
from fedloge.options import checked_options, keyword_options
from fedloge.partition.builtin import BUILTIN
from fedloge.partition.held_out import hold_out
from fedloge.partition.local_tests import local_test_counts, local_test_indices
from fedloge.partition.partition import (
    Indices,
    Partition,
    counts_by_class,
    group_by_owner,
    verify_parts,
)
from fedloge.plugins import load_plugin
from fedloge.rng import rng


@dataclass(frozen=True)
class BoundPartitioner:
    """A partitioner with its options filled in.

    Parameters
    ----------
    name : its name in the config.
    function : called as ``function(labels, num_clients, rng, **options)``.
    options : its keyword arguments.
    lossy : whether it may leave examples out.
    """

    name: str
    function: Any
    options: Mapping[str, Any]
    lossy: bool = False

    def __call__(
        self, labels: NDArray[np.int64], num_clients: int, rng: np.random.Generator
    ) -> list[Indices]:
        """Split `labels` over `num_clients` clients."""
        return self.function(labels, num_clients, rng, **self.options)


def resolve_partitioner(config: Config) -> BoundPartitioner:
    """Find the config's partitioner and fill in its options.

    Options are its keyword-only parameters, or, for a class, those of its constructor.

    Raises
    ------
    PluginError
        It cannot be found or imported.
    ConfigError
        An option is unknown, missing or of the wrong type.
    """
    name = config.partitioner
    found = load_plugin(name, "fedloge.partitioners", BUILTIN, "partitioner")
    if not callable(found):
        raise ConfigError(f"partitioner {name!r}: expected a function or a class, got {found!r}")
    kind = keyword_options(found, positional=inspect.isclass(found))
    where = f"partitioner-options of {name!r}"
    options = dict(checked_options(kind, config.partitioner_options, where))
    if inspect.isclass(found):
        found, options = found(**options), {}
    return BoundPartitioner(name, found, options, lossy=bool(getattr(found, "lossy", False)))


def partition_rng(seed: int) -> np.random.Generator:
    """The generator that partitioners draw from.

    A Mersenne Twister seeded as ``numpy.random.RandomState(seed)`` is, so that a
    partitioner can repeat the draws of code that was written for RandomState.
    """
    bits = np.random.MT19937()
    state: Any = np.random.RandomState(seed).get_state(legacy=False)
    bits.state = state
    return np.random.Generator(bits)


def make_partition(
    config: Config,
    train_labels: NDArray[np.integer],
    test_labels: NDArray[np.integer],
    num_classes: int,
) -> Partition:
    """Split the training set over the clients and draw their local test sets.

    Parameters
    ----------
    config : gives the partitioner, its options, num-clients and the seed.
    train_labels : of the long-tailed training set, 0..num_classes-1.
    test_labels : of the balanced test set, in which every training class must occur.

    Raises
    ------
    PartitionError
        The partitioner refused or failed, broke the rules, or left a client without examples.
    DataError
        A class of the training set is missing in the test set.
    """
    labels: NDArray[np.int64] = np.asarray(train_labels, dtype=np.int64)
    test_by_class = group_by_owner(np.asarray(test_labels, dtype=np.int64), num_classes)
    for c in np.unique(labels):
        if not len(test_by_class[c]):
            raise DataError(f"class {c} has training examples but none in the test set; add some")

    parts = _run(resolve_partitioner(config), config, labels)
    counts = counts_by_class(parts, labels, num_classes)
    local_counts = local_test_counts(counts, int(counts.sum()), len(test_labels))
    test = tuple(
        local_test_indices(test_by_class, row, rng(config.seed, "local-test", client=k))
        for k, row in enumerate(local_counts)
    )
    if not config.validation_share:
        return Partition(tuple(parts), test, counts, local_counts)
    pairs = [validation_split(config, k, part, labels) for k, part in enumerate(parts)]
    train, held = [kept for kept, _ in pairs], tuple(held for _, held in pairs)
    counts = counts_by_class(train, labels, num_classes)
    return Partition(tuple(train), test, counts, local_counts, held)


def validation_split(
    config: Config, client: int, part: Indices, labels: NDArray[np.integer]
) -> tuple[Indices, Indices]:
    """What a client trains on and what is held out for validation, as the config says."""
    return hold_out(
        part, labels, config.validation_share, rng(config.seed, "validation", client=client)
    )


def _run(partitioner: BoundPartitioner, config: Config, labels: NDArray[np.int64]) -> list[Indices]:
    who = f"partitioner {partitioner.name!r}"
    try:
        parts = partitioner(labels.copy(), config.num_clients, partition_rng(config.seed))
    except FedlogeError:
        raise
    except Exception as exc:
        raise PartitionError(f"{who} failed: {type(exc).__name__}: {exc}") from exc
    verify_parts(parts, len(labels), config.num_clients, lossy=partitioner.lossy, who=who)
    for k, part in enumerate(parts):
        if not len(part):
            raise PartitionError(
                f"{who}: client {k} of {config.num_clients} gets no example; {_remedy(partitioner)}"
                f"lower num-clients ({config.num_clients})"
            )
    return parts


def _remedy(partitioner: BoundPartitioner) -> str:
    if "alpha" in partitioner.options and partitioner.name in BUILTIN:
        return f"raise partitioner-options.alpha ({partitioner.options['alpha']:g}) or "
    return ""
