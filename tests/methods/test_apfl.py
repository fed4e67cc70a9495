from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from fedloge.methods.apfl import mixture_slope


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


def test_alphas_slope_is_the_derivative_of_the_mixtures_loss() -> None:
    v, w = torch.randn(2, 6, 10, generator=torch.Generator().manual_seed(0)).double()
    y = torch.tensor([0, 3, 3, 9, 1, 0])
    alpha = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(cross_entropy(alpha * v + (1 - alpha) * w, y), alpha)
    assert mixture_slope(v, w, y, 0.3) == pytest.approx(float(slope))


def test_alpha_takes_one_plain_step_per_round(federation: Callable[..., Any]) -> None:
    fed = federation("apfl", "alpha = 0.5")
    net, data = fed.net, fed.client_data(0, 1, {}, rounds_trained=1)
    with torch.no_grad():
        net.own_head.weight.mul_(3)  # so that the two models differ
        x, y = next(iter(data.plain_batches()))
        net.eval()
        slope = mixture_slope(net.own_head(net.own_backbone(x)), net.head(net.backbone(x)), y, 0.5)
    assert len(data.train) == len(y), "one batch, so that its slope is that of all"
    alpha = fed.method.local_update(net, data).metrics["alpha"]
    assert alpha == pytest.approx(0.5 - fed.config.lr * slope)
    # In a client's first round both models are one, and there is nothing to choose between.
    fed = federation("apfl", "alpha = 0.5")
    assert fed.method.local_update(fed.net, fed.client_data(0, 1, {})).metrics["alpha"] == 0.5


def test_the_mixtures_loss_moves_the_own_model_only(federation: Callable[..., Any]) -> None:
    fed = federation("apfl", "alpha = 0.5")
    net, data = fed.net, fed.client_data(0, 1, {})
    x, y = next(iter(data.plain_batches()))
    mixture = fed.method.loss(net, x, y, data)["mixture"]
    for module, moves in ((net.backbone, False), (net.head, False), (net.own_head, True)):
        slopes = torch.autograd.grad(
            mixture, list(module.parameters()), retain_graph=True, allow_unused=True
        )
        assert all((slope is not None) == moves for slope in slopes)


@pytest.mark.parametrize(("own", "limit"), [(-30, 0.0), (3, 1.0)])
def test_alpha_stays_a_share(federation: Callable[..., Any], own: float, limit: float) -> None:
    # One step of a size that would carry it past the end.
    alpha = abs(limit - 0.01)
    fed = federation("apfl", f"alpha = {alpha}", lr=100.0, batch_size=4096)
    net, data = fed.net, fed.client_data(0, 1, {}, rounds_trained=1)
    labels = data.train.labels
    with torch.no_grad():
        net.own_head.weight.zero_()
        net.own_head.bias.copy_(own * one_hot(labels, 10).float().mean(dim=0))
        fed.method._step_of_alpha(net, data)
    assert net.alpha.value.item() == limit


def test_the_shared_model_is_fedavgs(
    run_once: Callable[..., Path], trained: Callable[[Path], dict[str, Tensor]]
) -> None:
    mine, theirs = trained(run_once("apfl")), trained(run_once("fedavg"))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_options_out_of_range_are_refused(refuses: Callable[[str, str], None]) -> None:
    refuses("apfl", "alpha = 1.5")
