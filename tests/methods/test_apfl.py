from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import grad
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


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), alpha=st.floats(0, 1))
def test_the_slope_of_alpha_is_autograds(seed: int, alpha: float) -> None:
    g = torch.Generator().manual_seed(seed)
    v, w = torch.randn(2, 7, 4, generator=g).double()
    labels = torch.randint(0, 4, (7,), generator=g)
    share = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)
    (slope,) = grad(cross_entropy(share * v + (1 - share) * w, labels), share)
    assert mixture_slope(v, w, labels, alpha) == pytest.approx(slope.item(), abs=1e-12)


def test_the_mixtures_loss_moves_the_own_model_only(federation: Callable[..., Any]) -> None:
    fed = federation("apfl", "alpha = 0.5")
    net, data = fed.net, fed.client_data(0, 1, {})
    x, y = next(iter(data.plain_batches()))
    mixture = fed.method.loss(net, x, y, data)["mixture"]
    shared = [*net.backbone.parameters(), *net.head.parameters()]
    own = [*net.own_backbone.parameters(), *net.own_head.parameters()]
    assert not any(
        g is not None for g in grad(mixture, shared, retain_graph=True, allow_unused=True)
    )
    assert all(g is not None for g in grad(mixture, own, allow_unused=True))
    assert not net.alpha.value.requires_grad


@pytest.mark.parametrize("rounds_trained", [0, 1])
def test_alpha_takes_one_step_a_round_under_the_models_as_it_begins(
    federation: Callable[..., Any], rounds_trained: int
) -> None:
    fed = federation("apfl", "alpha = 0.5", lr=0.1)
    net, data = fed.net, fed.client_data(0, 2, {}, rounds_trained)
    with torch.no_grad():
        net.own_head.weight.mul_(3)  # so that the two models differ
        net.eval()
        parts = [
            (net.own_head(net.own_backbone(x)), net.head(net.backbone(x)), y)
            for x, y in data.plain_batches()
        ]
    v, w, y = (torch.cat(part) for part in zip(*parts, strict=True))
    pull = (0.5 * (v + w)).softmax(dim=1) - one_hot(y, 10)
    slope = (pull * (v - w)).sum(dim=1).mean().item()
    assert abs(slope) > 1e-3
    # Before its first round a client's own model is the shared one.
    expected = 0.5 - 0.1 * slope if rounds_trained else 0.5
    assert fed.method.local_update(net, data).metrics["alpha"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("own", "limit"), [(-3, 0.0), (3, 1.0)])
def test_alpha_stays_a_share(federation: Callable[..., Any], own: float, limit: float) -> None:
    # One step of a size that would carry it past the end.
    alpha = abs(limit - 0.01)
    fed = federation("apfl", f"alpha = {alpha}", lr=100.0, batch_size=4096)
    net, data = fed.net, fed.client_data(0, 1, {}, rounds_trained=1)
    labels = data.train.labels
    with torch.no_grad():
        for parameter in (*net.head.parameters(), *net.own_head.parameters()):
            parameter.zero_()
        net.own_head.bias.copy_(own * one_hot(labels, 10).float().mean(dim=0))
    assert fed.method.local_update(net, data).metrics["alpha"] == limit


def test_the_shared_model_is_fedavgs(
    run_once: Callable[..., Path], trained: Callable[[Path], dict[str, Tensor]]
) -> None:
    mine, theirs = trained(run_once("apfl")), trained(run_once("fedavg"))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_options_out_of_range_are_refused(refuses: Callable[[str, str], None]) -> None:
    refuses("apfl", "alpha = 1.5")
