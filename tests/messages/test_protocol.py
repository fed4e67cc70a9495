from __future__ import annotations

import pytest
import torch
from flwr.app import ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloge import messages as wire
from fedloge.errors import UpdateError
from fedloge.messages import Plan, Stamp

STAMPS = st.builds(
    Stamp,
    run_id=st.text(max_size=20),
    run_name=st.text(max_size=20),
    fingerprint=st.text(max_size=20),
    bases=st.lists(st.integers(0, 10**6), max_size=5).map(tuple),
    round=st.integers(0, 10**6),
    keep_round=st.integers(0, 10**6),
)


@settings(max_examples=100, deadline=None)
@given(STAMPS)
def test_a_stamp_survives_the_wire(stamp: Stamp) -> None:
    assert Stamp.from_content(RecordDict({wire.STAMP: stamp.to_record()})) == stamp


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(1, 6), st.integers(1, 12))
def test_history_is_what_every_later_attempt_began_after(
    bases: list[int], attempt: int, round: int
) -> None:
    stamp = Stamp("r", "r", "f", tuple(bases), 99, 0)
    lived = attempt <= len(bases)
    for base in bases[attempt:]:
        if round > base:
            lived = False
    assert stamp.follows(attempt, round) == lived


@pytest.mark.parametrize(
    "key", ["run-id", "run-name", "fingerprint", "bases", "round", "keep-round"]
)
@pytest.mark.parametrize("value", [None, 1.5, b"x", ["a"]])
def test_a_malformed_stamp_names_the_key(key: str, value: object) -> None:
    record = dict(Stamp("r", "r", "f", (0,), 1, 0).to_record())
    record.pop(key)
    if value is not None:
        record[key] = value
    with pytest.raises(UpdateError, match=f"lacks a valid '{key}'"):
        Stamp.from_content(RecordDict({wire.STAMP: ConfigRecord(record)}))


def test_replies_and_refusals() -> None:
    stamp = Stamp("r", "r", "f", (0,), 1, 0)
    answer = wire.reply_content(stamp, {"a": 1, "b": 0.5}, {"w": torch.ones(2)})
    assert wire.failure_reason(answer) is None
    assert wire.metrics_of(answer) == {"a": 1, "b": 0.5}
    assert wire.received_tensors(answer, wire.ARRAYS)["w"].tolist() == [1, 1]
    with pytest.raises(UpdateError, match="carries no 'sums'"):
        wire.received_tensors(answer, wire.SUMS)
    assert wire.failure_reason(wire.failure_content("why")) == "why"
    with pytest.raises(UpdateError, match="carries no metrics"):
        wire.metrics_of(wire.failure_content("why"))


def test_an_answer_carries_tensors_and_sums_only_where_there_are_any() -> None:
    stamp = Stamp("r", "r", "f", (0,), 1, 0)
    assert set(wire.reply_content(stamp, {"a": 1})) == {wire.STAMP, wire.METRICS}
    answer = wire.reply_content(stamp, {}, {"w": torch.full((2,), 0.1)}, {}, "float16")
    assert set(answer) == {wire.STAMP, wire.METRICS, wire.ARRAYS}
    assert wire.received_tensors(answer, wire.ARRAYS)["w"].tolist() == [0.0999755859375] * 2
    # Sums are never rounded.
    answer = wire.reply_content(stamp, {}, None, {"s": torch.full((1,), 0.1)}, "float16")
    assert set(answer) == {wire.STAMP, wire.METRICS, wire.SUMS}
    assert torch.equal(wire.received_tensors(answer, wire.SUMS)["s"], torch.full((1,), 0.1))
    assert Stamp.from_content(answer) == stamp


def test_a_version_is_of_one_round_of_one_attempt_of_one_run() -> None:
    base = {"run_id": "r", "run_name": "n", "fingerprint": "f", "keep_round": 0}
    stamps = [
        Stamp(**base, bases=(0,), round=1),
        Stamp(**base, bases=(0,), round=2),
        Stamp(**base, bases=(0, 1), round=2),
        Stamp(**base | {"run_id": "s"}, bases=(0,), round=1),
    ]
    assert len({stamp.version for stamp in stamps}) == len(stamps)


@given(st.integers(0, 2**31), st.integers(0, 2**31))
def test_a_plan_survives_the_wire(weight: int, total: int) -> None:
    plan = Plan(weight, total)
    assert Plan.from_content(RecordDict({wire.PLAN: plan.to_record()})) == plan


def test_a_message_without_a_plan_has_none() -> None:
    with pytest.raises(KeyError):
        Plan.from_content(RecordDict({}))
    for broken in ({"weight": 1}, {"weight": 1.5, "total-weight": 2}):
        with pytest.raises(UpdateError, match="lacks a valid"):
            Plan.from_content(RecordDict({wire.PLAN: ConfigRecord(broken)}))
