"""The records of a run's messages: which run and round they belong to, a client's answer, a refusal.

A message carries the shared tensors in one `ArrayRecord`, its run, attempt and round in
a `ConfigRecord` and, in replies, the figures in one `MetricRecord`. Flower's own strategies
and wrappers expect this form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from fedloge.errors import UpdateError
from fedloge.messages.records import encode, record_of

ARRAYS = "arrays"
SUMS = "sums"
GIVEN = "given"
PLAN = "plan"
METRICS = "metrics"
STAMP = "stamp"
FAILURE = "failure"
NUM_EXAMPLES = "num-examples"
CLASS_COUNTS = "class-counts"
LARGEST_SUM = 2.0**40
"""Bound on the magnitude of values in the sums that are sent beside the model."""
LARGEST_FIGURE = 1e6
"""Bound on the magnitude of a mean, such as a loss."""
SECOND_PASS: Final = "evaluate.second_pass"
"""Type of the message in which a probe asks again."""
T = TypeVar("T", str, int, list)


@dataclass(frozen=True)
class Stamp:
    """Which run, attempt and round a message belongs to.

    Attributes
    ----------
    run_id : identifies the run directory; the same after a resume.
    run_name : the run directory's name.
    fingerprint : hash of what the run computes: config, partition, fixed classifier.
    bases : for each attempt so far, the round of the checkpoint that it began from; every resume
        adds one.
    round : the round the message belongs to, from 1.
    keep_round : the oldest round from which the run may still be resumed. A client needs its
        newest personal state of that round or before, and none that is older.
    """

    run_id: str
    run_name: str
    fingerprint: str
    bases: tuple[int, ...]
    round: int
    keep_round: int

    @property
    def attempt(self) -> int:
        """How often the run has been started; the first is 1."""
        return len(self.bases)

    def follows(self, attempt: int, round: int) -> bool:
        """Whether what `attempt` made in `round` is part of this attempt's history.

        It is not where a later attempt, up to this one, began before that round.
        """
        return attempt <= self.attempt and all(round <= base for base in self.bases[attempt:])

    @property
    def version(self) -> str:
        """Names the shared tensors this message carries."""
        return f"{self.run_id}/{self.attempt}/{self.round}"

    def to_record(self) -> ConfigRecord:
        """As a Flower record."""
        return ConfigRecord(
            {
                "run-id": self.run_id,
                "run-name": self.run_name,
                "fingerprint": self.fingerprint,
                "bases": list(self.bases),
                "round": self.round,
                "keep-round": self.keep_round,
            }
        )

    @classmethod
    def from_content(cls, content: RecordDict) -> Stamp:
        """Read from a message; `UpdateError` if it has none or it is malformed."""
        record = record_of(content, STAMP, ConfigRecord)
        if record is None:
            raise UpdateError(f"the message has no {STAMP!r} record; it was not made by fedloge")
        return cls(
            run_id=field_of(record, "run-id", str),
            run_name=field_of(record, "run-name", str),
            fingerprint=field_of(record, "fingerprint", str),
            bases=tuple(field_of(record, "bases", list)),
            round=field_of(record, "round", int),
            keep_round=field_of(record, "keep-round", int),
        )


def field_of(record: ConfigRecord, key: str, kind: type[T]) -> T:
    """A record's value under `key`; `UpdateError` where it is missing or not of type `kind`."""
    value = record.get(key)
    # Only lists of whole numbers are sent.
    numbers = not isinstance(value, list) or all(type(n) is int for n in value)
    # Python takes a boolean for a whole number.
    if not isinstance(value, kind) or isinstance(value, bool) or not numbers:
        raise UpdateError(f"a record of the message lacks a valid {key!r}")
    return value


@dataclass(frozen=True)
class Plan:
    """The weights in a round's average: this client's (its training images), and all clients' together.

    An engine that adds up on its workers needs the total beforehand, and gives out the
    largest clients first.
    """

    weight: int
    total_weight: int

    def to_record(self) -> ConfigRecord:
        """As a Flower record."""
        return ConfigRecord({"weight": self.weight, "total-weight": self.total_weight})

    @classmethod
    def from_content(cls, content: RecordDict) -> Plan:
        """Read from a message; `KeyError` if it has none, `UpdateError` if it is malformed."""
        record = record_of(content, PLAN, ConfigRecord)
        if record is None:
            raise KeyError(PLAN)
        return cls(field_of(record, "weight", int), field_of(record, "total-weight", int))


def reply_content(
    stamp: Stamp,
    metrics: Mapping[str, float | int],
    tensors: Mapping[str, Tensor] | None = None,
    sums: Mapping[str, Tensor] | None = None,
    wire_dtype: str = "float32",
) -> RecordDict:
    """A client's answer.

    Parameters
    ----------
    tensors : the shared tensors after training; None for an evaluation.
    sums : its part of what the method or a probe sums over clients; empty for none.
    wire_dtype : of `tensors`, as in `encode`.
    """
    content = RecordDict({STAMP: stamp.to_record(), METRICS: MetricRecord({**metrics})})
    if tensors is not None:
        content[ARRAYS] = encode(tensors, wire_dtype)
    if sums:
        content[SUMS] = encode(sums)
    return content


def failure_content(reason: str) -> RecordDict:
    """A client's refusal, with its reason in one line."""
    return RecordDict({FAILURE: ConfigRecord({"reason": reason})})


def failure_reason(content: RecordDict) -> str | None:
    """The reason in a refusal; None if the content is an answer."""
    record = record_of(content, FAILURE, ConfigRecord)
    if record is None:
        return None
    reason = record.get("reason")
    return reason if isinstance(reason, str) and reason else "no reason given"


def metrics_of(content: RecordDict) -> dict[str, float | int]:
    """The numbers among a reply's metrics; `UpdateError` if it has no metrics."""
    record = record_of(content, METRICS, MetricRecord)
    if record is None:
        raise UpdateError("the reply carries no metrics")
    return {key: value for key, value in record.items() if isinstance(value, (int, float))}


def only_update(reply: Message) -> Message:
    """A reply with its tensors and metrics only, as Flower's own strategies expect it."""
    content = RecordDict({name: reply.content[name] for name in (ARRAYS, METRICS)})
    return Message(content, reply_to=reply)
