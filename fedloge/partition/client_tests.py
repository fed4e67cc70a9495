"""What each client is tested on: three rules, ``matched``, ``given`` and ``own``.

``matched``, the paper's: from a common test set client k gets floor(n_{k,c} / N * T) examples of
class c. n_{k,c} counts its training examples of that class, N those of all clients, T is the size of the
test set. Clients may be given the same example, and small clients of a small test set get none.

``given``: the test images that the data name, each used once. Where a column says whose an image is, a
client gets its own; elsewhere the images of a class are dealt out in proportion to n_{k,c}.

``own``: a share of each client's own images (`fedloge.partition.held_out`), on which nobody trains.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from fedloge.config import Config
from fedloge.data.manifest import Manifest
from fedloge.errors import DataError
from fedloge.partition.partition import Indices, NamedParts, group_by_owner
from fedloge.partition.whole_numbers import apportioned
from fedloge.rng import rng

log = logging.getLogger(__name__)


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


def rule_of_tests(
    config: Config, num_test: int, parts: list[Indices], manifest: Manifest | None
) -> str:
    """The rule that the config means: ``matched``, ``given`` or ``own``.

    ``auto`` is ``matched`` for a benchmark's data. For your own it is ``given`` where there are test images
    and, if clients are named by a column, that column is known of the test images too; else ``own``.

    Parameters
    ----------
    num_test : test images that the data name.
    parts : the clients' images.
    manifest : of the test set.

    Raises
    ------
    DataError
        The config asks for a rule that needs test images, and there are none.
    """
    if config.test_split in ("matched", "given") and not num_test:
        raise DataError(
            f"test-split={config.test_split} needs test images, and the data name none; add some, or set "
            "test-split=own to test each client on a share of its own images"
        )
    if config.test_split != "auto":
        return config.test_split
    if config.is_benchmark:
        return "matched"
    named = isinstance(parts, NamedParts) and bool(parts.column)
    return "given" if num_test and (not named or _whose(parts, manifest) is not None) else "own"


def matched_tests(
    config: Config,
    train_counts: Int64[np.ndarray, "clients classes"],
    test_labels: NDArray[np.integer],
) -> tuple[Indices, ...]:
    """Each client's tests by the rule ``matched``. `DataError`: a training class has no test image."""
    num_classes = train_counts.shape[1]
    by_class = group_by_owner(np.asarray(test_labels, dtype=np.int64), num_classes)
    for c in np.flatnonzero(train_counts.sum(axis=0)):
        if not len(by_class[c]):
            raise DataError(
                f"class {c} has training examples but none in the test set; add some, or set test-split=own"
            )
    counts = local_test_counts(train_counts, int(train_counts.sum()), len(test_labels))
    return tuple(
        local_test_indices(by_class, row, rng(config.seed, "local-test", client=k))
        for k, row in enumerate(counts)
    )


def given_tests(
    config: Config,
    parts: list[Indices],
    train_counts: Int64[np.ndarray, "clients classes"],
    test_labels: NDArray[np.integer],
    manifest: Manifest | None,
) -> tuple[Indices, ...]:
    """Each client's tests by the rule ``given``: every test image once, with its owner where one is known."""
    owners = _whose(parts, manifest)
    if owners is not None:
        nobodys = int((owners < 0).sum())
        if nobodys:
            log.warning(
                "%d of %d test images belong to no client that trains; they test the global model only",
                nobodys,
                len(owners),
            )
        # Those that are nobody's are put last, and left out.
        return tuple(
            group_by_owner(np.where(owners < 0, len(parts), owners), len(parts) + 1)[: len(parts)]
        )
    num_clients, num_classes = train_counts.shape
    owner = np.full(len(test_labels), num_clients)
    draw = rng(config.seed, "given-test")
    by_class = group_by_owner(np.asarray(test_labels, dtype=np.int64), num_classes)
    for c, members in enumerate(by_class):
        held = train_counts[:, c].astype(np.float64)
        if len(members) and held.any():
            counts = apportioned(held, len(members))
            owner[draw.permutation(members)] = np.repeat(np.arange(num_clients), counts)
    return tuple(group_by_owner(owner, num_clients + 1)[:num_clients])


def _whose(parts: list[Indices], manifest: Manifest | None) -> NDArray[np.int64] | None:
    """For each test image the client that it belongs to, -1 for nobody's; None if no column says it."""
    if not isinstance(parts, NamedParts) or not parts.column or manifest is None:
        return None
    if parts.column not in manifest:
        return None
    client_of = {name: k for k, own in enumerate(parts.members) for name in own}
    names, number = manifest.numbered(parts.column)
    if not any(names):  # the column is there, but empty
        return None
    return np.array([client_of.get(name, -1) for name in names], dtype=np.int64)[number]
