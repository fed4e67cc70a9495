"""Examples that a client does not train on: a share of its own, for validation or for its tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedloge.partition.partition import Indices


def hold_out(
    part: Indices,
    labels: NDArray[np.integer],
    share: float,
    rng: np.random.Generator,
    groups: NDArray[np.int64] | None = None,
) -> tuple[Indices, Indices]:
    """One client's examples, divided into those to train on and those held out; both ascending.

    Stratified: of each class `share` of the examples are held out, rounded down. The classes that
    were rounded most give one more each, until `share` of all examples are held out. No class
    gives its last example.

    With `groups` (a patient, an animal) no group is torn: whole groups are held out, in random order,
    each if it brings the held-out counts of the classes nearer to their share. No class gives its last
    group, so a client of one group holds nothing out.

    Parameters
    ----------
    part : the client's examples, positions in `labels`.
    labels : labels of the whole training set.
    share : share of the client's examples to hold out, 0 <= share < 1.
    rng : a generator for this client only.
    groups : the group of each example of the whole training set; None: every example is its own.
    """
    classes = labels[part]
    sizes = np.bincount(classes) if len(part) else np.zeros(0, dtype=np.int64)
    wanted = share * sizes
    if groups is not None:
        out = part[_whole_groups(groups[part], classes, wanted, rng)]
        return np.setdiff1d(part, out, assume_unique=True), out
    given = np.floor(wanted).astype(np.int64)
    missing = round(share * len(part)) - int(given.sum())
    # Ties go to the larger class, which can spare one more easily.
    for c in np.lexsort((-sizes, given - wanted)):
        if missing <= 0:
            break
        if given[c] + 1 < sizes[c]:
            given[c] += 1
            missing -= 1
    by_class, ends = part[np.argsort(classes, kind="stable")], np.cumsum(sizes)
    held = [
        rng.choice(
            by_class[ends[c] - sizes[c] : ends[c]], int(given[c]), replace=False, shuffle=False
        )
        for c in np.flatnonzero(given)
    ]
    out = np.sort(np.concatenate([np.empty(0, dtype=np.int64), *held]))
    return np.setdiff1d(part, out, assume_unique=True), out


def _whole_groups(
    groups: NDArray[np.int64],
    classes: NDArray[np.integer],
    wanted: NDArray[np.floating],
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Which of a client's examples are held out, group by group."""
    out = np.zeros(len(groups), dtype=bool)
    if not len(groups):
        return out
    names, place = np.unique(groups, return_inverse=True)
    held = np.zeros(len(wanted))
    # How many groups that still train have each class.
    pairs = np.unique(np.stack([place, classes]), axis=1)
    having = np.bincount(pairs[1], minlength=len(wanted))
    members = np.split(
        np.argsort(place, kind="stable"), np.cumsum(np.bincount(place))[:-1].tolist()
    )
    for g in rng.permutation(len(names)):
        counts = np.bincount(classes[members[g]], minlength=len(wanted))
        there = counts > 0
        nearer = np.abs(held + counts - wanted).sum() < np.abs(held - wanted).sum()
        if nearer and (having[there] > 1).all():
            held += counts
            having[there] -= 1
            out[members[g]] = True
    return out
