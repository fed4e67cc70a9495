"""How unlike the clients of a partition are: sizes, classes, imbalance, divergence, coverage of the tail."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int64

from fedloge.rng import rng

MOST_PAIRS = 5_000
"""With more pairs of clients than these, so many are drawn."""


@dataclass(frozen=True)
class Spread:
    """The smallest, the median and the largest of something over the clients."""

    least: float
    median: float
    most: float

    @classmethod
    def of(cls, values: Float[np.ndarray, " clients"] | Int64[np.ndarray, " clients"]) -> Spread:
        """Of some values; all zero without any."""
        if not len(values):
            return cls(0.0, 0.0, 0.0)
        return cls(float(values.min()), float(np.median(values)), float(values.max()))


@dataclass(frozen=True)
class PartitionMeasures:
    """Figures of a table of counts, (clients, classes); clients and classes without images are left out.

    Attributes
    ----------
    sizes : images of a client.
    classes_held : classes of a client.
    effective_classes : of a client, exp of the Shannon entropy of its class shares: as many equally large
        classes would have it. From 1 to the number of classes.
    effective_classes_overall : the same of all clients together.
    imbalance : largest over smallest class, of all clients together.
    local_imbalance : largest over smallest of the classes that a client holds.
    divergence : mean Jensen-Shannon divergence of pairs of clients, in bits: 0 where all have the same class
        shares, 1 where no two share a class. nan for one client.
    pairs, all_pairs : of how many pairs of clients, of how many there are; fewer are drawn from the seed.
    tail_classes : classes that hold the last 5 % of the images, few-shot as in FedLoGe.
    tail_coverage : share of the tail classes that a client holds, on average; nan without any.
    tail_holders : clients that hold a tail class: the fewest, the median and the most.
    """

    clients: int
    images: int
    classes: int
    sizes: Spread
    classes_held: Spread
    effective_classes: Spread
    effective_classes_overall: float
    imbalance: float
    local_imbalance: Spread
    divergence: float
    pairs: int
    all_pairs: int
    tail_classes: int
    tail_coverage: float
    tail_holders: Spread


def measure_partition(
    counts: Int64[np.ndarray, "clients classes"], seed: int = 0
) -> PartitionMeasures:
    """Measure a partition.

    Parameters
    ----------
    counts : images of each class on each client.
    seed : of the pairs that are drawn where there are too many.
    """
    # Of thousands of clients by thousands of classes nearly all cells are empty, so only the others are used.
    cell_client, cell_class = np.nonzero(counts)
    values = counts[cell_client, cell_class]
    _, client = np.unique(cell_client, return_inverse=True)
    _, label = np.unique(cell_class, return_inverse=True)
    sizes, overall = (np.bincount(of, values).astype(np.int64) for of in (client, label))
    held = np.bincount(client)
    starts = np.cumsum(held) - held
    shares = values / sizes[client]
    entropy = -np.bincount(client, shares * np.log2(shares))
    all_shares = overall / sizes.sum()
    dense = np.zeros((len(sizes), len(overall)), dtype=np.float32)
    dense[client, label] = shares
    divergence, pairs = _mean_divergence(dense, entropy, seed)
    tail = few_classes(overall)
    tail_held = np.bincount(label, minlength=len(overall))[tail]
    return PartitionMeasures(
        clients=len(sizes),
        images=int(sizes.sum()),
        classes=len(overall),
        sizes=Spread.of(sizes),
        classes_held=Spread.of(held),
        effective_classes=Spread.of(2**entropy),
        effective_classes_overall=float(2 ** -(all_shares * np.log2(all_shares)).sum()),
        imbalance=float(overall.max() / overall.min()),
        local_imbalance=Spread.of(
            np.maximum.reduceat(values, starts) / np.minimum.reduceat(values, starts)
        ),
        divergence=divergence,
        pairs=pairs,
        all_pairs=len(sizes) * (len(sizes) - 1) // 2,
        tail_classes=int(tail.sum()),
        tail_coverage=float(tail_held.mean() / len(sizes)) if tail.any() else float("nan"),
        tail_holders=Spread.of(tail_held),
    )


def few_classes(overall: Int64[np.ndarray, " classes"]) -> np.ndarray:
    """Which classes are few-shot by the rule ``mass``: those that the last 5 % of the images belong to.

    As `fedloge.learning.metrics.shot_groups`, without torch, whose import takes seconds.
    """
    order = np.argsort(-overall, kind="stable")
    before = np.cumsum(overall[order]) - overall[order]
    few = np.empty(len(overall), dtype=bool)
    few[order] = 100 * before >= 95 * overall.sum()
    return few


def _mean_divergence(
    shares: Float32[np.ndarray, "clients classes"],
    entropy: Float[np.ndarray, " clients"],
    seed: int,
) -> tuple[float, int]:
    """Mean Jensen-Shannon divergence over pairs of clients, and over how many pairs it is.

    That of a pair is the entropy of their mean less the mean of their entropies, in bits.
    """
    clients, classes = shares.shape
    if clients < 2:
        return float("nan"), 0
    first, second = _pairs(clients, seed)
    total, portion = 0.0, max(1, 2_000_000 // classes)
    for start in range(0, len(first), portion):
        a, b = first[start : start + portion], second[start : start + portion]
        mixed = ((shares[a] + shares[b]) / 2).reshape(-1)
        mixed = mixed[mixed > 0]
        total -= float((mixed * np.log2(mixed)).sum(dtype=np.float64))
        total -= float((entropy[a] + entropy[b]).sum() / 2)
    return max(0.0, total / len(first)), len(first)


def _pairs(clients: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of unlike clients, or `MOST_PAIRS` drawn with replacement."""
    if clients * (clients - 1) // 2 <= MOST_PAIRS:
        return np.triu_indices(clients, k=1)
    draw = rng(seed, "pairs-of-clients")
    first = draw.integers(clients, size=MOST_PAIRS)
    return first, (first + draw.integers(1, clients, size=MOST_PAIRS)) % clients
