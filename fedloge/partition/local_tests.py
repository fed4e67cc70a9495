"""Local test sets: what each client is tested on follows what it trains on.

Client k gets floor(n_{k,c} / N * T) examples of class c from the balanced test set of T
examples. n_{k,c} counts its training examples of that class, N the training examples of
all clients.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from fedloge.partition.partition import Indices


def local_test_counts(
    train_counts: Int64[np.ndarray, "clients classes"], num_train: int, num_test: int
) -> Int64[np.ndarray, "clients classes"]:
    """floor(n_{k,c} / `num_train` * `num_test`), computed in integers, so exactly."""
    return train_counts * num_test // num_train


def local_test_indices(
    test_by_class: Sequence[Indices], counts: NDArray[np.int64], rng: np.random.Generator
) -> Indices:
    """Draw one client's test examples: ascending indices into the balanced test set.

    Parameters
    ----------
    test_by_class : for each class, the indices of its test examples
        (``group_by_owner(test_labels, num_classes)``).
    counts : (classes,), how many to draw of each class, without replacement. If a class has
        fewer examples, all of them are taken as often as they fit, and the rest is drawn.
    rng : a generator for this client only.
    """
    drawn = [np.empty(0, dtype=np.int64)]
    for c in np.flatnonzero(counts).tolist():
        members = test_by_class[c]
        copies, rest = divmod(int(counts[c]), len(members))
        drawn += [members] * copies
        drawn.append(rng.choice(members, size=rest, replace=False, shuffle=False))
    return np.sort(np.concatenate(drawn))
