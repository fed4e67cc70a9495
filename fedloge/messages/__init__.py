"""Tensors and Flower's records, the protocol of a run, and the exact average.

The lowest layer that imports Flower.
"""

from fedloge.messages.averaging import DifferenceSum, ExactSum, WeightedSum, check_update
from fedloge.messages.partial_sums import PARTIAL, add_update, attach_partial, sum_on_worker
from fedloge.messages.protocol import (
    ARRAYS,
    CLASS_COUNTS,
    FAILURE,
    GIVEN,
    LARGEST_FIGURE,
    LARGEST_SUM,
    METRICS,
    NUM_EXAMPLES,
    PLAN,
    SECOND_PASS,
    STAMP,
    SUMS,
    Plan,
    Stamp,
    failure_content,
    failure_reason,
    metrics_of,
    only_update,
    reply_content,
)
from fedloge.messages.records import (
    Downlink,
    decode,
    encode,
    num_bytes,
    received_tensors,
    record_digest,
    record_of,
)

__all__ = [
    "ARRAYS",
    "CLASS_COUNTS",
    "FAILURE",
    "GIVEN",
    "LARGEST_FIGURE",
    "LARGEST_SUM",
    "METRICS",
    "NUM_EXAMPLES",
    "PARTIAL",
    "PLAN",
    "SECOND_PASS",
    "STAMP",
    "SUMS",
    "DifferenceSum",
    "Downlink",
    "ExactSum",
    "Plan",
    "Stamp",
    "WeightedSum",
    "add_update",
    "attach_partial",
    "check_update",
    "decode",
    "encode",
    "failure_content",
    "failure_reason",
    "metrics_of",
    "num_bytes",
    "only_update",
    "received_tensors",
    "record_digest",
    "record_of",
    "reply_content",
    "sum_on_worker",
]
