from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fedloge.labs import LABS
from fedloge.labs.law_lab import COUNTS, split
from fedloge.labs.small_federation import dirichlet_parts, federated


def test_the_law_holds_at_one_place_and_for_equal_clients() -> None:
    found, figure = LABS["collapse"].run(0)
    gaps = {f.what.partition(", ")[2]: f.measured for f in found if f.what.startswith("largest")}
    assert gaps["at one place"] < 0.01
    assert gaps["FedAvg, alpha 100"] < 0.02 < gaps["FedAvg, alpha 0.1"]
    assert all(f.holds is not False for f in found)
    assert figure.axes


@pytest.mark.slow
def test_mixup() -> None:
    found, figure = LABS["mixup"].run(0)
    assert [f.holds for f in found[:4]] == [True] * 4
    iid, _, skewed = (f.measured for f in found[4:])
    assert skewed < iid  # seen here: averaging over skewed clients takes back what mixup pushed out
    assert len(figure.axes) == 6


def test_no_example_is_lost_in_a_split() -> None:
    counts = torch.stack(split(0.1, seed=3)).sum(dim=0)
    assert counts.tolist() == list(COUNTS)
    labels = torch.arange(4).repeat_interleave(25)
    parts = dirichlet_parts(labels, 3, 0.1, seed=0)
    assert sorted(torch.cat(parts).tolist()) == list(range(100))


def test_averaging_weighs_by_examples() -> None:
    net = nn.Linear(1, 1, bias=False)

    def to_own_size(local: nn.Module, own: torch.Tensor, generator: np.random.Generator) -> None:
        local.weight.data.fill_(float(len(own)))  # type: ignore[operator,union-attr]

    parts = [torch.arange(1), torch.arange(3), torch.arange(0)]
    shared = federated(net, parts, 1, to_own_size, seed=0)
    assert shared.weight.item() == pytest.approx((1 * 1 + 3 * 3) / 4)  # type: ignore[operator]
