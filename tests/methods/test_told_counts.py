from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from fedloge.methods.fedyoyo import blended
from fedloge.methods.method import Aggregate
from fedloge.methods.told_counts import tell, told

NAME = "x.counts"
NOTHING = Aggregate(1, {NAME: torch.zeros(3)}, {}, {})


def test_ordinary_counts_are_told_as_they_are() -> None:
    after = tell(NOTHING, NAME, torch.tensor([3.0, 0.0, 16384.0]))
    assert after.shared[NAME].tolist() == [3, 0, 16384] and after.state == {}
    assert told(after, NAME).tolist() == [3, 0, 16384]


@given(st.lists(st.integers(0, 2**29 - 1), min_size=3, max_size=3))
def test_counts_of_any_size_fit_a_shared_tensor_and_come_back(counts: list[int]) -> None:
    given_counts = torch.tensor(counts, dtype=torch.float32)
    after = tell(NOTHING, NAME, given_counts)
    assert after.shared[NAME].max() < 2**15
    assert torch.equal(told(after, NAME), given_counts)
    own = torch.tensor([1, 2, 3])
    if given_counts.any():
        shares = [blended(c, own, 0.1) for c in (given_counts, after.shared[NAME])]
        assert torch.equal(*shares)


def test_the_unit_goes_back_to_an_image() -> None:
    large = tell(NOTHING, NAME, torch.tensor([40000.0, 1.0, 0.0]))
    small = tell(large, NAME, torch.tensor([5.0, 1.0, 0.0]))
    assert small.shared[NAME].tolist() == [5, 1, 0]
    assert told(small, NAME).tolist() == [5, 1, 0]
