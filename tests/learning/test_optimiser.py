from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fedloge.config import Config
from fedloge.learning.optimiser import AdamW, Sgd, optimiser_of


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
@pytest.mark.parametrize("nesterov", [False, True])
def test_it_is_torchs_own_to_the_bit(momentum: float, weight_decay: float, nesterov: bool) -> None:
    settings: dict[str, Any] = {"lr": 0.1, "momentum": momentum, "weight_decay": weight_decay}
    if nesterov and momentum:
        settings["nesterov"] = True
    same_steps(lambda p: Sgd(p, **settings), lambda p: torch.optim.SGD(p, fused=True, **settings))


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_adamw_is_torchs_own_to_the_bit(weight_decay: float) -> None:
    settings: dict[str, Any] = {"lr": 0.1, "betas": (0.8, 0.95), "weight_decay": weight_decay}
    same_steps(
        lambda p: AdamW(p, **settings), lambda p: torch.optim.AdamW(p, fused=True, **settings)
    )


def same_steps(ours: Callable[[Any], Any], torchs: Callable[[Any], Any]) -> None:
    mine, theirs = network(), network()
    optimisers = ours(mine.parameters()), torchs(theirs.parameters())
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


def test_a_reset_makes_the_next_step_a_fresh_ones_in_the_same_memory() -> None:
    for made in (
        Sgd([nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9, nesterov=True),
        AdamW([nn.Parameter(torch.ones(2))], lr=0.1),
    ):
        (p,) = made.parameters
        kept, moved = made.reset(), []
        for _ in range(2):
            p.data.fill_(1.0)
            p.grad = torch.tensor([0.5, -2.0])
            made.step()
            moved.append(p.detach().clone())
            assert all(a is b for a, b in zip(kept, made.reset(), strict=True))
        assert torch.equal(*moved)


def test_the_rate_can_be_changed_where_recorded_steps_read_it() -> None:
    for kind in (Sgd, AdamW):
        plain, recorded = (kind([nn.Parameter(torch.ones(3))], lr=0.1) for _ in range(2))
        recorded.keep_lr_in_memory()
        memory = recorded.lr
        for lr in (0.1, 0.02):
            for made in (plain, recorded):
                made.take_lr(lr)
                made.parameters[0].grad = torch.tensor([1.0, -0.5, 2.0])
                made.step()
        assert recorded.lr is memory
        torch.testing.assert_close(plain.parameters[0], recorded.parameters[0])


def test_a_config_s_optimiser_has_its_settings() -> None:
    p = nn.Parameter(torch.ones(2))
    made = optimiser_of(Config(momentum=0.3, weight_decay=0.4, nesterov=True), [p], lr=0.2)
    assert isinstance(made, Sgd) and made.nesterov
    assert (made.lr, made.momentum, made.weight_decay) == (0.2, 0.3, 0.4)
    config = Config(optimiser="adamw", adam_beta1=0.5, adam_beta2=0.6, adam_eps=0.1)
    adamw = optimiser_of(config, [p], lr=0.2, weight_decay=0.3)
    assert isinstance(adamw, AdamW)
    assert (adamw.lr, adamw.betas, adamw.eps, adamw.weight_decay) == (0.2, (0.5, 0.6), 0.1, 0.3)
