"""Tensors as Flower's records, and back: the one module that knows how either lies in memory."""

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

from fedloge.errors import UpdateError

_NPY = "numpy.ndarray"  # Flower's name for the format of NumPy's .npy files
R = TypeVar("R", ArrayRecord, ConfigRecord, MetricRecord)


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


def received_tensors(content: RecordDict, name: str) -> dict[str, Tensor]:
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

    def tensors(self, content: RecordDict, name: str) -> dict[str, Tensor]:
        """As `received_tensors`; not to be written to."""
        record = record_of(content, name, ArrayRecord)
        touched = any(tensor._version for tensor in self._tensors.values())
        if record is None or record is not self._record or touched:
            self._tensors, self._record = received_tensors(content, name), record
        return dict(self._tensors)


def num_bytes(arrays: ArrayRecord) -> int:
    """What a record's arrays take on the wire."""
    return sum(len(array.data) for array in arrays.values())
