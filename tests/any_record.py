"""Any record that Flower can carry, and edits of an honest answer, for hypothesis."""

from __future__ import annotations

from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import strategies as st

from fedloge import messages as wire

WHOLE = st.integers(-(2**63), 2**63 - 1)
NUMBER = WHOLE | st.floats()
METRIC = NUMBER | st.lists(WHOLE, max_size=3) | st.lists(st.floats(), max_size=3)
CONFIG = METRIC | st.booleans() | st.text(max_size=9) | st.binary(max_size=9)
FIGURE = st.sampled_from(
    ["images", "num-examples", "train/loss", "round", "client", "num-test", "personal/raw/accuracy"]
) | st.text(max_size=70)
ARRAY = st.builds(
    Array,
    dtype=st.sampled_from(["float32", "float16", "int64", "complex128", "object", "U3", "?", "no"]),
    shape=st.lists(st.integers(-2, 2**40), max_size=3).map(tuple),
    stype=st.sampled_from(["numpy.ndarray", "other", ""]),
    data=st.binary(max_size=200),
)
TENSOR = st.sampled_from(["backbone.0.weight", "head.weight"]) | st.text(max_size=9)
RECORD = (
    st.dictionaries(FIGURE, METRIC, max_size=3).map(MetricRecord)
    | st.dictionaries(st.text(max_size=9), CONFIG, max_size=3).map(ConfigRecord)
    | st.dictionaries(TENSOR, ARRAY, max_size=3).map(ArrayRecord)
)
NAME = st.sampled_from(
    [wire.STAMP, wire.METRICS, wire.ARRAYS, wire.SUMS, wire.FAILURE, wire.PARTIAL, "partial-sums"]
) | st.text(max_size=9)
STAMPED = st.sampled_from(["run-id", "run-name", "fingerprint", "bases", "round", "keep-round"])
EDIT = (
    st.tuples(st.just("record"), NAME, RECORD)
    | st.tuples(st.just("without"), NAME, st.none())
    | st.tuples(st.just("figure"), FIGURE, METRIC)
    | st.tuples(st.just("stamp"), STAMPED, CONFIG)
    | st.tuples(st.just("tensor"), st.integers(0, 20), ARRAY)
)


def edit(content: RecordDict, what: str, name: Any, value: Any) -> None:
    """Change one thing of an answer: a record, a figure, a part of the stamp, a tensor."""
    if what == "record":
        content[name] = value
    elif what == "without":
        content.pop(name, None)
    elif what == "figure" and isinstance(content.get(wire.METRICS), MetricRecord):
        content[wire.METRICS][name] = value
    elif what == "stamp" and isinstance(content.get(wire.STAMP), ConfigRecord):
        content[wire.STAMP][name] = value
    elif what == "tensor" and isinstance(content.get(wire.ARRAYS), ArrayRecord):
        names = list(content[wire.ARRAYS])
        if names:
            content[wire.ARRAYS][names[name % len(names)]] = value


def edited(content: RecordDict, edits: list[Any]) -> RecordDict:
    """A copy of an answer with edits; a copy of a record by copy.copy would share its entries."""
    copied = RecordDict({name: type(record)(dict(record)) for name, record in content.items()})
    for change in edits:
        edit(copied, *change)
    return copied
