from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedloge.errors import UpdateError
from fedloge.messages import records

TENSORS = st.dictionaries(
    st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=12),
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.uint8]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    ).map(torch.from_numpy),
    max_size=5,
)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


@settings(max_examples=60, deadline=None)
@given(TENSORS)
def test_tensors_survive_the_wire_bit_by_bit(tensors: dict[str, torch.Tensor]) -> None:
    """Whatever the values, NaN payloads and signed zeros among them."""
    back = records.decode(records.encode(tensors))
    assert list(back) == list(tensors)
    for name, tensor in tensors.items():
        assert (back[name].dtype, back[name].shape) == (tensor.dtype, tensor.shape)
        assert bits(back[name]) == bits(tensor)


def test_strided_and_grad_carrying_tensors_go_as_their_values() -> None:
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    images = torch.randn(1, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    back = records.decode(records.encode({"t": weight.T, "i": images}))
    assert torch.equal(back["t"], weight.detach().T) and torch.equal(back["i"], images)
    assert back["t"].is_contiguous() and not back["t"].requires_grad


def test_a_sent_tensor_does_not_follow_its_network() -> None:
    tensor = torch.zeros(3)
    record = records.encode({"x": tensor})
    tensor.fill_(7)
    assert records.decode(record)["x"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("data", [b"", b"\x80\x04K\x01.", b"\x93NUMPY\x01\x00"])
def test_a_damaged_or_pickled_payload_is_refused(data: bytes) -> None:
    record = ArrayRecord({"x": Array("float32", (1,), "numpy.ndarray", data)})
    with pytest.raises(UpdateError, match="tensors cannot be read"):
        records.decode(record)


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
        records.decode(record)


def test_the_bytes_are_those_that_flower_writes() -> None:
    tensors = {"w": torch.arange(48.0).view(3, 4, 2, 2), "s": torch.tensor(2.5), "n": torch.ones(0)}
    assert records.encode(tensors) == ArrayRecord(tensors)


def test_an_array_in_another_order_is_read_as_flower_reads_it() -> None:
    values = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    assert np.array_equal(records.decode(ArrayRecord({"f": Array(values)}))["f"], values)


def test_a_truncated_tensor_is_refused() -> None:
    whole = records.encode({"w": torch.arange(5.0)})["w"]
    cut = Array(whole.dtype, whole.shape, whole.stype, whole.data[:-1])
    with pytest.raises(UpdateError, match="tensors cannot be read"):
        records.decode(ArrayRecord({"w": cut}))


def test_half_the_bytes_and_float32_again() -> None:
    tensors = {"w": torch.linspace(-3, 3, 1000), "d": torch.ones(2).double(), "n": torch.arange(3)}
    whole, narrow = records.encode(tensors), records.encode(tensors, "float16")
    values = [len(record["w"].data) - 128 for record in (whole, narrow)]
    assert values == [4000, 2000]
    back = records.decode(narrow)
    assert torch.equal(back["w"], tensors["w"].half().float())
    assert torch.equal(back["d"], tensors["d"]) and torch.equal(back["n"], tensors["n"])


def test_what_has_been_rounded_once_goes_as_it_is() -> None:
    once = records.decode(records.encode({"w": torch.linspace(-3, 3, 1000)}, "float16"))
    assert records.encode(once, "float16") == records.encode(
        records.decode(records.encode(once, "float16")), "float16"
    )
    assert torch.equal(records.decode(records.encode(once, "float16"))["w"], once["w"])


def test_a_round_s_tensors_are_decoded_once_and_anew_if_somebody_wrote_to_them() -> None:
    downlink, template = records.Downlink(), {"w": torch.zeros(2)}
    record = records.encode({"w": torch.ones(2)})
    first = downlink.tensors(RecordDict({"arrays": record}), "arrays", template)["w"]
    assert downlink.tensors(RecordDict({"arrays": record}), "arrays", template)["w"] is first
    first.mul_(3)
    assert downlink.tensors(RecordDict({"arrays": record}), "arrays", template)["w"].tolist() == [
        1,
        1,
    ]
    other = RecordDict({"arrays": records.encode({"w": torch.zeros(2)})})
    assert downlink.tensors(other, "arrays", template)["w"].tolist() == [0, 0]
    with pytest.raises(UpdateError, match="carries no 'arrays'"):
        downlink.tensors(RecordDict({"stamp": ConfigRecord({})}), "arrays", template)


def test_a_record_of_another_kind_is_not_taken_for_the_one_asked_for() -> None:
    content = RecordDict({"stamp": ConfigRecord({"round": 1})})
    assert records.record_of(content, "stamp", ConfigRecord) is content["stamp"]
    assert records.record_of(content, "stamp", ArrayRecord) is None
    assert records.record_of(content, "plan", ConfigRecord) is None


def test_tensors_are_received_by_their_name() -> None:
    one, other = records.encode({"w": torch.ones(2)}), records.encode({"w": torch.zeros(2)})
    content = RecordDict({"arrays": one, "sums": other, "stamp": ConfigRecord({})})
    assert records.received_tensors(content, "arrays")["w"].tolist() == [1, 1]
    assert records.received_tensors(content, "sums")["w"].tolist() == [0, 0]
    for name in ("partial", "stamp"):
        with pytest.raises(UpdateError, match=f"the message carries no '{name}'"):
            records.received_tensors(content, name)


def test_bytes_are_those_of_all_arrays() -> None:
    record = records.encode({"w": torch.ones(3), "n": torch.arange(2)})
    assert records.num_bytes(record) == sum(len(array.data) for array in record.values())
    assert records.num_bytes(record) > 3 * 4 + 2 * 8
