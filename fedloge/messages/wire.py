"""State dicts and Flower's records: the one module that knows both.

A message carries one `ArrayRecord` (the shared tensors), one `ConfigRecord` (to
which run, attempt and round it belongs) and, in replies, one `MetricRecord`;
that is what Flower's own strategies and wrappers expect.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from fedloge.errors import UpdateError
from fedloge.messages.averaging import WeightedSum, check_update

ARRAYS = "arrays"
SUMS = "sums"
PLAN = "plan"
PARTIAL = "partial"
METRICS = "metrics"
STAMP = "stamp"
FAILURE = "failure"
NUM_EXAMPLES = "num-examples"
CLASS_COUNTS = "class-counts"
_NPY = "numpy.ndarray"  # Flower's name for the format of NumPy's .npy files
T = TypeVar("T", str, int, list)
R = TypeVar("R", ArrayRecord, ConfigRecord, MetricRecord)


@dataclass(frozen=True)
class Stamp:
    """To which run, attempt and round a message belongs.

    Attributes
    ----------
    run_id : of the run directory, kept when the run is resumed.
    run_name : the run directory's name.
    fingerprint : what the run computes: config, partition, fixed classifier.
    bases : the checkpoint's round from which each attempt so far began; a resumed run has one more.
    round : the round the message belongs to.
    keep_round : personal state older than its newest version up to this round is needed no more.
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

        It is not if any later attempt, up to this one, began before that round.
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
            run_id=_field(record, "run-id", str),
            run_name=_field(record, "run-name", str),
            fingerprint=_field(record, "fingerprint", str),
            bases=tuple(_field(record, "bases", list)),
            round=_field(record, "round", int),
            keep_round=_field(record, "keep-round", int),
        )


def _field(record: ConfigRecord, key: str, kind: type[T]) -> T:
    value = record.get(key)
    # A list is one of whole numbers: no other kind is sent.
    numbers = not isinstance(value, list) or all(isinstance(n, int) for n in value)
    if not isinstance(value, kind) or not numbers:
        raise UpdateError(f"the message's {STAMP!r} record lacks a valid {key!r}")
    return value


def record_of(content: RecordDict, name: str, kind: type[R]) -> R | None:
    """A message's record of this name, if it is there and of this kind.

    `RecordDict.array_records` and its like copy every record of their kind, checks included,
    each time they are asked.
    """
    record = content.get(name)
    return record if isinstance(record, kind) else None


def encode(tensors: Mapping[str, Tensor], wire_dtype: str = "float32") -> ArrayRecord:
    """Tensors as a Flower record, on the CPU, in the mapping's order.

    `wire_dtype` ``float16``: those of float32 are rounded to half as many bytes (`decode`
    widens them again); all others go as they are.
    """
    record = ArrayRecord()
    for name, tensor in tensors.items():
        values = tensor.detach().cpu().contiguous().numpy()
        if wire_dtype == "float16" and values.dtype == np.float32:
            values = values.astype(np.float16)
        data = b"".join((_npy_header(values.dtype, values.shape), values.data))
        record[name] = Array(_dtype_name(values.dtype), values.shape, _NPY, data)
    return record


def decode(record: ArrayRecord) -> dict[str, Tensor]:
    """The record's tensors, float16 widened to float32; `UpdateError` if they cannot be read."""
    try:
        return {name: _tensor(array) for name, array in record.items()}
    except Exception as exc:  # whatever a damaged or foreign payload raises
        raise UpdateError(f"tensors cannot be read ({type(exc).__name__}: {exc})") from None


def _tensor(array: Array) -> Tensor:
    # Flower parses the header of every array as a Python literal, which takes longer than to read
    # a small tensor; it is ours, so it is known beforehand. What another side wrote is left to Flower.
    dtype, data = np.dtype(array.dtype), array.data
    header = _npy_header(dtype, tuple(array.shape))
    expected = len(header) + math.prod(array.shape) * dtype.itemsize
    if array.stype == _NPY and len(data) == expected and data.startswith(header):
        values = np.frombuffer(data, dtype, offset=len(header)).reshape(array.shape).copy()
    else:
        values = array.numpy()
    return torch.from_numpy(values.astype(np.float32) if dtype == np.float16 else values)


@lru_cache
def _dtype_name(dtype: np.dtype) -> str:
    # NumPy puts the name together anew each time: for a small tensor it takes as long as the copy.
    return dtype.name


