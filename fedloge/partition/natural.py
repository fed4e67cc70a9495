"""Clients and skews that the data name: people, hospitals, cameras, styles.

Hsu, Qi and Brown 2020, "Federated Visual Classification with Real-World Data Distribution" (ECCV),
split iNaturalist by who took the picture: iNaturalist-User-120k.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedloge.data.manifest import Manifest
from fedloge.errors import PartitionError
from fedloge.options import NotNegativeWhole, Positive
from fedloge.partition.label_skew import client_mixes, drawn_by_client
from fedloge.partition.partition import Indices, NamedParts, group_by_owner
from fedloge.partition.whole_numbers import apportioned, refuse_too_many


def natural(
    labels: NDArray[np.int64],
    num_clients: int,
    rng: np.random.Generator,
    *,
    manifest: Manifest,
    by: str = "site",
) -> list[Indices]:
    """Natural skew: who holds an image is what the data say; clients keep their names.

    Parameters
    ----------
    num_clients : 0: every value of the column is a client, in ascending order of the values. With fewer
        clients than values, the values are dealt out in random order, so that the clients' numbers of
        values differ by at most one. No value is ever split.
    by : the column of the manifest: ``site``, or any other that the data have.

    Raises
    ------
    DataError
        There is no such column.
    PartitionError
        An image has no value there, or there are too few values.
    """
    names, owner = _values(manifest, by, "natural")
    count = num_clients or len(names)
    if len(names) < count:
        raise PartitionError(
            f"partitioner 'natural': {by!r} has {len(names)} values, too few for {count} clients; lower "
            f"num-clients to at most {len(names)}, or set it to 0 for all of them"
        )
    client_of = np.arange(len(names))
    if len(names) > count:
        client_of = rng.permutation(len(names)) % count
    members: list[list[str]] = [[] for _ in range(count)]
    for name, client in zip(names, client_of.tolist(), strict=True):
        members[client].append(name)
    parts = group_by_owner(client_of[owner], count)
    return NamedParts(parts, [tuple(own) for own in members], by)


def feature(
    labels: NDArray[np.int64],
    num_clients: int,
    rng: np.random.Generator,
    *,
    manifest: Manifest,
    by: str = "site",
    alpha: Positive = 0.5,
    min_size: NotNegativeWhole = 1,
) -> list[Indices]:
    """Feature skew: each client has a mix of domains (styles, cameras) of its own, q ~ Dir(alpha D p).

    p are the domains' shares of the training set, D is their number. Sizes differ by one at most. Within
    a domain the labels are iid.

    Parameters
    ----------
    by : the column of the manifest that names an image's domain.
    alpha : concentration, > 0; smaller is more skewed.
    min_size : examples that every client has at least.

    Raises
    ------
    DataError
        There is no such column.
    PartitionError
        An image has no domain, or there are too few examples.
    """
    _, domain = _values(manifest, by, "feature")
    refuse_too_many(
        "partitioner 'feature'",
        num_clients,
        min_size,
        len(labels),
        "partitioner-options.min-size",
    )
    mixes = client_mixes(domain, num_clients, alpha, rng, "feature")
    return drawn_by_client(domain, apportioned(np.ones(num_clients), len(labels)), mixes, rng)


def _values(
    manifest: Manifest, by: str, partitioner: str
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The values of a column and each image's, as a position among them; none may be missing."""
    names, number = manifest.numbered(by)
    if "" in names:
        empty = number == names.index("")
        raise PartitionError(
            f"partitioner {partitioner!r}: {int(empty.sum())} of {len(number)} training images have no "
            f"{by!r} (the first is image {int(np.argmax(empty))}); give them one, or name another column "
            "with partitioner-options.by"
        )
    return names, number
