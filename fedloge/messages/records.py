"""Tensors to Flower's records and back; no other module knows their memory layout."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from fedloge.digest import digest
from fedloge.errors import UpdateError
from fedloge.messages.averaging import check_update

_NPY = "numpy.ndarray"  # Flower's name for the format of NumPy's .npy files
R = TypeVar("R", ArrayRecord, ConfigRecord, MetricRecord)


def record_of(content: RecordDict, name: str, kind: type[R]) -> R | None:
    """A message's record of this name; None if it is not there or of another kind.

    Cheaper than `RecordDict.array_records` and its like, which copy and check every record of
    their kind on each call.
    """
    record = content.get(name)
    return record if isinstance(record, kind) else None


def encode(tensors: Mapping[str, Tensor], wire_dtype: str = "float32") -> ArrayRecord:
    """Tensors as a Flower record, on the CPU, in the mapping's order.

    With `wire_dtype` ``float16``, float32 tensors are rounded to float16 (`decode` widens them
    again); all others stay as they are.
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
    """The record's tensors on the CPU, float16 widened to float32; `UpdateError` if they cannot be read."""
    try:
        return {name: _tensor(array) for name, array in record.items()}
    except Exception as exc:  # a damaged payload may raise anything
        raise UpdateError(f"tensors cannot be read ({type(exc).__name__}: {exc})") from None


def _tensor(array: Array) -> Tensor:
    # Flower parses the header of every array as a Python literal, which takes longer than reading
    # a small tensor. A header that `encode` wrote is known beforehand; any other is left to Flower.
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
    # Cached: NumPy builds the name on each access, which takes as long as copying a small tensor.
    return dtype.name


@lru_cache(maxsize=4096)
def _npy_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """The bytes before the values in a .npy file of version 1, the format in which Flower sends arrays."""
    buffer = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(dtype)
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()


def received_tensors(content: RecordDict, name: str) -> dict[str, Tensor]:
    """The tensors that a message carries under `name`; `UpdateError` if it has none or they cannot be read."""
    record = record_of(content, name, ArrayRecord)
    if record is None:
        raise UpdateError(f"the message carries no {name!r}")
    return decode(record)


class Downlink:
    """The shared tensors of the newest message, decoded and checked once for all clients of this process.

    Engines that keep several clients in a process give them the same record object. Readers must
    not write to the tensors; if one did, they are decoded again.
    """

    def __init__(self) -> None:
        self._record: ArrayRecord | None = None
        self._template: Mapping[str, Tensor] = {}
        self._tensors: dict[str, Tensor] = {}

    def tensors(
        self, content: RecordDict, name: str, template: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """As `received_tensors`; do not write to them.

        Parameters
        ----------
        template : the tensors that every client and the server begin with.

        Raises
        ------
        UpdateError
            They are no model that this template may have become (see `check_downlink`).
        """
        record = record_of(content, name, ArrayRecord)
        # torch counts in-place writes to a tensor in `_version`.
        written = any(tensor._version for tensor in self._tensors.values())
        other = record is not self._record or template is not self._template
        if record is None or other or written:
            received = received_tensors(content, name)
            check_downlink(received, template)
            self._tensors, self._record, self._template = received, record, template
        return dict(self._tensors)


def check_downlink(tensors: Mapping[str, Tensor], template: Mapping[str, Tensor]) -> None:
    """Refuse shared tensors that an honest server does not send.

    Raises
    ------
    UpdateError
        What `check_update` refuses, or a whole layer of one value where the model began with many.
    """
    try:
        check_update(tensors, template)
        for name, tensor in tensors.items():
            if tensor.numel() > 1 and _one_value(tensor) and not _one_value(template[name]):
                raise UpdateError(f"tensor {name!r} holds one value everywhere")
    except UpdateError as exc:
        raise UpdateError(f"the server sent a model that cannot be: {exc}") from None


def _one_value(tensor: Tensor) -> bool:
    least, most = tensor.aminmax()
    return bool(least == most)


def record_digest(arrays: ArrayRecord) -> str:
    """Hash of a record's names and bytes; what one side sends has the same at the other."""
    return digest(*(part for name, a in arrays.items() for part in (name.encode(), a.data)))


def num_bytes(arrays: ArrayRecord) -> int:
    """The bytes that a record's arrays take in a message."""
    return sum(len(array.data) for array in arrays.values())
