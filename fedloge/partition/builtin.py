"""The partitioners that come with the framework. Options are keyword-only."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from fedloge.errors import PartitionError
from fedloge.options import Positive
from fedloge.partition.by_user import by_user
from fedloge.partition.partition import Indices, group_by_owner


def dirichlet(
    labels: NDArray[np.int64], num_clients: int, rng: np.random.Generator, *, alpha: Positive = 0.5
) -> list[Indices]:
    """Label skew: each class is spread over the clients by its own Dirichlet(alpha) draw.

    For each class p ~ Dir(alpha 1_K), then each image of the class goes to a client
    drawn with p (FedLoGe, ICLR 2024, section 4). Draws in the order of the authors'
    released code: with the generator `fedloge.partition.partition_rng` gives, the split
    is theirs, bit for bit.

    Parameters
    ----------
    alpha : concentration, > 0; smaller is more skewed.

    Raises
    ------
    PartitionError
        `alpha` is so small that a draw has no finite shares.
    """
    num_classes = int(labels.max()) + 1
    legacy = np.random.RandomState(rng.bit_generator)
    # The authors' code draws this mask of ones; leaving it out would shift what follows.
    legacy.binomial(1, 1, size=(num_clients, num_classes))
    owners = np.empty(len(labels), dtype=np.int64)
    for images in group_by_owner(labels, num_classes):
        shares = legacy.dirichlet([alpha] * num_clients)
        # With a tiny alpha every gamma variate underflows to 0, and 0/0 is no share.
        if not np.isfinite(shares).all():
            raise PartitionError(
                f"partitioner 'dirichlet': alpha ({alpha:g}) is too small to draw with; raise it"
            )
        owners[images] = legacy.choice(num_clients, size=len(images), p=shares)
    return group_by_owner(owners, num_clients)


def iid(labels: NDArray[np.int64], num_clients: int, rng: np.random.Generator) -> list[Indices]:
    """No skew: images at random, sizes that differ by one at most. Not stratified by class."""
    return group_by_owner(rng.permutation(len(labels)) % num_clients, num_clients)


def pathological(
    labels: NDArray[np.int64],
    num_clients: int,
    rng: np.random.Generator,
    *,
    classes_per_client: int = 2,
) -> list[Indices]:
    """Few classes a client: each client holds exactly `classes_per_client` of them.

    In the spirit of the shards of McMahan et al. (AISTATS 2017), but for long tails:
    every class has a holder, as many holders as any other as far as its images go
    round, and its images are split evenly over them.

    Parameters
    ----------
    classes_per_client : 1..classes.

    Raises
    ------
    PartitionError
        There are too few clients to hold every class, or too few images to go round.
    """
    by_class = [images for images in group_by_owner(labels, int(labels.max()) + 1) if len(images)]
    sizes = np.array([len(images) for images in by_class])
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
            f"{who} need {slots} pairs of client and class, but the images of {num_classes} classes "
            f"make {most} at most; lower classes-per-client or num-clients"
        )
    owners = np.empty(len(labels), dtype=np.int64)
    free = np.full(num_clients, classes_per_client)
    num_holders = _even_holders(sizes, num_clients, slots)
    for i in rng.permutation(num_classes):
        # Those with most classes still to come go first, chance breaking ties: so nobody
        # is left with more to come than there are classes (Ryser's construction).
        order = np.lexsort((rng.random(num_clients), -free))
        holders = order[: num_holders[i]]
        free[holders] -= 1
        images = rng.permutation(by_class[i])
        owners[images] = holders[np.arange(len(images)) % len(holders)]
    return group_by_owner(owners, num_clients)


def quantity(
    labels: NDArray[np.int64], num_clients: int, rng: np.random.Generator, *, alpha: Positive = 0.5
) -> list[Indices]:
    """Size skew: the clients' sizes follow one Dirichlet(alpha) draw, labels are iid.

    Parameters
    ----------
    alpha : concentration, > 0; smaller is more skewed.
    """
    shares = rng.dirichlet(np.full(num_clients, alpha))
    ends = np.floor(np.cumsum(shares) * len(labels)).astype(np.int64)
    position = rng.permutation(len(labels))
    return group_by_owner(np.searchsorted(ends[:-1], position, side="right"), num_clients)


def _even_holders(sizes: NDArray[np.int64], num_clients: int, slots: int) -> NDArray[np.int64]:
    """Holders of each class: `slots` in all, at most one an image, else as even as can be."""
    most = np.minimum(sizes, num_clients)
    level = next(n for n in range(1, num_clients + 1) if np.minimum(most, n).sum() >= slots)
    holders = np.minimum(most, level)
    # One too many at some of the fullest classes: the scarcer of them give way.
    at_level = np.flatnonzero(holders == level)
    surplus = int(holders.sum()) - slots
    holders[at_level[np.argsort(sizes[at_level], kind="stable")][:surplus]] -= 1
    return holders


BUILTIN: Mapping[str, Callable[..., list[Indices]]] = {
    "dirichlet": dirichlet,
    "iid": iid,
    "pathological": pathological,
    "quantity": quantity,
    "user": by_user,
}
