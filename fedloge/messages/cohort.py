"""Secure aggregation's records: who is summed over, what a client masks, and what takes the masks off.

A sum takes two messages. In the first (``train`` or ``evaluate``) the server names the cohort: the
clients whose vectors it will add up, and their weights. A client answers with its vector under
masks, and with shares of its self-mask's seed, each sealed for one neighbour. In the second
(``query.unmask``) the server says who has answered (the survivors) and who has not (the dropped). A
client gives its shares of the survivors' self-masks, and the seeds of the masks that it had in
common with the dropped: for each client the one or the other, never both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fedloge.config import Config
from fedloge.errors import UpdateError
from fedloge.messages.masks import SEED_BYTES, SHARE_BYTES
from fedloge.messages.protocol import Stamp, field_of
from fedloge.messages.records import encode, received_tensors, record_of
from fedloge.rng import rng

COHORT = "cohort"
MASKED = "masked"
SEALED = "sealed"
UNMASK = "unmask"
UNMASK_MESSAGE = "query.unmask"
Kind = Literal["train", "evaluate", "evaluate.second_pass"]
FEWEST = 3
"""A sum over fewer clients would say too much of each."""
_HASH_BYTES = 32
_LARGEST_BOX = 256
_WORDS = "words"


@dataclass(frozen=True)
class Cohort:
    """The clients of one sum, ascending, with their weights.

    Raises
    ------
    UpdateError
        There are fewer than three, one is named twice, or weights and clients do not match.
    """

    clients: tuple[int, ...]
    weights: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.clients) < FEWEST:
            raise UpdateError(
                f"secure aggregation: a sum over {len(self.clients)} clients would say too much of each; "
                f"expected {FEWEST} or more"
            )
        if list(self.clients) != sorted(set(self.clients)) or self.clients[0] < 0:
            raise UpdateError(
                "secure aggregation: the cohort names a client twice, or out of order"
            )
        if len(self.weights) != len(self.clients) or min(self.weights) < 1:
            raise UpdateError("secure aggregation: the cohort lacks a client's weight (at least 1)")

    def weight_of(self, client: int) -> int:
        """A client's weight in the mean; `UpdateError` if it is not in the cohort."""
        if client not in self.clients:
            raise UpdateError(
                f"secure aggregation: client {client} is not in the cohort it was asked for"
            )
        return self.weights[self.clients.index(client)]

    def to_record(self) -> ConfigRecord:
        """As a Flower record."""
        return ConfigRecord({"clients": list(self.clients), "weights": list(self.weights)})

    @classmethod
    def from_content(cls, content: RecordDict) -> Cohort:
        """Read from a message; `UpdateError` if it has none or it is malformed."""
        record = record_of(content, COHORT, ConfigRecord)
        if record is None:
            raise UpdateError("secure aggregation is on, but the message names no cohort")
        return cls(
            tuple(field_of(record, "clients", list)), tuple(field_of(record, "weights", list))
        )


@dataclass(frozen=True)
class MaskGraph:
    """Who masks with whom in a sum, and how many shares give a self-mask back.

    With `secure-neighbours` = k a client masks with k others: those up to k/2 places beside it in
    a circle, whose order depends on seed and round.

    Attributes
    ----------
    circle : the cohort; in its own order where all mask with all.
    reach : k / 2; 0: all mask with all.
    two_thirds : whether more than two thirds of the shares are needed, or more than half.
    """

    circle: tuple[int, ...]
    reach: int
    two_thirds: bool

    @classmethod
    def of(cls, config: Config, clients: Sequence[int], round: int) -> MaskGraph:
        """The graph of a cohort in a round."""
        reach, two_thirds = config.secure_neighbours // 2, config.secure_threshold == "two-thirds"
        if not reach or 2 * reach >= len(clients) - 1:
            return cls(tuple(clients), 0, two_thirds)
        order = rng(config.seed, "secure-neighbours", round).permutation(np.array(clients))
        return cls(tuple(order.tolist()), reach, two_thirds)

    def neighbours(self, client: int) -> tuple[int, ...]:
        """With whom a client masks, ascending."""
        if not self.reach:
            return tuple(k for k in self.circle if k != client)
        place, size = self.circle.index(client), len(self.circle)
        steps = [step for step in range(-self.reach, self.reach + 1) if step]
        return tuple(sorted(self.circle[(place + step) % size] for step in steps))

    def holders(self, client: int) -> tuple[int, ...]:
        """Who holds a share of a client's self-mask: its neighbours and itself."""
        return (*self.neighbours(client), client)

    def threshold(self, client: int) -> int:
        """How many shares give a client's self-mask back.

        More than two thirds: then a server that tells some that a client has dropped, and others
        that it has not, gains nothing, even with fewer than a third of the neighbours on its side.
        More than half: enough where the server is curious, but keeps to the protocol.
        """
        holders = len(self.holders(client))
        return 2 * holders // 3 + 1 if self.two_thirds else holders // 2 + 1


def subject_of(kind: Kind, stamp: Stamp, *tensors: ArrayRecord | None) -> str:
    """Names what a client would answer, whichever attempt of the run asks for it: run, round, and all tensors sent.

    A client that answers twice to the same gives the same vector twice.
    """
    h = hashlib.sha256(json.dumps([kind, stamp.run_id, stamp.fingerprint, stamp.round]).encode())
    for place, record in enumerate(tensors):
        for name, array in sorted((record or {}).items()):
            h.update(json.dumps([place, name, array.dtype, list(array.shape)]).encode())
            h.update(array.data)
    return h.hexdigest()


