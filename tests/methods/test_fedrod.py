from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import grad
from torch.nn.functional import cross_entropy, one_hot


def test_each_loss_moves_its_own_part(federation: Callable[..., Any]) -> None:
    fed = federation("fedrod")
    net, data = fed.net, fed.client_data(0, 1, {})
    x, y = next(iter(data.plain_batches()))
    losses = fed.method.loss(net, x, y, data)
    generic, private = (
        [*net.backbone.parameters(), *net.head.parameters()],
        [*net.private_head.parameters()],
    )
    assert not any(
        g is not None
        for g in grad(losses["private"], generic, retain_graph=True, allow_unused=True)
    )
    assert not any(
        g is not None
        for g in grad(losses["generic"], private, retain_graph=True, allow_unused=True)
    )

    # The private loss is cross-entropy of the summed logits; the generic one is balanced.
    h = net.backbone(x)
    both = net.head(h) + net.private_head(h)
    torch.testing.assert_close(losses["private"], cross_entropy(both, y))
    weighted = data.counts * net.head(h).exp()
    expected = -(weighted / weighted.sum(dim=1, keepdim=True)).log().gather(1, y[:, None]).mean()
    torch.testing.assert_close(losses["generic"], expected)

    slope = grad(losses["private"], net.private_head.bias)[0]
    by_hand = (both.softmax(dim=1) - one_hot(y, 10)).mean(dim=0)
    torch.testing.assert_close(slope, by_hand.detach())


def test_personal_logits_are_the_sum(federation: Callable[..., Any]) -> None:
    fed = federation("fedrod")
    h = torch.randn(7, 128, generator=torch.Generator().manual_seed(0))
    trained = fed.method.personal_predictors(fed.net, fed.client_data(0, 1, {}, 1))["raw"].head
    never = fed.method.personal_predictors(fed.net, fed.client_data(0, 1, {}, 0))["raw"].head
    with torch.no_grad():
        torch.testing.assert_close(trained.logits(h), fed.net.head(h) + fed.net.private_head(h))
        torch.testing.assert_close(never.logits(h), fed.net.head(h))


def test_its_losses_are_fixed(has_no_option: Callable[[str, str], None]) -> None:
    has_no_option("fedrod", "loss = focal")
