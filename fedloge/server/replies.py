"""Checking a client's answer. If it is refused the client counts as failed, and the round goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import ArrayRecord, Message
from torch import Tensor

from fedloge.errors import UpdateError
from fedloge.messages import (
    ARRAYS,
    NUM_EXAMPLES,
    PARTIAL,
    SUMS,
    Stamp,
    check_update,
    failure_reason,
    metrics_of,
    num_bytes,
    received_tensors,
    record_of,
)

LARGEST_SUM = 2.0**40
"""Bound on the magnitude of values in the sums that are sent beside the model."""


@dataclass(frozen=True)
class Answer:
    """A client's accepted answer without the shared tensors, which stay in the message.

    Attributes
    ----------
    figures : its metrics; all are finite.
    sums : its part of what is summed over clients, with the names and shapes that were asked for.
    """

    figures: dict[str, float | int]
    sums: dict[str, Tensor]


def read_reply(
    reply: Message, stamp: Stamp, num_examples: int, uplink: Mapping[str, Tensor]
) -> Answer:
    """Read and check a client's answer.

    Parameters
    ----------
    stamp : of the message that it should answer.
    num_examples : the training examples that the client registered with.
    uplink : zeros with the names, shapes and dtypes of the sums it was asked for.

    Raises
    ------
    UpdateError
        It is an error or a refusal, belongs to another round, holds a number that is not
        finite, or its sums are not what was asked for.
    """
    if reply.has_error():
        raise UpdateError(f"error {reply.error.code}: {reply.error.reason}")
    if reason := failure_reason(reply.content):
        raise UpdateError(reason)
    given = Stamp.from_content(reply.content)
    if given != stamp:
        raise UpdateError(
            f"the answer belongs to round {given.round}, attempt {given.attempt} of run {given.run_id} "
            f"({given.fingerprint}), expected round {stamp.round}, attempt {stamp.attempt} of "
            f"{stamp.run_id} ({stamp.fingerprint})"
        )
    figures = metrics_of(reply.content)
    for name, value in figures.items():
        if not math.isfinite(value):
            raise UpdateError(f"its figure {name!r} is {value}, expected a finite number")
    weight = figures.get(NUM_EXAMPLES)
    if weight != num_examples or num_examples < 1:
        raise UpdateError(
            f"weight {weight!r}, expected the {num_examples} images it registered with (at least 1)"
        )
    sums = received_tensors(reply.content, SUMS) if uplink else {}
    check_update(sums, uplink, limit=LARGEST_SUM)
    return Answer(figures, sums)


def bytes_of(reply: Message, model_bytes: int) -> int:
    """The bytes that the answer's tensors take in a message.

    Tensors that a worker has added up already count as `model_bytes`, which their client would
    have sent.
    """
    records = (record_of(reply.content, name, ArrayRecord) for name in (ARRAYS, SUMS))
    own = sum(num_bytes(record) for record in records if record is not None)
    return own + (model_bytes if PARTIAL in reply.content else 0)
