"""Validation examples: a share of what each client trains on, held out for choosing among settings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedloge.partition.partition import Indices


def hold_out(
    part: Indices, labels: NDArray[np.integer], share: float, rng: np.random.Generator
) -> tuple[Indices, Indices]:
    """One client's examples, divided into those to train on and those held out; both ascending.

    Stratified: of each class `share` of the examples are held out, rounded down. The classes that
    were rounded most give one more each, until `share` of all examples are held out. No class
    gives its last example.

    Parameters
    ----------
    part : the client's examples, positions in `labels`.
    labels : labels of the whole training set.
    share : share of the client's examples to hold out, 0 <= share < 1.
    rng : a generator for this client only.
    """
    classes = labels[part]
    sizes = np.bincount(classes) if len(part) else np.zeros(0, dtype=np.int64)
    wanted = share * sizes
    given = np.floor(wanted).astype(np.int64)
    missing = round(share * len(part)) - int(given.sum())
    # Ties go to the larger class, which can spare one more easily.
    for c in np.lexsort((-sizes, given - wanted)):
        if missing > 0 and given[c] + 1 < sizes[c]:
            given[c] += 1
            missing -= 1
    held = [
        rng.choice(part[classes == c], size=int(given[c]), replace=False, shuffle=False)
        for c in np.flatnonzero(given)
    ]
    out = np.sort(np.concatenate([np.empty(0, dtype=np.int64), *held]))
    return np.setdiff1d(part, out, assume_unique=True), out
