from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fedloge.methods.head_tuning import fit_head
from fedloge.rng import rng


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_fit_head_is_sgd_on_cross_entropy(momentum: float) -> None:
    g = torch.Generator().manual_seed(0)
    features, labels = torch.randn(50, 6, generator=g), torch.randint(0, 3, (50,), generator=g)
    head = nn.Linear(6, 3)
    wanted = copy.deepcopy(head)
    fit_head(
        head, features, labels,
        epochs=3, lr=0.1, momentum=momentum, batch_size=8, generator=rng(0, "test"),
    )  # fmt: skip
    optimiser = torch.optim.SGD(wanted.parameters(), lr=0.1, momentum=momentum)
    generator = rng(0, "test")
    for _ in range(3):
        for batch in torch.from_numpy(generator.permutation(50)).split(8):
            optimiser.zero_grad()
            cross_entropy(wanted(features[batch]), labels[batch]).backward()
            optimiser.step()
    torch.testing.assert_close(head.weight, wanted.weight)
    torch.testing.assert_close(head.bias, wanted.bias)
