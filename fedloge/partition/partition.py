"""What a partitioner is, what a partition is, and the rules that both follow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from fedloge.digest import digest
from fedloge.errors import PartitionError

Indices = NDArray[np.int64]


class NamedParts(list[Indices]):
    """A partitioner's index arrays, where the clients have names.

    Parameters
    ----------
    parts : one index array for each client.
    members : for each client whose images it holds: the values of `column`, one or several.
    column : the manifest's column that says whose an image is; empty if none does.
    """

    def __init__(
        self, parts: Iterable[Indices], members: Sequence[tuple[str, ...]], column: str = ""
    ) -> None:
        super().__init__(parts)
        self.members, self.column = list(members), column

    @property
    def names(self) -> tuple[str, ...]:
        """For each client its name, made of those of its members."""
        return tuple(_joined(names) for names in self.members)


def _joined(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more"


class Partitioner(Protocol):
    """Splits a training set over clients.

    ``partitioner(labels, num_clients, rng)`` returns one index array per client: int64
    positions in `labels`, ascending. No index is in two arrays, and none is left out unless
    the partitioner has an attribute ``lossy`` that is true. All randomness comes from `rng`.
    What cannot be split as asked is refused with a `PartitionError`.

    A partitioner that has a keyword parameter ``manifest`` is also given the training set's
    `fedloge.data.manifest.Manifest`, in the order of `labels`. One whose clients have names returns
    `NamedParts`, which is a list.
    `fedloge.testing.check_partitioner` tests all this.
    """

    def __call__(
        self, labels: NDArray[np.int64], num_clients: int, rng: np.random.Generator
    ) -> list[Indices]:
        """Split `labels` over `num_clients` clients."""
        ...


@dataclass(frozen=True)
class Partition:
    """Which client holds which examples.

    Parameters
    ----------
    train : for each client, ascending indices into the (long-tailed) training set.
    test : for each client, ascending indices into the test set. Where tests are drawn from a common
        test set and a client's share of a class is more than the class has, some occur more than once.
        What `own_test` names stands behind the test set's own examples.
    train_counts, local_test_counts : (clients, classes), examples of each class on each client.
    validation : for each client, ascending indices into the training set of the examples held out
        from its training; () if nothing is held out.
    own_test : indices into the training set of the examples on which clients are tested and which none
        trains on, client by client. They are put behind the test set's own.
    test_split : by which rule `test` was made: ``matched``, ``given`` or ``own``; ``by-site``: each site
        chooses between the last two.
    names : the clients' names; () if they have none but their numbers.
    held_out : the clients that never train, ascending.
    left_out : examples that belong to no client, since small clients were dropped or large ones cut.
    """

    train: tuple[Indices, ...]
    test: tuple[Indices, ...]
    train_counts: Int64[np.ndarray, "clients classes"]
    local_test_counts: Int64[np.ndarray, "clients classes"]
    validation: tuple[Indices, ...] = ()
    own_test: Indices = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    test_split: str = "matched"
    names: tuple[str, ...] = ()
    held_out: tuple[int, ...] = ()
    left_out: int = 0

    @property
    def num_clients(self) -> int:
        """Number of clients."""
        return len(self.train)

    @property
    def training_counts(self) -> Int64[np.ndarray, " classes"]:
        """Training examples of each class over the clients that train."""
        trains = np.ones(self.num_clients, dtype=bool)
        trains[list(self.held_out)] = False
        return self.train_counts[trains].sum(axis=0)

    @property
    def trained_on(self) -> Indices:
        """All training examples of the clients that train, client by client."""
        return np.concatenate([own for k, own in enumerate(self.train) if k not in self.held_out])

    def name_of(self, client: int) -> str:
        """A client's name; its number if it has none."""
        return self.names[client] if self.names else str(client)

    def digest(self) -> str:
        """Hash of every client's training, test and validation indices."""
        own = (self.own_test,) if len(self.own_test) else ()
        parts = (*self.train, *self.test, *self.validation, *own)
        return digest(*(part.astype("<i8").tobytes() for part in parts))


def group_by_owner(owners: NDArray[np.integer], num_owners: int) -> list[Indices]:
    """For each owner 0..num_owners-1, the positions in `owners` that name it, ascending."""
    order = np.argsort(owners, kind="stable").astype(np.int64)
    ends = np.cumsum(np.bincount(owners, minlength=num_owners))
    return np.split(order, ends[:-1])


def counts_by_class(
    parts: Sequence[Indices], labels: NDArray[np.integer], num_classes: int
) -> Int64[np.ndarray, "clients classes"]:
    """How many examples of each class are in each part."""
    owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    cells = owner * num_classes + labels[np.concatenate(parts)]
    flat = np.bincount(cells, minlength=len(parts) * num_classes)
    return flat.reshape(len(parts), num_classes).astype(np.int64)


def verify_parts(
    parts: object, num_examples: int, num_clients: int, *, lossy: bool = False, who: str
) -> None:
    """Raise `PartitionError`, naming the broken rule, unless `parts` is a proper split.

    Parameters
    ----------
    parts : what a partitioner returned.
    num_examples, num_clients : how many examples it was asked to split, over how many clients.
    lossy : whether examples may be left out.
    who : the partitioner, for the message.
    """
    if not isinstance(parts, list) or len(parts) != num_clients:
        got = f"{len(parts)} of them" if isinstance(parts, list) else type(parts).__name__
        raise PartitionError(f"{who}: expected a list of {num_clients} index arrays, got {got}")
    seen = np.zeros(num_examples, dtype=bool)
    for client, part in enumerate(parts):
        where = f"{who}: client {client}"
        if not isinstance(part, np.ndarray) or part.dtype != np.int64 or part.ndim != 1:
            raise PartitionError(
                f"{where}: expected a 1-dimensional array of int64 indices, got {_describe(part)}"
            )
        if len(part) and (part.min() < 0 or part.max() >= num_examples):
            bad = part[(part < 0) | (part >= num_examples)][0]
            raise PartitionError(f"{where}: index {bad} is outside 0..{num_examples - 1}")
        if np.any(np.diff(part) <= 0):
            raise PartitionError(f"{where}: indices are not ascending, or one occurs twice")
        if seen[part].any():
            raise PartitionError(
                f"{where}: index {part[seen[part]][0]} belongs to an earlier client too"
            )
        seen[part] = True
    if not lossy and not seen.all():
        raise PartitionError(
            f"{who}: {num_examples - int(seen.sum())} of {num_examples} examples belong to no client "
            f"(the first is {int(np.argmin(seen))}); set its attribute lossy = True if that is meant"
        )


def _describe(part: object) -> str:
    if isinstance(part, np.ndarray):
        return f"{part.ndim}-dimensional {part.dtype}"
    return type(part).__name__
