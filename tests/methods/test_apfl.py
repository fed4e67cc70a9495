from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot


def personal_logits(fed: Any, x: Tensor) -> Tensor:
    predictor = fed.method.personal_predictors(fed.net, fed.client_data(0, 1, {}, 1))["raw"]
    with torch.no_grad():
        return predictor.head.logits(getattr(fed.method, predictor.extractor)(fed.net, x))


@pytest.mark.parametrize("alpha", [0, 0.25, 1])
def test_the_mixture_and_its_limits(federation: Callable[..., Any], alpha: float) -> None:
    fed = federation("apfl", f"alpha = {alpha}, adaptive = false")
    net, data = fed.net, fed.client_data(0, 1, {})
    update = fed.method.local_update(net, data)
    assert update.metrics["alpha"] == alpha
    net.eval()
    x, _ = next(iter(data.plain_batches()))
    with torch.no_grad():
        v, w = net.own_head(net.own_backbone(x)), net.head(net.backbone(x))
    assert not torch.allclose(v, w) or alpha == 1  # at alpha = 1 both minimise one loss
    torch.testing.assert_close(personal_logits(fed, x), alpha * v + (1 - alpha) * w)


def test_a_share_of_nothing_leaves_the_own_model_where_it_was(
    federation: Callable[..., Any],
) -> None:
    fed = federation("apfl", "alpha = 0, adaptive = false")
    before = fed.net.own_head.weight.clone()
    fed.method.local_update(fed.net, fed.client_data(0, 1, {}))
    assert torch.equal(fed.net.own_head.weight, before)


def test_alpha_follows_its_gradient(federation: Callable[..., Any]) -> None:
    fed = federation("apfl", "alpha = 0.5")
    net, data = fed.net, fed.client_data(0, 1, {})
    with torch.no_grad():
        net.own_head.weight.mul_(3)  # so that the two models differ
    x, y = next(iter(data.plain_batches()))
    losses = fed.method.loss(net, x, y, data)
    slope = torch.autograd.grad(losses["mixture"], net.alpha.value, retain_graph=True)[0]
    with torch.no_grad():
        v, w = net.own_head(net.own_backbone(x)), net.head(net.backbone(x))
    pull = (0.5 * (v + w)).softmax(dim=1) - one_hot(y, 10)
    torch.testing.assert_close(slope, (pull * (v - w)).sum(dim=1).mean())
    shared = [*net.backbone.parameters(), *net.head.parameters()]
    assert not any(
        g is not None for g in torch.autograd.grad(losses["mixture"], shared, allow_unused=True)
    )


@pytest.mark.parametrize(("own", "limit"), [(-3, 0.0), (3, 1.0)])
def test_alpha_stays_a_share(federation: Callable[..., Any], own: float, limit: float) -> None:
    # One step of a size that would carry it past the end.
    alpha = abs(limit - 0.01)
    fed = federation("apfl", f"alpha = {alpha}", lr=100.0, batch_size=4096)
    net, data = fed.net, fed.client_data(0, 1, {})
    labels = data.train.labels
    with torch.no_grad():
        net.own_head.weight.zero_()
        net.own_head.bias.copy_(own * torch.nn.functional.one_hot(labels, 10).float().mean(dim=0))
    assert fed.method.local_update(net, data).metrics["alpha"] == limit


def test_the_shared_model_is_fedavgs(
    run_once: Callable[..., Path], trained: Callable[[Path], dict[str, Tensor]]
) -> None:
    mine, theirs = trained(run_once("apfl")), trained(run_once("fedavg"))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_options_out_of_range_are_refused(refuses: Callable[[str, str], None]) -> None:
    refuses("apfl", "alpha = 1.5")
