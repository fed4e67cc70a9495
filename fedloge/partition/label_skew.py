"""Label skew: clients whose classes are mixed differently."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float, Int64
from numpy.typing import NDArray

from fedloge.errors import PartitionError
from fedloge.options import NotNegativeWhole, Positive
from fedloge.partition.partition import Indices, group_by_owner
from fedloge.partition.whole_numbers import apportioned, fitted, refuse_too_many


def dirichlet(
    labels: NDArray[np.int64],
    num_clients: int,
    rng: np.random.Generator,
    *,
    alpha: Positive = 0.5,
    by: Literal["class", "client"] = "class",
    min_size: NotNegativeWhole = 0,
) -> list[Indices]:
    """Label skew by Dirichlet draws, one for each class or one for each client.

    ``by = "class"``: for each class p ~ Dir(alpha 1_K), then each example of the class goes to a
    client drawn from p (FedLoGe, ICLR 2024, section 4). The draws come in the order of the
    authors' released code. With the generator of `fedloge.partition.partition_rng` the split is
    exactly theirs. Sizes differ.

    ``by = "client"``: each client has a mix of classes q ~ Dir(alpha C p), where p are the shares of
    the classes in the training set and C is their number (Hsu, Qi and Brown 2019, whose concentration
    is alpha C). Sizes differ by one at most. One client after the other draws from what is left,
    so with a small alpha the last ones get what the others have not drawn.

    Parameters
    ----------
    alpha : concentration, > 0; smaller is more skewed.
    min_size : examples that every client has at least. Clients with fewer get some, at random, from the
        clients that have most; so what is drawn keeps its law except for these.

    Raises
    ------
    PartitionError
        `min_size` is more than there is for each client, or `alpha` is so small that a draw has no
        finite shares.
    """
    refuse_too_many(
        "partitioner 'dirichlet'",
        num_clients,
        min_size,
        len(labels),
        "partitioner-options.min-size",
    )
    if by == "client":
        sizes = apportioned(np.ones(num_clients), len(labels))
        mixes = client_mixes(labels, num_clients, alpha, rng, "dirichlet")
        return drawn_by_client(labels, sizes, mixes, rng)
    num_classes = int(labels.max()) + 1
    legacy = np.random.RandomState(rng.bit_generator)
    # The authors' code draws this mask of ones. Without it all later draws would differ.
    legacy.binomial(1, 1, size=(num_clients, num_classes))
    owners = np.empty(len(labels), dtype=np.int64)
    for members in group_by_owner(labels, num_classes):
        shares = legacy.dirichlet([alpha] * num_clients)
        # With a tiny alpha every gamma variate underflows to 0, and the shares are 0/0.
        if not np.isfinite(shares).all():
            raise _too_small("dirichlet", alpha)
        owners[members] = legacy.choice(num_clients, size=len(members), p=shares)
    _lift(owners, num_clients, min_size, rng)
    return group_by_owner(owners, num_clients)


def shards(
    labels: NDArray[np.int64],
    num_clients: int,
    rng: np.random.Generator,
    *,
    shards_per_client: NotNegativeWhole = 2,
) -> list[Indices]:
    """Shards: the examples sorted by class, cut into equal runs, which are dealt out at random.

    McMahan et al. (AISTATS 2017), section 3. Sizes of shards differ by one at most. On a long tail a
    shard of the tail holds many classes, unlike one of the head; `pathological` holds their number fixed.

    Parameters
    ----------
    shards_per_client : at least 1.

    Raises
    ------
    PartitionError
        There are fewer examples than shards.
    """
    count = num_clients * shards_per_client
    if not 1 <= count <= len(labels):
        raise PartitionError(
            f"partitioner 'shards': {num_clients} clients of {shards_per_client} shards need {count} shards, "
            f"of {len(labels)} examples; expected 1 shard to {len(labels)}: change "
            "partitioner-options.shards-per-client or num-clients"
        )
    # Within a class the order is random, so that a class that is cut is cut at random.
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    owner_of_shard = rng.permutation(count) % num_clients
    owners = np.empty(len(labels), dtype=np.int64)
    owners[order] = np.repeat(owner_of_shard, apportioned(np.ones(count), len(labels)))
    return group_by_owner(owners, num_clients)


def local_tails(
    labels: NDArray[np.int64],
    num_clients: int,
    rng: np.random.Generator,
    *,
    imbalance_factor: Positive = 0.1,
    own_heads: Literal["spread", "random"] = "spread",
) -> list[Indices]:
    """Every client has a long tail of its own, with its own head; nothing is left out.

    Client k's classes, in an order of its own, follow IF^(r / (C - 1)) at rank r. With a balanced
    training set (``long-tail = "none"``) all clients together stay balanced: long-tailed locally,
    balanced globally. With a tail over all (``long-tail = "exp"``) both are mixed: a client's
    share of a class is the class's own size times the client's tail. The counts are fitted so that
    every example is held once and clients are of nearly equal size (`fitted`), so a client's own
    factor is near what is asked, and exact where the heads are spread evenly over the classes.

    The settings are those of Chen et al. 2022, "Towards Federated Long-Tailed Learning".

    Parameters
    ----------
    imbalance_factor : IF of each client, smallest over largest class, in (0, 1].
    own_heads : ``spread``: clients take turns at the head, each with the order of the classes turned on;
        ``random``: each client orders the classes at random.

    Raises
    ------
    PartitionError
        The factor is above 1, or a client would get nothing.
    """
    if imbalance_factor > 1:
        raise PartitionError(
            "partitioner 'local-tails': imbalance-factor must be in (0, 1], "
            f"got {imbalance_factor:g}"
        )
    counts = np.bincount(labels)
    classes = np.flatnonzero(counts)
    ranks = np.arange(len(classes))
    tail = imbalance_factor ** (ranks / max(1, len(classes) - 1))
    weights = np.empty((num_clients, len(classes)))
    turns, order = rng.permutation(num_clients), rng.permutation(len(classes))
    for k in range(num_clients):
        first = turns[k] % len(classes)
        own = np.roll(order, -first) if own_heads == "spread" else rng.permutation(len(classes))
        weights[k, own] = tail
    sizes = np.full(num_clients, len(labels) / num_clients)
    table = fitted(weights * counts[classes], sizes, counts[classes])
    owners = np.empty(len(labels), dtype=np.int64)
    groups = group_by_owner(labels, len(counts))
    for column, c in enumerate(classes):
        owners[rng.permutation(groups[c])] = np.repeat(np.arange(num_clients), table[:, column])
    return group_by_owner(owners, num_clients)


def client_mixes(
    labels: NDArray[np.int64],
    num_clients: int,
    alpha: float,
    rng: np.random.Generator,
    partitioner: str,
) -> Float[np.ndarray, "clients classes"]:
    """For each client its shares of the classes, q ~ Dir(alpha C p); p are the shares in `labels`.

    `PartitionError`, which names the partitioner: `alpha` is so small that a draw has no finite shares.
    """
    counts = np.bincount(labels)
    classes = np.flatnonzero(counts)
    drawn = rng.dirichlet(alpha * len(classes) * counts[classes] / len(labels), size=num_clients)
    if not np.isfinite(drawn).all() or np.abs(drawn.sum(axis=1) - 1).max() > 1e-6:
        raise _too_small(partitioner, alpha)
    mixes = np.zeros((num_clients, len(counts)))
    mixes[:, classes] = drawn
    return mixes


def drawn_by_client(
    labels: NDArray[np.int64],
    sizes: Int64[np.ndarray, " clients"],
    mixes: Float[np.ndarray, "clients classes"],
    rng: np.random.Generator,
) -> list[Indices]:
    """Client k draws ``sizes[k]`` examples by its mix of classes; a class that is used up is left out of it."""
    num_classes = mixes.shape[1]
    pools = [rng.permutation(members) for members in group_by_owner(labels, num_classes)]
    left = np.array([len(pool) for pool in pools])
    owners = np.empty(len(labels), dtype=np.int64)
    for client, size in enumerate(sizes.tolist()):
        while size:
            shares = np.where(left > 0, mixes[client], 0.0)
            if shares.sum() < 1e-12:  # nothing is left of this client's classes
                shares = left.astype(np.float64)
            drawn = np.minimum(rng.multinomial(size, shares / shares.sum()), left)
            for c in np.flatnonzero(drawn):
                owners[pools[c][left[c] - drawn[c] : left[c]]] = client
            left -= drawn
            size -= int(drawn.sum())
    return group_by_owner(owners, len(sizes))


def _lift(
    owners: NDArray[np.int64], num_clients: int, min_size: int, rng: np.random.Generator
) -> None:
    """Give clients with fewer than `min_size` examples some of the clients that have most, in place."""
    sizes = np.bincount(owners, minlength=num_clients)
    for client in np.flatnonzero(sizes < min_size).tolist():
        while (need := min_size - sizes[client]) > 0:
            donor = int(sizes.argmax())
            # Not below the second largest, so that many give a little rather than one much.
            spare = max(1, sizes[donor] - int(np.partition(sizes, -2)[-2]))
            given = min(need, spare, sizes[donor] - min_size)
            members = np.flatnonzero(owners == donor)
            owners[rng.choice(members, size=given, replace=False, shuffle=False)] = client
            sizes[donor] -= given
            sizes[client] += given


def _too_small(partitioner: str, alpha: float) -> PartitionError:
    return PartitionError(
        f"partitioner {partitioner!r}: alpha ({alpha:g}) is too small to draw with; raise it"
    )
