"""Sums that workers make: the same bits as if the server had added every answer itself."""

from __future__ import annotations

import pytest
import torch
from flwr.app import RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloge import messages as wire
from fedloge.errors import UpdateError
from fedloge.messages import ExactSum, Stamp, WeightedSum, WorkerSum

TEMPLATE = {"w": torch.zeros(3), "b": torch.zeros(())}
UPLINK = {"s": torch.zeros(5, dtype=torch.float64)}


def answer(seed: int) -> RecordDict:
    g = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(zeros.shape, generator=g) for name, zeros in TEMPLATE.items()}
    sums = {"s": 100 * torch.randn(5, generator=g, dtype=torch.float64)}
    return wire.reply_content(Stamp("r", "r", "f", (0,), 1, 0), {}, tensors, sums)


def bits(mean: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    return {name: tensor.flatten().tolist() for name, tensor in mean.items()}


@settings(max_examples=30, deadline=None)
@given(
    weights=st.lists(st.integers(1, 900), min_size=1, max_size=8),
    workers=st.lists(st.integers(0, 2), min_size=8, max_size=8),
    order=st.randoms(use_true_random=False),
)
def test_what_workers_add_up_is_what_the_server_would(weights, workers, order) -> None:
    total = sum(weights)
    plain, plain_sums = WeightedSum(TEMPLATE, total), ExactSum(UPLINK)
    for k, weight in enumerate(weights):
        plain_sums.add(wire.received_tensors(answer(k), wire.SUMS))
        assert wire.add_update(answer(k), plain, TEMPLATE, weight) == weight

    replies = []
    for worker in range(3):
        own = [k for k in range(len(weights)) if workers[k] == worker]
        partial = WorkerSum(TEMPLATE, UPLINK, total)
        contents = [answer(k) for k in own]
        for k, content in zip(own, contents, strict=True):
            partial.take(content, weights[k])
            assert not {wire.ARRAYS, wire.SUMS} & content.keys() and wire.PARTIAL in content
        if contents:
            partial.attach(contents[-1])
        replies += [(k, content) for k, content in zip(own, contents, strict=True)]
    order.shuffle(replies)
    merged, merged_sums = WeightedSum(TEMPLATE, total), ExactSum(UPLINK)
    for _, content in replies:
        wire.merge_sums(content, merged_sums)
    stands_for = [wire.add_update(content, merged, TEMPLATE, weights[k]) for k, content in replies]
    assert sum(stands_for) == merged.weight == total
    assert bits(merged.mean()) == bits(plain.mean())
    assert bits(merged_sums.total()) == bits(plain_sums.total())


def test_a_sum_that_never_came_is_missed() -> None:
    partial, server = WorkerSum(TEMPLATE, UPLINK, 5), WeightedSum(TEMPLATE, 5)
    content = answer(0)
    partial.take(content, 5)
    assert wire.add_update(content, server, TEMPLATE, 5) == 5
    assert server.weight == 0


@pytest.mark.parametrize("where", ["worker", "server"])
def test_what_cannot_be_averaged_is_refused_where_it_is_added(where: str) -> None:
    content = wire.reply_content(
        Stamp("r", "r", "f", (0,), 1, 0), {}, {"w": torch.full((3,), float("nan"))}
    )
    total, worker = WeightedSum(TEMPLATE, 5), WorkerSum(TEMPLATE, {}, 5)
    with pytest.raises(UpdateError, match="'b' is missing"):
        if where == "worker":
            worker.take(content, 1)
        else:
            wire.add_update(content, total, TEMPLATE, 1)
    assert total.weight == 0 and wire.PARTIAL not in content


@pytest.mark.parametrize(
    "sums", [{}, {"s": torch.zeros(4)}, {"s": torch.full((5,), float("inf"))}], ids=str
)
def test_of_an_answer_with_wrong_sums_nothing_is_added(sums: dict[str, torch.Tensor]) -> None:
    content, worker = answer(0), WorkerSum(TEMPLATE, UPLINK, 5)
    content[wire.SUMS] = wire.encode(sums)
    with pytest.raises(UpdateError, match="'s'"):
        worker.take(content, 3)
    assert wire.ARRAYS in content and wire.PARTIAL not in content
    worker.take(answer(1), 2)
    worker.attach(content)
    assert content[f"{wire.PARTIAL}-weight"]["weight"] == 2


def test_a_partial_sum_of_another_model_is_refused() -> None:
    content, other = answer(0), {"w": torch.zeros(4), "b": torch.zeros(())}
    WorkerSum(TEMPLATE, UPLINK, 5).take(content, 1)
    WorkerSum(other, {"s": torch.zeros(4)}, 5).attach(content)
    with pytest.raises(ValueError, match="another model"):
        wire.add_update(content, WeightedSum(TEMPLATE, 5), TEMPLATE, 1)
    with pytest.raises(UpdateError, match="other names or shapes"):
        wire.merge_sums(content, ExactSum(UPLINK))
