"""Sums that workers make: the same bits as if the server had added every answer itself."""

from __future__ import annotations

import pytest
import torch
from flwr.app import RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloge import messages as wire
from fedloge.errors import UpdateError
from fedloge.messages import Stamp, WeightedSum

TEMPLATE = {"w": torch.zeros(3), "b": torch.zeros(())}


def answer(seed: int) -> RecordDict:
    g = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(zeros.shape, generator=g) for name, zeros in TEMPLATE.items()}
    return wire.reply_content(Stamp("r", "r", "f", (0,), 1, 0), {}, tensors)


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
    plain = WeightedSum(TEMPLATE, total)
    for k, weight in enumerate(weights):
        assert wire.add_update(answer(k), plain, TEMPLATE, weight) == weight

    replies = []
    for worker in range(3):
        own = [k for k in range(len(weights)) if workers[k] == worker]
        partial = WeightedSum(TEMPLATE, total)
        contents = [answer(k) for k in own]
        for k, content in zip(own, contents, strict=True):
            wire.sum_on_worker(content, partial, TEMPLATE, weights[k])
            assert wire.ARRAYS not in content and wire.PARTIAL in content
        if contents:
            wire.attach_partial(contents[-1], partial)
        replies += [(k, content) for k, content in zip(own, contents, strict=True)]
    order.shuffle(replies)
    merged = WeightedSum(TEMPLATE, total)
    stands_for = [wire.add_update(content, merged, TEMPLATE, weights[k]) for k, content in replies]
    assert sum(stands_for) == merged.weight == total
    assert bits(merged.mean()) == bits(plain.mean())


def test_a_sum_that_never_came_is_missed() -> None:
    partial, server = WeightedSum(TEMPLATE, 5), WeightedSum(TEMPLATE, 5)
    content = answer(0)
    wire.sum_on_worker(content, partial, TEMPLATE, 5)
    assert wire.add_update(content, server, TEMPLATE, 5) == 5
    assert server.weight == 0


@pytest.mark.parametrize("where", ["worker", "server"])
def test_what_cannot_be_averaged_is_refused_where_it_is_added(where: str) -> None:
    content = wire.reply_content(
        Stamp("r", "r", "f", (0,), 1, 0), {}, {"w": torch.full((3,), float("nan"))}
    )
    total = WeightedSum(TEMPLATE, 5)
    with pytest.raises(UpdateError, match="'b' is missing"):
        if where == "worker":
            wire.sum_on_worker(content, total, TEMPLATE, 1)
        else:
            wire.add_update(content, total, TEMPLATE, 1)
    assert total.weight == 0 and wire.PARTIAL not in content


def test_a_partial_sum_of_another_model_is_refused() -> None:
    content, other = answer(0), {"w": torch.zeros(4), "b": torch.zeros(())}
    wire.sum_on_worker(content, WeightedSum(TEMPLATE, 5), TEMPLATE, 1)
    wire.attach_partial(content, WeightedSum(other, 5))
    with pytest.raises(ValueError, match="another model"):
        wire.add_update(content, WeightedSum(TEMPLATE, 5), TEMPLATE, 1)
