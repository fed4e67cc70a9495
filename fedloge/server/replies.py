"""Checking a client's answer, before anything else reads it.

An answer may hold anything that Flower can carry. What is refused here costs the client its
turn, and the round goes on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from fedloge.errors import FedlogeError, UpdateError, in_one_line
from fedloge.federation.new_clients import STAGES
from fedloge.messages import (
    ARRAYS,
    LARGEST_FIGURE,
    LARGEST_SUM,
    METRICS,
    NUM_EXAMPLES,
    PARTIAL,
    PARTIALS,
    STAMP,
    SUMS,
    Stamp,
    check_update,
    failure_reason,
    num_bytes,
    received_tensors,
    record_digest,
    record_of,
)
from fedloge.messages.cohort import MASKED, SEALED, Kind

MOST_IMAGES = 2**29
# A method with eight personal models, each with accuracy, recall, AUROC and more, fills half of it.
MOST_FIGURES = 256
LONGEST_NAME = 64

_RECORDS: Mapping[Kind, set[str]] = {
    "train": {STAMP, METRICS, ARRAYS, SUMS} | PARTIALS,
    "evaluate": {STAMP, METRICS, SUMS},
    "evaluate.second_pass": {STAMP, METRICS, SUMS},
}
_MASKED_RECORDS = {STAMP, METRICS, MASKED, SEALED}


@dataclass(frozen=True)
class Asked:
    """What a client was asked, with which its answer must agree.

    Attributes
    ----------
    stamp : of the message.
    uplink : zeros with the names, shapes and dtypes of the sums it was asked for.
    num_examples : the training examples that it registered with.
    epochs : passes over them in training.
    masked : whether it was asked for its tensors and sums under masks.
    added_up : whether a worker of this run may have added up its tensors and sums with others'.
    """

    kind: Kind
    stamp: Stamp
    uplink: Mapping[str, Tensor]
    num_examples: int
    epochs: int
    masked: bool = False
    added_up: bool = False


@dataclass(frozen=True)
class Answer:
    """A client's accepted answer without the shared tensors, which stay in the message.

    Attributes
    ----------
    figures : its metrics; all known, and in their ranges.
    sums : its part of what is summed over clients, with the names and shapes that were asked for; empty if
        it was masked or added up.
    """

    figures: dict[str, float | int]
    sums: dict[str, Tensor]


def read_reply(reply: Message, asked: Asked) -> Answer:
    """Read and check a client's answer.

    Raises
    ------
    UpdateError
        It is an error or a refusal, belongs to another round, holds a record or a figure that
        is not known or a number out of its range, or its sums are not what was asked for.
    """
    if reply.has_error():
        raise UpdateError(f"error {reply.error.code}: {reply.error.reason}")
    try:
        return _answer(reply.content, asked)
    except FedlogeError:
        raise
    except Exception as exc:  # whatever a foreign record raises when it is read
        raise UpdateError(f"its answer cannot be read ({in_one_line(exc)})") from None


def _answer(content: RecordDict, asked: Asked) -> Answer:
    if reason := failure_reason(content):
        raise UpdateError(reason)
    known = _RECORDS[asked.kind] - (set() if asked.uplink else {SUMS})
    check_records(content, _MASKED_RECORDS if asked.masked else known)
    if not asked.added_up and PARTIALS & content.keys():
        raise UpdateError(
            "the answer is a partial sum, which only workers of the Ray engine may send"
        )
    given, stamp = Stamp.from_content(content), asked.stamp
    if given != stamp:
        raise UpdateError(
            f"the answer belongs to round {given.round}, attempt {given.attempt} of run {given.run_id} "
            f"({given.fingerprint}), expected round {stamp.round}, attempt {stamp.attempt} of "
            f"{stamp.run_id} ({stamp.fingerprint})"
        )
    figures = read_figures(content, asked.kind)
    weight, registered = figures.get(NUM_EXAMPLES), asked.num_examples
    if weight != registered or registered < 1:
        raise UpdateError(
            f"weight {shown(weight)}, expected the {registered} images it registered with (at least 1)"
        )
    seen, expected = figures.get("images"), registered * asked.epochs
    if asked.kind == "train" and seen != expected:
        raise UpdateError(
            f"its figure 'images' is {shown(seen)}, expected {expected}, "
            f"{asked.epochs} times the {registered} it registered with"
        )
    if asked.kind == "evaluate" and figures.get("trained-rounds", 0) > stamp.round:
        raise UpdateError(
            f"it says it trained in {shown(figures['trained-rounds'])} rounds, after {stamp.round}"
        )
    if asked.masked or PARTIAL in content:
        return Answer(figures, {})
    sums = received_tensors(content, SUMS) if asked.uplink else {}
    check_update(sums, asked.uplink, limit=LARGEST_SUM)
    return Answer(figures, sums)


def check_records(content: RecordDict, known: set[str]) -> None:
    """`UpdateError` if a message holds a record of another name."""
    for name in content:
        if name not in known:
            raise UpdateError(f"it holds a record {name[:LONGEST_NAME]!r}, which is not known")


def read_figures(content: RecordDict, kind: Kind) -> dict[str, float | int]:
    """The figures of an answer to a message of one kind.

    Raises
    ------
    UpdateError
        There are none or too many, a name is not known, or a value is out of its range.
    """
    record = record_of(content, METRICS, MetricRecord)
    if record is None:
        raise UpdateError("the reply carries no metrics")
    if len(record) > MOST_FIGURES:
        raise UpdateError(f"it holds {len(record)} figures, expected {MOST_FIGURES} at most")
    figures: dict[str, float | int] = {}
    for name, value in record.items():
        rule = _rule(kind, name)
        if rule is None:
            raise UpdateError(f"its figure {name[:LONGEST_NAME]!r} is not known")
        # Compared, not converted: an integer may be too large for a float, and NaN compares false.
        if type(value) not in (int, float) or not rule.holds(value):
            raise UpdateError(f"its figure {name!r} is {shown(value)}, expected {rule.expected}")
        figures[name] = value  # type: ignore[assignment]
    return figures


def check_masked_figures(names: Sequence[str]) -> None:
    """`UpdateError` if a client masks a figure of training that is not known, or too many."""
    if len(names) > MOST_FIGURES:
        raise UpdateError(f"it masks {len(names)} figures, expected {MOST_FIGURES} at most")
    for name in names:
        if _rule("train", name) is not _MEAN:
            raise UpdateError(f"its masked figure {name[:LONGEST_NAME]!r} is not known")
    if list(names) != sorted(set(names)):
        raise UpdateError("its masked figures are not in order")


def shown(value: Any) -> str:
    """A number of a message in a few characters, whatever it is."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a whole number of more than 64 bits"
    return repr(value)


