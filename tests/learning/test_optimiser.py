from __future__ import annotations

import pytest
import torch
from torch import nn

from fedloge.config import Config
from fedloge.learning.optimiser import Sgd


def network() -> nn.Sequential:
    torch.default_generator.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def test_two_steps_by_hand() -> None:
    p = nn.Parameter(torch.tensor([1.0]))
    optimiser = Sgd([p], lr=0.5, momentum=0.5)
    for gradient in (1.0, 2.0):
        p.grad = torch.tensor([gradient])
        optimiser.step()
    # v = 1, p = 0.5; v = 0.5 + 2 = 2.5, p = 0.5 - 1.25
    assert p.item() == -0.75


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_it_is_torchs_own_to_the_bit(momentum: float, weight_decay: float) -> None:
    mine, theirs = network(), network()
    settings = {"lr": 0.1, "momentum": momentum, "weight_decay": weight_decay}
    optimisers = (
        Sgd(mine.parameters(), **settings),
        torch.optim.SGD(theirs.parameters(), fused=True, **settings),
    )
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    for _ in range(4):
        for net, optimiser in zip((mine, theirs), optimisers, strict=True):
            optimiser.zero_grad()
            net(x).square().sum().backward()
            optimiser.step()
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_parameter_without_a_gradient_rests_and_may_join_later() -> None:
    early, late = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([1.0]))
    optimiser = Sgd([early, late], lr=1.0, momentum=0.5)
    early.grad = torch.tensor([1.0])
    optimiser.step()
    assert (early.item(), late.item()) == (0.0, 1.0)
    early.grad, late.grad = torch.tensor([0.0]), torch.tensor([2.0])
    optimiser.step()
    # The one goes on with half its velocity, the other begins at its gradient.
    assert (early.item(), late.item()) == (-0.5, -1.0)


def test_a_config_s_optimiser_has_its_settings() -> None:
    p = nn.Parameter(torch.ones(2))
    made = Sgd.of(Config(lr=0.2, momentum=0.3, weight_decay=0.4), [p])
    assert (made.lr, made.momentum, made.weight_decay) == (0.2, 0.3, 0.4)
    own = torch.full((2,), 4.0)
    p.grad = torch.zeros(2)
    # v = 0.5 * 4 in the memory that was given, p = 1 - 2.
    Sgd.of(Config(lr=1.0, momentum=0.5), [p], [own]).step()
    assert own.tolist() == [2, 2] and p.tolist() == [-1, -1]
    # Without momentum there is nothing to keep, wherever it would be kept.
    Sgd.of(Config(lr=1.0, momentum=0.0), [p], [own]).step()
    assert own.tolist() == [2, 2] and p.tolist() == [-1, -1]
