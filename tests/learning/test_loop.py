"""The loop's arithmetic is held by `test_methods`; here, what it must not do."""

from __future__ import annotations

from pathlib import Path

import harness
import pytest
import torch
from torch import nn

from fedloge.federation import Federation
from fedloge.learning.loop import Sgd, sgd
from fedloge.methods.method import Part


def test_only_the_parameters_given_move(tmp_path: Path) -> None:
    fed = Federation(harness.tiny(tmp_path, method="fedavg"))
    net, data = fed.net, fed.client_data(0, 1, {})
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    sgd(net, list(net.head.parameters()), fed.method.loss, data, epochs=1)
    moved = {n for n, p in net.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"head.weight", "head.bias"}


def test_terms_add_up_to_the_loss(tmp_path: Path) -> None:
    fed = Federation(harness.tiny(tmp_path))
    metrics = sgd(
        fed.net,
        fed.method.trainable(fed.net),
        fed.method.loss,
        fed.client_data(0, 1, {}),
        epochs=2,
    )
    terms = [metrics[f"loss-{name}"] for name in ("fixed", "global", "local")]
    assert metrics["loss"] == sum(terms) and len(metrics) == 4


def test_a_purpose_gives_other_batches(tmp_path: Path) -> None:
    results = []
    for purpose in ("train", "train", "head"):
        fed = Federation(harness.tiny(tmp_path, method="fedavg"))
        net = fed.load(*fed.initial.values())
        data = fed.client_data(0, 1, {})
        sgd(net, list(net.parameters()), fed.method.loss, data, epochs=1, purpose=purpose)
        results.append({k: v.clone() for k, v in fed.tensors(Part.SHARED).items()})
    assert harness.same_tensors(results[0], results[1])
    assert not harness.same_tensors(results[0], results[2])


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