def context_of(subject: str, stamp: Stamp, cohort: Cohort) -> str:
    """Names one sum: what is asked, in which attempt, of whom, with which weights.

    All masks depend on it. Where the server tells two clients different things, such as two models,
    their masks do not cancel.
    """
    what = [subject, stamp.run_name, list(stamp.bases), cohort.clients, cohort.weights]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


@dataclass(frozen=True)
class MaskedAnswer:
    """A client's vector under masks.

    Attributes
    ----------
    words : the vector, as uint64.
    figures : names of the figures at its end.
    boxes : its self-mask's shares, each sealed for one holder.
    commitment : to the seed of its self-mask.
    """

    words: np.ndarray
    figures: tuple[str, ...]
    boxes: dict[int, bytes]
    commitment: bytes

    def put_into(self, content: RecordDict) -> None:
        """Add it to a reply."""
        words = torch.from_numpy(self.words.view(np.int64))
        content[MASKED] = encode({_WORDS: words})
        content[SEALED] = ConfigRecord(
            {
                "to": list(self.boxes),
                "boxes": list(self.boxes.values()),
                "commitment": self.commitment,
                "figures": list(self.figures),
            }
        )

    @classmethod
    def from_content(cls, content: RecordDict) -> MaskedAnswer:
        """Read from a reply; `UpdateError` if it has none or it is malformed."""
        tensors = received_tensors(content, MASKED)
        words = tensors.get(_WORDS)
        if (
            tensors.keys() != {_WORDS}
            or words is None
            or words.dtype != torch.int64
            or words.dim() != 1
        ):
            raise UpdateError("its masked vector is not one row of 64-bit integers")
        record = record_of(content, SEALED, ConfigRecord)
        if record is None:
            raise UpdateError("it masks its vector but sends no shares of its mask")
        boxes = _by_client(record, "to", "boxes", most=_LARGEST_BOX)
        bound = record.get("commitment")
        if not isinstance(bound, bytes) or len(bound) != _HASH_BYTES:
            raise UpdateError("its commitment to its mask is malformed")
        figures = record.get("figures")
        if not isinstance(figures, list) or not all(isinstance(name, str) for name in figures):
            raise UpdateError("its list of masked figures is malformed")
        return cls(words.numpy().view(np.uint64), tuple(map(str, figures)), boxes, bound)


@dataclass(frozen=True)
class Unmasking:
    """What the server asks of a client to take the masks off.

    Attributes
    ----------
    kind : of the message that was answered under masks.
    context : of the sum.
    survivors, dropped : who has answered, and who has not.
    boxes : shares that are sealed for this client, by whose self-mask they are of.
    """

    kind: Kind
    context: str
    survivors: tuple[int, ...]
    dropped: tuple[int, ...]
    boxes: dict[int, bytes]

    def to_record(self) -> ConfigRecord:
        """As a Flower record."""
        return ConfigRecord(
            {
                "kind": self.kind,
                "context": self.context,
                "survivors": list(self.survivors),
                "dropped": list(self.dropped),
                "of": list(self.boxes),
                "boxes": list(self.boxes.values()),
            }
        )

    @classmethod
    def from_content(cls, content: RecordDict) -> Unmasking:
        """Read from a message; `UpdateError` if it has none or it is malformed."""
        record = record_of(content, UNMASK, ConfigRecord)
        if record is None:
            raise UpdateError("the message asks for no unmasking")
        kind = field_of(record, "kind", str)
        if kind not in get_args(Kind):
            raise UpdateError(f"unmasking: unknown kind of message {kind[:20]!r}")
        return cls(
            cast(Kind, kind),
            field_of(record, "context", str),
            tuple(field_of(record, "survivors", list)),
            tuple(field_of(record, "dropped", list)),
            _by_client(record, "of", "boxes", most=_LARGEST_BOX),
        )


@dataclass(frozen=True)
class Unmasked:
    """A client's answer: shares of survivors' self-masks, seeds of its masks with the dropped."""

    shares: dict[int, bytes]
    seeds: dict[int, bytes]

    def to_record(self) -> ConfigRecord:
        """As a Flower record."""
        return ConfigRecord(
            {
                "shares-of": list(self.shares),
                "shares": list(self.shares.values()),
                "seeds-of": list(self.seeds),
                "seeds": list(self.seeds.values()),
            }
        )

    @classmethod
    def from_content(cls, content: RecordDict) -> Unmasked:
        """Read from a reply; `UpdateError` if it has none or it is malformed."""
        record = record_of(content, UNMASK, ConfigRecord)
        if record is None:
            raise UpdateError("the answer unmasks nothing")
        return cls(
            _by_client(record, "shares-of", "shares", exactly=SHARE_BYTES),
            _by_client(record, "seeds-of", "seeds", exactly=SEED_BYTES),
        )


def _by_client(
    record: ConfigRecord, clients: str, values: str, *, most: int = 0, exactly: int = 0
) -> dict[int, bytes]:
    names, given = field_of(record, clients, list), record.get(values)
    fits = isinstance(given, list) and len(given) == len(names) == len(set(names))
    if not fits or not all(
        isinstance(value, bytes) and (len(value) == exactly if exactly else len(value) <= most)
        for value in given  # type: ignore[union-attr]
    ):
        raise UpdateError(f"a record of the message lacks valid {values!r}")
    return dict(zip(names, given, strict=True))  # type: ignore[arg-type]
