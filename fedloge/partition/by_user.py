"""Clients that are people: each user's images stay together. A table says whose they are.

Hsu, Qi and Brown 2020, "Federated Visual Classification with Real-World Data
Distribution" (ECCV), split iNaturalist this way: iNaturalist-User-120k.
"""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedloge.errors import PartitionError
from fedloge.partition.partition import Indices, group_by_owner

_USER, _CLASS, _IMAGE = ("user_id", "user"), ("class",), ("image_id", "image")


def by_user(
    labels: NDArray[np.int64], num_clients: int, rng: np.random.Generator, *, table: str
) -> list[Indices]:
    """Natural skew: whole users go to clients, by a table of (image, user, class).

    With as many clients as users, client k is the k-th user. With fewer, the users are
    dealt out in random order, so that the clients' numbers of users differ by at most one.
    No user is ever split.

    Parameters
    ----------
    table : CSV file, ``.gz`` or plain, with one line per training image and the columns
        ``user_id`` (or ``user``), ``class`` and, optionally, ``image_id`` (or ``image``). Its
        classes in alphabetical order are the labels 0, 1, ... The lines of a class, sorted by
        image name, belong to the training images of that class in their order. This is the
        order of an image folder ``train/<class>/<image>``. Without image names the lines of a
        class are taken in the table's order.

    Raises
    ------
    PartitionError
        The table cannot be read or describes other images, or there are too few users.
    """
    users, classes = _read(Path(table).expanduser())
    _check(table, classes, labels)
    # Both sides are sorted by class, so that the i-th image of a class meets its i-th line.
    user_of = np.empty(len(labels), dtype=np.int64)
    names, ranks = np.unique(users, return_inverse=True)
    user_of[np.argsort(labels, kind="stable")] = ranks[np.argsort(classes, kind="stable")]
    if len(names) < num_clients:
        raise PartitionError(
            f"partitioner 'user': {table} has {len(names)} users, too few for {num_clients} "
            f"clients; lower num-clients to at most {len(names)}"
        )
    client_of = np.arange(len(names))
    if len(names) > num_clients:
        client_of = rng.permutation(len(names)) % num_clients
    return group_by_owner(client_of[user_of], num_clients)


def _read(path: Path) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """User and class of each line, in the order of the images' names."""
    try:
        with path.open("rb") as raw:
            file = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
            lines = csv.reader(io.TextIOWrapper(file, "utf-8", newline=""))
            header = next(lines, [])
            user, label = _column(path, header, _USER), _column(path, header, _CLASS)
            image = next((header.index(name) for name in _IMAGE if name in header), None)
            rows = [row for row in lines if row]
    except (OSError, EOFError, ValueError, csv.Error) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
        raise PartitionError(
            f"partitioner 'user': {path} cannot be read ({reason}); expected a CSV file with "
            "columns user_id, class and image_id"
        ) from None
    short = next((n for n, row in enumerate(rows, start=2) if len(row) != len(header)), None)
    if short is not None:
        raise PartitionError(
            f"partitioner 'user': {path}: line {short} has {len(rows[short - 2])} values, "
            f"expected {len(header)} as in its first line"
        )
    if image is not None:
        rows.sort(key=lambda row: row[image])
    return np.array([row[user] for row in rows]), np.array([row[label] for row in rows])


def _column(path: Path, header: list[str], names: tuple[str, ...]) -> int:
    for name in names:
        if name in header:
            return header.index(name)
    raise PartitionError(
        f"partitioner 'user': {path} has no column {names[0]!r}, only {', '.join(header) or 'none'}; "
        "expected columns user_id, class and image_id"
    )


def _check(table: str, classes: NDArray[np.str_], labels: NDArray[np.int64]) -> None:
    names, expected = np.unique(classes, return_counts=True)
    found = np.bincount(labels)
    if len(found) != len(names):
        raise PartitionError(
            f"partitioner 'user': {table} has {len(names)} classes, the training set {len(found)}; "
            "give the table of this training set"
        )
    unequal = np.flatnonzero(found != expected)
    if len(unequal):
        c = unequal[0]
        raise PartitionError(
            f"partitioner 'user': {table} has {expected[c]} images of class {str(names[c])!r}, the "
            f"training set {found[c]}; give the table of this training set, and long-tail = none"
        )
