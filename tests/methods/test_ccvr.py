from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedloge.errors import ConfigError
from fedloge.messages.averaging import ExactSum
from fedloge.methods.ccvr import CCVR, class_moments, gaussians, virtual_features
from fedloge.models.head import LinearHead


def pooled(parts: list[tuple[Tensor, Tensor]], classes: int, full: bool) -> dict[str, Tensor]:
    """What the server gets from clients that hold these features and labels."""
    moments = [class_moments(h, y, classes, full=full) for h, y in parts]
    total = ExactSum(moments[0])
    for each in moments:
        total.add(each)
    return total.total()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 999), st.integers(1, 4), st.booleans())
def test_pooled_gaussians_are_those_of_the_pooled_features(
    seed: int, clients: int, full: bool
) -> None:
    g = torch.Generator().manual_seed(seed)
    features = 3 + torch.randn(40, 5, generator=g) @ torch.randn(5, 5, generator=g)
    labels = torch.randint(0, 3, (40,), generator=g)
    owner = torch.randint(0, clients, (40,), generator=g)
    parts = [(features[owner == k], labels[owner == k]) for k in range(clients)]
    counts, mean, covariance = gaussians(*pooled(parts, 4, full).values())
    for c in range(3):
        own = features[labels == c].double()
        assert counts[c] == len(own)
        torch.testing.assert_close(mean[c], own.mean(dim=0), atol=1e-5, rtol=1e-5)
        expected = torch.cov(own.T) if full else own.var(dim=0)
        torch.testing.assert_close(covariance[c], expected, atol=2e-4, rtol=1e-5)
    assert counts[3] == 0 and not mean[3].any() and not covariance[3].any()


def test_one_image_has_no_spread() -> None:
    h, y = torch.tensor([[1.0, 2.0]]), torch.tensor([0])
    for full in (True, False):
        _, mean, covariance = gaussians(*class_moments(h, y, 1, full=full).values())
        assert mean.tolist() == [[1, 2]] and not covariance.any()


def test_virtual_features_have_the_moments_they_are_drawn_from() -> None:
    mean = torch.tensor([[1.0, -2.0, 0.5]]).double()
    # Rank 2, as from three images in three dimensions.
    root = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 0.5]]).double()
    covariance = (root @ root.T)[None]
    noise = torch.randn(1, 100_000, 3, generator=torch.Generator().manual_seed(0))
    drawn = virtual_features(mean, covariance, noise)[0]
    torch.testing.assert_close(drawn.mean(dim=0).double(), mean[0], atol=0.03, rtol=0)
    torch.testing.assert_close(torch.cov(drawn.T).double(), covariance[0], atol=0.06, rtol=0)
    variances = torch.tensor([[4.0, 0.0, 1.0]]).double()
    drawn = virtual_features(mean, variances, noise)[0]
    torch.testing.assert_close(drawn.var(dim=0).double(), variances[0], atol=0.04, rtol=0)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_calibration_helps_on_a_long_tail(task: Callable[..., Any], covariance: str) -> None:
    # Three Gaussians of 1000, 30 and 10 samples: the head trained on them leans to the first.
    # From their moments alone, the calibrated head does better on balanced samples.
    g = torch.Generator().manual_seed(0)
    method = CCVR(task(num_classes=3), CCVR.Options(covariance=covariance))
    net = method.build()
    d = net.head.in_features
    centres = 0.5 * torch.randn(3, d, generator=g)

    def draw(counts: list[int]) -> tuple[Tensor, Tensor]:
        labels = torch.arange(3).repeat_interleave(torch.tensor(counts))
        return centres[labels] + torch.randn(len(labels), d, generator=g), labels

    features, labels = draw([1000, 30, 10])
    test, truth = draw([500, 500, 500])
    optimiser = torch.optim.SGD(net.head.parameters(), lr=0.1)
    for _ in range(200):
        optimiser.zero_grad()
        cross_entropy(net.head(features), labels).backward()
        optimiser.step()
    parts = [(features[::2], labels[::2]), (features[1::2], labels[1::2])]
    sums = pooled(parts, 3, covariance == "full")
    before = net.head.weight.detach().clone()
    calibrated = method.calibrated_predictors(net, sums)["calibrated"].head
    assert torch.equal(net.head.weight, before)
    accuracy = {
        name: (head.predict(test) == truth).double().mean().item()
        for name, head in (("raw", LinearHead.of(net.head)), ("calibrated", calibrated))
    }
    assert accuracy["calibrated"] > accuracy["raw"] + 0.1, accuracy


def test_a_client_sends_the_moments_of_its_own_images(
    task: Callable[..., Any], client: Callable[..., Any]
) -> None:
    made = task(num_classes=2, dim=2)
    method = CCVR(made, CCVR.Options())
    net = method.build()
    data = client(made, torch.tensor([[1, 2], [3, 4], [5, 0]]), torch.tensor([0, 0, 1]))
    sums = method.evaluation_sums(net, data)
    assert {k: v.shape for k, v in sums.items()} == {
        k: v.shape for k, v in method.evaluation_uplink(net).items()
    }
    torch.testing.assert_close(sums["counts"], torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(sums["sums"], torch.tensor([[4.0, 6.0], [5.0, 0.0]]))
    # h h^T: [[1 + 9, 2 + 12], [., 4 + 16]] and [[25, 0], [., 0]]
    expected = torch.tensor([[10.0, 14.0, 20.0], [25.0, 0.0, 0.0]])
    torch.testing.assert_close(sums["second-moments"], expected)


def test_covariances_too_large_to_send_are_refused(task: Callable[..., Any]) -> None:
    large = task(num_classes=200, dim=512)
    with pytest.raises(ConfigError, match="covariance = diagonal"):
        CCVR(large, CCVR.Options()).evaluation_uplink(CCVR(large, CCVR.Options()).build())
    diagonal = CCVR(large, CCVR.Options(covariance="diagonal"))
    assert diagonal.evaluation_uplink(diagonal.build())["second-moments"].shape == (200, 512)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_a_run(run_twice: Callable[..., Any], covariance: str) -> None:
    run = run_twice("ccvr", f"virtual-features = 20, epochs = 2, covariance = {covariance}")
    last = run.metrics[-1]
    assert {"global/raw/all", "global/calibrated/all", "personal/tuned/mean"} <= last.keys()
    assert {"counts", "sums", "second-moments"} <= run.sent


def test_options_out_of_range_are_refused(refuses: Callable[[str, str], None]) -> None:
    refuses("ccvr", "virtual-features = 0")
    refuses("ccvr", "covariance = round")