@dataclass(frozen=True)
class _Rule:
    holds: Callable[[Any], bool]
    expected: str


_WHOLE = _Rule(lambda n: type(n) is int and 0 <= n < 2**53, "a whole number of 0 or more")
_IMAGES = _Rule(
    lambda n: type(n) is int and 0 <= n < MOST_IMAGES, f"a whole number below {MOST_IMAGES}"
)
_SHARE = _Rule(lambda x: 0 <= x <= 1, "a share from 0 to 1")
_MEAN = _Rule(
    lambda x: -LARGEST_FIGURE < x < LARGEST_FIGURE,
    f"a finite number of magnitude below {LARGEST_FIGURE:g}",
)
_SPENT = _Rule(lambda x: 0 <= x < LARGEST_FIGURE, f"a number from 0 to {LARGEST_FIGURE:g}")
# Compared with what is expected of this client alone.
_OWN = _Rule(lambda n: True, "")
_SHARES = ("accuracy", "recall", "macro-f1", "auroc", "ece", "many", "medium", "few", "validation")
_FIGURES: Mapping[Kind, list[tuple[str, _Rule]]] = {
    "train": [
        (NUM_EXAMPLES, _OWN),
        ("images", _WHOLE),
        ("epsilon", _SPENT),
        (r"train/[!-~]+", _MEAN),
    ],
    "evaluate": [
        (NUM_EXAMPLES, _OWN),
        ("num-test", _IMAGES),
        ("trained-rounds", _WHOLE),
        (rf"personal/[!-.0-~]+/({'|'.join(_SHARES)})", _SHARE),
        # Of clients that are held out from training (`fedloge.federation.new_clients`).
        (rf"new/({'|'.join(STAGES)})/({'|'.join(_SHARES)})", _SHARE),
    ],
    "evaluate.second_pass": [(NUM_EXAMPLES, _OWN)],
}


def _rule(kind: Kind, name: str) -> _Rule | None:
    if len(name) > LONGEST_NAME:
        return None
    return next((rule for form, rule in _FIGURES[kind] if re.fullmatch(form, name)), None)


def digest_of(reply: Message) -> str:
    """Hash of the tensors in an answer, as its site's audit log has it; empty if there are none."""
    records = (record_of(reply.content, name, ArrayRecord) for name in (ARRAYS, MASKED))
    return next((record_digest(record) for record in records if record is not None), "")


def bytes_of(reply: Message, answer_bytes: int) -> int:
    """The bytes that the answer's tensors take in a message.

    Those that a worker has added up already count as `answer_bytes`, which their client would have sent.
    """
    records = (record_of(reply.content, name, ArrayRecord) for name in (ARRAYS, SUMS, MASKED))
    own = sum(num_bytes(record) for record in records if record is not None)
    return own + (answer_bytes if PARTIAL in reply.content else 0)