@lru_cache(maxsize=4096)
def _npy_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """What stands before the values in a .npy file of version 1, which is how Flower sends arrays."""
    buffer = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(dtype)
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()


def reply_content(
    stamp: Stamp,
    metrics: Mapping[str, float | int],
    tensors: Mapping[str, Tensor] | None = None,
    sums: Mapping[str, Tensor] | None = None,
    wire_dtype: str = "float32",
) -> RecordDict:
    """A client's answer; without tensors for an evaluation, with sums where the method sends any."""
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
    return None if record is None else str(record.get("reason", "no reason given"))


@dataclass(frozen=True)
class Plan:
    """What a round's messages weigh: this client's training images, and those of all who are asked.

    An engine that adds up on its workers needs the total beforehand, and hands out the
    largest clients first.
    """

    weight: int
    total_weight: int

    def to_record(self) -> ConfigRecord:
        """As a Flower record."""
        return ConfigRecord({"weight": self.weight, "total-weight": self.total_weight})

    @classmethod
    def from_content(cls, content: RecordDict) -> Plan:
        """Read from a message."""
        record = record_of(content, PLAN, ConfigRecord)
        if record is None:
            raise KeyError(PLAN)
        return cls(_field(record, "weight", int), _field(record, "total-weight", int))


def sum_on_worker(
    content: RecordDict, total: WeightedSum, template: Mapping[str, Tensor], weight: int
) -> None:
    """Move a reply's tensors into a worker's partial sum; the reply keeps a note that it was added."""
    tensors = received_tensors(content)
    check_update(tensors, template)
    total.add(tensors, weight)
    del content[ARRAYS]
    content[PARTIAL] = ConfigRecord({"weight": weight})


def attach_partial(content: RecordDict, total: WeightedSum) -> None:
    """Let one reply carry its worker's partial sum."""
    content[f"{PARTIAL}-sums"] = encode(total.partial())
    content[f"{PARTIAL}-weight"] = ConfigRecord({"weight": total.weight})


def add_update(
    content: RecordDict, total: WeightedSum, template: Mapping[str, Tensor], weight: int
) -> int:
    """Add a reply to the round's sum: its tensors, or the partial sum it brings.

    Returns the weight it stands for, which is not yet in `total` if a worker added it
    and another of its replies brings the sum.
    """
    added = record_of(content, PARTIAL, ConfigRecord)
    if added is None:
        tensors = received_tensors(content)
        check_update(tensors, template)
        total.add(tensors, weight)
        return weight
    if record_of(content, f"{PARTIAL}-sums", ArrayRecord) is not None:
        record = content.config_records[f"{PARTIAL}-weight"]
        total.merge_partial(
            received_tensors(content, f"{PARTIAL}-sums"), _field(record, "weight", int)
        )
    return _field(added, "weight", int)


def only_update(reply: Message) -> Message:
    """A reply with its tensors and metrics alone, as Flower's stock strategies want it."""
    content = RecordDict({name: reply.content[name] for name in (ARRAYS, METRICS)})
    return Message(content, reply_to=reply)


def received_tensors(content: RecordDict, name: str = ARRAYS) -> dict[str, Tensor]:
    """The tensors a message carries under a name; `UpdateError` if there are none."""
    record = record_of(content, name, ArrayRecord)
    if record is None:
        raise UpdateError(f"the message carries no {name!r}")
    return decode(record)


class Downlink:
    """The shared tensors of the newest message, decoded once for all clients of this process.

    Engines that keep several clients in a process hand them the same record object; whoever
    reads the tensors leaves them as they are, and if somebody did not, they are decoded anew.
    """

    def __init__(self) -> None:
        self._record: ArrayRecord | None = None
        self._tensors: dict[str, Tensor] = {}

    def tensors(self, content: RecordDict) -> dict[str, Tensor]:
        """As `received_tensors`; not to be written to."""
        record = record_of(content, ARRAYS, ArrayRecord)
        touched = any(tensor._version for tensor in self._tensors.values())
        if record is None or record is not self._record or touched:
            self._tensors, self._record = received_tensors(content), record
        return dict(self._tensors)


def metrics_of(content: RecordDict) -> dict[str, float | int]:
    """The scalars of a reply; `UpdateError` if there are none."""
    record = record_of(content, METRICS, MetricRecord)
    if record is None:
        raise UpdateError("the reply carries no metrics")
    return {key: value for key, value in record.items() if isinstance(value, (int, float))}
