"""A partition as a JSON file with a checksum: written, read, and used as a partitioner.

The file holds everything of a `Partition` but the class counts, which follow from the labels::

    {"format": "fedloge-partition", "version": 1,
     "examples": 13996, "labels": "<hash of the training labels>", "test-examples": 10000,
     "test-split": "own", "own-test": [...], "held-out-clients": [3], "left-out": 0,
     "clients": [{"name": "ann", "train": [...], "validation": [...], "test": [...]}, ...],
     "checksum": "<hash of all the rest>"}

Numbers of images are positions in the training set, those of tests in the test set with the images
of ``own-test`` behind it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloge.atomic_files import write_atomically
from fedloge.config.reading import read_json
from fedloge.digest import digest
from fedloge.errors import PartitionError
from fedloge.partition.partition import Indices, NamedParts, Partition, counts_by_class

_FORMAT, _VERSION = "fedloge-partition", 1
_LISTS = ("train", "validation", "test")


def explicit(
    labels: NDArray[np.int64], num_clients: int, rng: np.random.Generator, *, file: str
) -> list[Indices]:
    """Who holds what is read from a file that `write_partition` (``fedloge partition --out``) wrote.

    A client's images are those that it trained on, and those held out from them for validation or
    its own tests. What is held out is drawn anew, as the config says.

    Parameters
    ----------
    num_clients : as in the file, or 0.
    file : path of the file.

    Raises
    ------
    PartitionError
        The file cannot be read, is damaged, or is of other data or another number of clients.
    """
    content = _read(Path(file).expanduser(), labels)
    clients = content["clients"]
    if num_clients not in (0, len(clients)):
        raise PartitionError(
            f"partitioner 'explicit': {file} has {len(clients)} clients, num-clients is {num_clients}; "
            f"set num-clients={len(clients)}"
        )
    own, tests = np.array(content["own-test"], dtype=np.int64), content["test-examples"]
    parts = []
    for client in clients:
        tested = np.array(client["test"], dtype=np.int64)
        held = own[tested[tested >= tests] - tests]
        lists = [np.array(client[name], dtype=np.int64) for name in ("train", "validation")]
        parts.append(np.sort(np.concatenate([*lists, held])))
    return NamedParts(parts, [(str(client["name"]),) for client in clients])


# What a file leaves out, such as dropped clients' images, belongs to nobody.
explicit.lossy = True  # type: ignore[attr-defined]


def write_partition(
    path: Path, partition: Partition, labels: NDArray[np.integer], test_examples: int
) -> None:
    """Write a partition as JSON.

    Parameters
    ----------
    labels : of the training set that it is of.
    test_examples : examples of the test set, without `Partition.own_test`.

    Raises
    ------
    RunError
        The disk refused.
    """
    empty: Indices = np.empty(0, dtype=np.int64)
    held = partition.validation or (empty,) * partition.num_clients
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "examples": len(labels),
        "labels": _labels(labels),
        "test-examples": test_examples,
        "test-split": partition.test_split,
        "own-test": partition.own_test.tolist(),
        "held-out-clients": list(partition.held_out),
        "left-out": partition.left_out,
        "clients": [
            {
                "name": partition.name_of(k),
                "train": partition.train[k].tolist(),
                "validation": held[k].tolist(),
                "test": partition.test[k].tolist(),
            }
            for k in range(partition.num_clients)
        ],
    }
    text = json.dumps({**content, "checksum": _checksum(content)}, separators=(",", ":"))
    write_atomically(path, text.encode())


def read_partition(
    path: Path, labels: NDArray[np.integer], test_labels: NDArray[np.integer], num_classes: int
) -> Partition:
    """The partition that `write_partition` wrote.

    Parameters
    ----------
    labels, test_labels : of the training and the test set that it is of, 0..num_classes-1.

    Raises
    ------
    PartitionError
        The file cannot be read, is damaged, or is of other data.
    """
    content = _read(path, labels)
    clients = content["clients"]
    train, held, test = (
        tuple(np.array(client[name], dtype=np.int64) for client in clients) for name in _LISTS
    )
    if content["test-examples"] != len(test_labels):
        raise _of_other_data(path, f"{content['test-examples']} test images", len(test_labels))
    own = np.array(content["own-test"], dtype=np.int64)
    tested = np.concatenate([test_labels, labels[own]])
    names = tuple(str(client["name"]) for client in clients)
    return Partition(
        train,
        test,
        counts_by_class(train, labels, num_classes),
        counts_by_class(test, tested, num_classes),
        held if any(map(len, held)) else (),
        own_test=own,
        test_split=str(content["test-split"]),
        names=() if names == tuple(map(str, range(len(names)))) else names,
        held_out=tuple(content["held-out-clients"]),
        left_out=int(content["left-out"]),
    )


def _read(path: Path, labels: NDArray[np.integer]) -> dict[str, Any]:
    expected = "a file that 'fedloge partition --out' wrote"
    content = read_json(path, "partition file", expected, PartitionError)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise PartitionError(f"partition file {path}: expected {expected}, got another")
    if content.get("version") != _VERSION:
        raise PartitionError(
            f"partition file {path}: expected version {_VERSION}, got {content.get('version')!r}; write it "
            "anew with this version of fedloge"
        )
    told = content.pop("checksum", None)
    if told != _checksum(content):
        raise PartitionError(
            f"partition file {path}: its checksum is {told}, its content gives {_checksum(content)}; it "
            "has been changed or damaged: write it anew, or get it again"
        )
    if content["examples"] != len(labels):
        raise _of_other_data(path, f"{content['examples']} training images", len(labels))
    if content["labels"] != _labels(labels):
        raise PartitionError(
            f"partition file {path}: it is of other data: as many images, but with other labels; use the "
            "data and long-tail that it was made with"
        )
    return content


def _of_other_data(path: Path, expected: str, got: int) -> PartitionError:
    return PartitionError(
        f"partition file {path}: it is of other data: expected {expected}, got {got}; use the data and "
        "long-tail that it was made with"
    )


def _labels(labels: NDArray[np.integer]) -> str:
    return digest(np.asarray(labels).astype("<i8").tobytes())


def _checksum(content: dict[str, Any]) -> str:
    return digest(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())
