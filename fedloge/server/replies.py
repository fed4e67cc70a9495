"""Taking a client's answer apart: what is refused here costs that client its turn, never the run."""

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
"""Magnitude to which the tensors beside the model may go."""


@dataclass(frozen=True)
class Answer:
    """A client's good answer, but for the shared tensors, which stay in the message.

    Attributes
    ----------
    figures : its metrics, finite.
    sums : its part of what is summed over clients, of the names and shapes that were asked for.
    """

    figures: dict[str, float | int]
    sums: dict[str, Tensor]


def read_reply(
    reply: Message, stamp: Stamp, num_examples: int, uplink: Mapping[str, Tensor]
) -> Answer:
    """A client's answer to the message of `stamp`.

    Parameters
    ----------
    num_examples : how many training examples the client registered with.
    uplink : zeros of the names, shapes and dtypes of the further tensors it was asked for.

    Raises
    ------
    UpdateError
        It is an error or a refusal, belongs to another round, or holds what was not asked for.
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
    """What the answer's tensors take on the wire.

    What a worker of our own engine has added up already, its client would have sent: `model_bytes`.
    """
    records = (record_of(reply.content, name, ArrayRecord) for name in (ARRAYS, SUMS))
    own = sum(num_bytes(record) for record in records if record is not None)
    return own + (model_bytes if PARTIAL in reply.content else 0)
