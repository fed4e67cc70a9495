from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedloge import messages as wire
from fedloge.errors import UpdateError
from fedloge.messages import Stamp

TENSORS = st.dictionaries(
    st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=12),
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.uint8]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    ).map(torch.from_numpy),
    max_size=5,
)
STAMPS = st.builds(
    Stamp,
    run_id=st.text(max_size=20),
    run_name=st.text(max_size=20),
    fingerprint=st.text(max_size=20),
    bases=st.lists(st.integers(0, 10**6), max_size=5).map(tuple),
    round=st.integers(0, 10**6),
    keep_round=st.integers(0, 10**6),
)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


@settings(max_examples=60, deadline=None)
@given(TENSORS)
def test_tensors_survive_the_wire_bit_by_bit(tensors: dict[str, torch.Tensor]) -> None:
    """Whatever the values, NaN payloads and signed zeros among them."""
    back = wire.decode(wire.encode(tensors))
    assert list(back) == list(tensors)
    for name, tensor in tensors.items():
        assert (back[name].dtype, back[name].shape) == (tensor.dtype, tensor.shape)
        assert bits(back[name]) == bits(tensor)


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


def test_strided_and_grad_carrying_tensors_go_as_their_values() -> None:
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    images = torch.randn(1, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    back = wire.decode(wire.encode({"t": weight.T, "i": images}))
    assert torch.equal(back["t"], weight.detach().T) and torch.equal(back["i"], images)
    assert back["t"].is_contiguous() and not back["t"].requires_grad


def test_a_sent_tensor_does_not_follow_its_network() -> None:
    tensor = torch.zeros(3)
    record = wire.encode({"x": tensor})
    tensor.fill_(7)
    assert wire.decode(record)["x"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("data", [b"", b"\x80\x04K\x01.", b"\x93NUMPY\x01\x00"])
def test_a_damaged_or_pickled_payload_is_refused(data: bytes) -> None:
    record = ArrayRecord({"x": Array("float32", (1,), "numpy.ndarray", data)})
    with pytest.raises(UpdateError, match="tensors cannot be read"):
        wire.decode(record)


def test_an_object_array_is_never_unpickled() -> None:
    """A payload that would run code on loading; numpy refuses it, and so do we."""
    import io
    import pickle

    class Bomb:
        def __reduce__(self) -> tuple:
            return (pytest.fail, ("code from the wire ran",))

    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "|O", "fortran_order": False, "shape": (1,)}
    )
    content = buffer.getvalue() + pickle.dumps(Bomb())
    record = ArrayRecord({"x": Array("object", (1,), "numpy.ndarray", content)})
    with pytest.raises(UpdateError, match="tensors cannot be read"):
        wire.decode(record)


def test_replies_and_refusals() -> None:
    stamp = Stamp("r", "r", "f", (0,), 1, 0)
    answer = wire.reply_content(stamp, {"a": 1, "b": 0.5}, {"w": torch.ones(2)})
    assert wire.failure_reason(answer) is None
    assert wire.metrics_of(answer) == {"a": 1, "b": 0.5}
    assert wire.received_tensors(answer)["w"].tolist() == [1, 1]
    with pytest.raises(UpdateError, match="carries no 'sums'"):
        wire.received_tensors(answer, wire.SUMS)
    assert wire.failure_reason(wire.failure_content("why")) == "why"
    with pytest.raises(UpdateError, match="carries no metrics"):
        wire.metrics_of(wire.failure_content("why"))


def test_the_bytes_are_those_that_flower_writes() -> None:
    tensors = {"w": torch.arange(48.0).view(3, 4, 2, 2), "s": torch.tensor(2.5), "n": torch.ones(0)}
    assert wire.encode(tensors) == ArrayRecord(tensors)


def test_an_array_in_another_order_is_read_as_flower_reads_it() -> None:
    values = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    assert np.array_equal(wire.decode(ArrayRecord({"f": Array(values)}))["f"], values)


def test_a_truncated_tensor_is_refused() -> None:
    whole = wire.encode({"w": torch.arange(5.0)})["w"]
    cut = Array(whole.dtype, whole.shape, whole.stype, whole.data[:-1])
    with pytest.raises(UpdateError, match="tensors cannot be read"):
        wire.decode(ArrayRecord({"w": cut}))


def test_half_the_bytes_and_float32_again() -> None:
    tensors = {"w": torch.linspace(-3, 3, 1000), "d": torch.ones(2).double(), "n": torch.arange(3)}
    whole, narrow = wire.encode(tensors), wire.encode(tensors, "float16")
    values = [len(record["w"].data) - 128 for record in (whole, narrow)]
    assert values == [4000, 2000]
    back = wire.decode(narrow)
    assert torch.equal(back["w"], tensors["w"].half().float())
    assert torch.equal(back["d"], tensors["d"]) and torch.equal(back["n"], tensors["n"])


def test_what_has_been_rounded_once_goes_as_it_is() -> None:
    once = wire.decode(wire.encode({"w": torch.linspace(-3, 3, 1000)}, "float16"))
    assert wire.encode(once, "float16") == wire.encode(
        wire.decode(wire.encode(once, "float16")), "float16"
    )
    assert torch.equal(wire.decode(wire.encode(once, "float16"))["w"], once["w"])


def test_a_round_s_tensors_are_decoded_once_and_anew_if_somebody_wrote_to_them() -> None:
    downlink = wire.Downlink()
    record = wire.encode({"w": torch.ones(2)})
    first = downlink.tensors(RecordDict({wire.ARRAYS: record}))["w"]
    assert downlink.tensors(RecordDict({wire.ARRAYS: record}))["w"] is first
    first.mul_(3)
    assert downlink.tensors(RecordDict({wire.ARRAYS: record}))["w"].tolist() == [1, 1]
    other = RecordDict({wire.ARRAYS: wire.encode({"w": torch.zeros(2)})})
    assert downlink.tensors(other)["w"].tolist() == [0, 0]
    with pytest.raises(UpdateError, match="carries no 'arrays'"):
        downlink.tensors(RecordDict({wire.STAMP: ConfigRecord({})}))


def test_a_record_of_another_kind_is_not_taken_for_the_one_asked_for() -> None:
    content = RecordDict({"stamp": ConfigRecord({"round": 1})})
    assert wire.record_of(content, "stamp", ConfigRecord) is content["stamp"]
    assert wire.record_of(content, "stamp", ArrayRecord) is None
    assert wire.record_of(content, "plan", ConfigRecord) is None
