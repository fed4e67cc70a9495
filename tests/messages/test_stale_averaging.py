"""The step of a buffered run, against the paper's formula and the mean of a round."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedloge.messages import WeightedSum
from fedloge.messages.stale_averaging import StaleUpdate, buffered_step, staleness_weight


def model(seed: int) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(5, 3, generator=made), "b": torch.randn(3, generator=made)}


def test_it_is_the_papers_step_by_hand() -> None:
    """From 10: an update of +4, new, of 1 example, and one of +8, three steps old, of 3: 10 + (4 + 3 * 8 / 2) / 4."""
    now, old = {"w": torch.tensor([10.0])}, {"w": torch.tensor([2.0])}
    updates = [
        StaleUpdate({"w": torch.tensor([14.0])}, now, 1, 0),
        StaleUpdate({"w": torch.tensor([10.0])}, old, 3, 3),
    ]
    assert buffered_step(now, updates)["w"].item() == 14.0


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=6))
def test_without_stale_answers_it_is_the_mean_of_a_round_to_the_bit(weights: list[int]) -> None:
    now = model(0)
    total = WeightedSum(now, sum(weights))
    updates = []
    for seed, weight in enumerate(weights, start=1):
        total.add(model(seed), weight)
        updates.append(StaleUpdate(model(seed), now, weight, 0))
    step, mean = buffered_step(now, updates), total.mean()
    assert all(torch.equal(step[name], mean[name]) for name in now)


@given(st.data())
def test_it_is_the_formula_and_the_order_does_not_matter(data: st.DataObject) -> None:
    now, count = model(0), data.draw(st.integers(1, 5))
    ages = data.draw(st.lists(st.integers(0, 40), min_size=count, max_size=count))
    weights = data.draw(st.lists(st.integers(1, 500), min_size=count, max_size=count))
    updates = [
        StaleUpdate(model(10 + k), model(50 + age) if age else now, weight, age)
        for k, (age, weight) in enumerate(zip(ages, weights, strict=True))
    ]
    step = buffered_step(now, updates)
    for name, value in now.items():
        moved = sum(
            u.weight / math.sqrt(1 + u.staleness) * (u.tensors[name] - u.base[name]).double()
            for u in updates
        )
        assert torch.allclose(step[name].double(), value + moved / sum(weights), atol=5e-3)
    shuffled = buffered_step(now, data.draw(st.permutations(updates)))
    assert all(torch.equal(step[name], shuffled[name]) for name in now)


def test_weights_are_whole_numbers_that_fall_with_age() -> None:
    assert [staleness_weight(100, age) for age in (0, 1, 3, 8)] == [102400, 72408, 51200, 34133]


def test_large_weights_keep_within_64_bits() -> None:
    now, far = {"w": torch.full((2,), 8000.0)}, {"w": torch.full((2,), -8000.0)}
    updates = [StaleUpdate(now, far, 2**27, 1) for _ in range(4)]
    assert buffered_step(now, updates)["w"].tolist() == pytest.approx(
        [8000 + 16000 * round(2**27 / math.sqrt(2)) / 2**27] * 2
    )
    with pytest.raises(ValueError, match=r"expected 1 \.\. 2\^29"):
        buffered_step(now, [*updates, updates[0]])
    with pytest.raises(ValueError, match="add up to 0"):
        buffered_step(now, [])
