"""The partitioners that come with fedloge. Their options are keyword-only parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from fedloge.errors import PartitionError
from fedloge.partition.explicit import explicit
from fedloge.partition.flower_partitioners import flwr_datasets
from fedloge.partition.label_skew import dirichlet, local_tails, shards
from fedloge.partition.natural import feature, natural
from fedloge.partition.partition import Indices, group_by_owner
from fedloge.partition.size_skew import label_and_quantity, quantity


def iid(labels: NDArray[np.int64], num_clients: int, rng: np.random.Generator) -> list[Indices]:
    """No skew: examples at random, sizes that differ by at most one. Not stratified by class."""
    return group_by_owner(rng.permutation(len(labels)) % num_clients, num_clients)


def pathological(
    labels: NDArray[np.int64],
    num_clients: int,
    rng: np.random.Generator,
    *,
    classes_per_client: int = 2,
) -> list[Indices]:
    """Few classes per client: each client holds exactly `classes_per_client` of them.

    In the spirit of the shards of McMahan et al. (AISTATS 2017), but for long tails. Every
    class is held by at least one client, and by as many as any other class if it has enough
    examples. Its examples are split evenly over the clients that hold it.

    Parameters
    ----------
    classes_per_client : from 1 to the number of classes.

    Raises
    ------
    PartitionError
        There are too few clients to hold every class, or too few examples to go round.
    """
    groups = group_by_owner(labels, int(labels.max()) + 1)
    by_class = [members for members in groups if len(members)]
    sizes = np.array([len(members) for members in by_class])
    num_classes = len(by_class)
    slots = num_clients * classes_per_client
    who = f"partitioner 'pathological': {num_clients} clients of {classes_per_client} classes each"
    if not 1 <= classes_per_client <= num_classes:
        raise PartitionError(
            f"partitioner 'pathological': classes-per-client must be in 1..{num_classes}, "
            f"got {classes_per_client}"
        )
    if slots < num_classes:
        raise PartitionError(
            f"{who} cannot cover {num_classes} classes; raise classes-per-client or num-clients"
        )
    most = int(np.minimum(sizes, num_clients).sum())
    if most < slots:
        raise PartitionError(
            f"{who} need {slots} pairs of client and class, but the examples of {num_classes} classes "
            f"make {most} at most; lower classes-per-client or num-clients"
        )
    owners = np.empty(len(labels), dtype=np.int64)
    free = np.full(num_clients, classes_per_client)
    num_holders = _even_holders(sizes, num_clients, slots)
    for i in rng.permutation(num_classes):
        # The clients that still need most classes come first, in random order among equals. So
        # no client ends up needing more classes than are left (Ryser's construction).
        order = np.lexsort((rng.random(num_clients), -free))
        holders = order[: num_holders[i]]
        free[holders] -= 1
        members = rng.permutation(by_class[i])
        owners[members] = holders[np.arange(len(members)) % len(holders)]
    return group_by_owner(owners, num_clients)


def _even_holders(sizes: NDArray[np.int64], num_clients: int, slots: int) -> NDArray[np.int64]:
    """How many clients hold each class: `slots` in all, at most one per example, else as even as can be."""
    most = np.minimum(sizes, num_clients)
    level = next(n for n in range(1, num_clients + 1) if np.minimum(most, n).sum() >= slots)
    holders = np.minimum(most, level)
    # The sum may now be too large. Of the classes with most holders, those with fewest examples
    # give one up.
    at_level = np.flatnonzero(holders == level)
    surplus = int(holders.sum()) - slots
    holders[at_level[np.argsort(sizes[at_level], kind="stable")][:surplus]] -= 1
    return holders


BUILTIN: Mapping[str, Callable[..., list[Indices]]] = {
    "dirichlet": dirichlet,
    "explicit": explicit,
    "feature": feature,
    "flwr-datasets": flwr_datasets,
    "iid": iid,
    "label-and-quantity": label_and_quantity,
    "local-tails": local_tails,
    "natural": natural,
    "pathological": pathological,
    "quantity": quantity,
    "shards": shards,
}
