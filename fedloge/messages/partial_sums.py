"""Sums of clients' tensors made where they were trained: each worker adds up its clients, the server merges."""

from __future__ import annotations

from collections.abc import Mapping

from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from fedloge.messages.averaging import WeightedSum, check_update
from fedloge.messages.protocol import ARRAYS, field_of
from fedloge.messages.records import encode, received_tensors, record_of

PARTIAL = "partial"


def sum_on_worker(
    content: RecordDict, total: WeightedSum, template: Mapping[str, Tensor], weight: int
) -> None:
    """Move a reply's tensors into a worker's partial sum; in the reply a record of their weight remains.

    `UpdateError`: the tensors do not fit `template`.
    """
    tensors = received_tensors(content, ARRAYS)
    check_update(tensors, template)
    total.add(tensors, weight)
    del content[ARRAYS]
    content[PARTIAL] = ConfigRecord({"weight": weight})


def attach_partial(content: RecordDict, total: WeightedSum) -> None:
    """Put a worker's partial sum into `content`, that of one of its replies."""
    content[f"{PARTIAL}-sums"] = encode(total.partial())
    content[f"{PARTIAL}-weight"] = ConfigRecord({"weight": total.weight})


def add_update(
    content: RecordDict, total: WeightedSum, template: Mapping[str, Tensor], weight: int
) -> int:
    """Add a reply to the round's sum: its tensors, or the partial sum it carries.

    Returns the client's weight. Where a worker has added the client up, and another of the
    worker's replies carries the sum, this weight reaches `total` with that reply only.

    Raises
    ------
    UpdateError
        The tensors do not fit `template`, or a record is malformed.
    """
    added = record_of(content, PARTIAL, ConfigRecord)
    if added is None:
        tensors = received_tensors(content, ARRAYS)
        check_update(tensors, template)
        total.add(tensors, weight)
        return weight
    if record_of(content, f"{PARTIAL}-sums", ArrayRecord) is not None:
        record = content.config_records[f"{PARTIAL}-weight"]
        total.merge_partial(
            received_tensors(content, f"{PARTIAL}-sums"), field_of(record, "weight", int)
        )
    return field_of(added, "weight", int)
