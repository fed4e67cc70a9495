"""Sums of clients' tensors made where they were trained: each worker adds up its clients, the server merges."""

from __future__ import annotations

from collections.abc import Mapping

from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from fedloge.errors import UpdateError
from fedloge.messages.averaging import ExactSum, WeightedSum, check_update
from fedloge.messages.protocol import ARRAYS, LARGEST_SUM, SUMS, field_of
from fedloge.messages.records import encode, received_tensors, record_of

PARTIAL = "partial"
_EXACT = (f"{PARTIAL}-whole", f"{PARTIAL}-fractions")
PARTIALS = {PARTIAL, f"{PARTIAL}-sums", f"{PARTIAL}-weight", *_EXACT}
"""The records of workers' sums."""


class WorkerSum:
    """What one worker adds up of its clients' answers to training: the shared tensors, and the method's sums.

    Parameters
    ----------
    template : names, shapes and dtypes of the tensors that clients send back.
    uplink : those of the sums that the method asks for; empty if for none.
    total_weight : the weight of all clients that were asked, this worker's and others'.
    """

    def __init__(
        self, template: Mapping[str, Tensor], uplink: Mapping[str, Tensor], total_weight: int
    ) -> None:
        self._template, self._uplink = template, uplink
        self._total, self._sums = WeightedSum(template, total_weight), ExactSum(uplink)

    def take(self, content: RecordDict, weight: int) -> None:
        """Move what a reply carries into the sums; in the reply a record of their weight remains.

        `UpdateError`: it does not fit the template or the uplink; then nothing of it is added.
        """
        tensors = received_tensors(content, ARRAYS)
        check_update(tensors, self._template)
        sums = received_tensors(content, SUMS) if self._uplink else {}
        check_update(sums, self._uplink, limit=LARGEST_SUM)
        self._total.add(tensors, weight)
        self._sums.add(sums)
        del content[ARRAYS]
        if self._uplink:
            del content[SUMS]
        content[PARTIAL] = ConfigRecord({"weight": weight})

    def attach(self, content: RecordDict) -> None:
        """Put the sums so far into `content`, that of one of the replies."""
        content[f"{PARTIAL}-sums"] = encode(self._total.partial())
        content[f"{PARTIAL}-weight"] = ConfigRecord({"weight": self._total.weight})
        if self._uplink:
            for k, name in enumerate(_EXACT):
                parts = {tensor: pair[k] for tensor, pair in self._sums.partial().items()}
                content[name] = encode(parts)


def merge_sums(content: RecordDict, sums: ExactSum) -> None:
    """Add the method's sums over a worker's clients, where this reply of one of them carries them.

    `UpdateError`: they are of another method.
    """
    if record_of(content, _EXACT[0], ArrayRecord) is None:
        return
    whole, fractions = (received_tensors(content, name) for name in _EXACT)
    known = {name: pair[0].shape for name, pair in sums.partial().items()}
    if any({name: t.shape for name, t in part.items()} != known for part in (whole, fractions)):
        raise UpdateError("a worker's sums are of other names or shapes than were asked for")
    sums.merge_partial({name: (whole[name], fractions[name]) for name in known})


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
