from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedloge.errors import ConfigError
from fedloge.learning.probes.class_moments import class_moments
from fedloge.messages.averaging import ExactSum
from fedloge.methods.ccvr import CCVR, virtual_features
from fedloge.models.head import LinearHead


def pooled(parts: list[tuple[Tensor, Tensor]], classes: int, full: bool) -> dict[str, Tensor]:
    """What the server gets from clients that hold these features and labels."""
    moments = [class_moments(h, y, classes, full=full) for h, y in parts]
    total = ExactSum(moments[0])
    for each in moments:
        total.add(each)
    return total.total()


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
    (probe,) = method.probes()
    calibrated = probe.finish(net, sums).predictors["calibrated"].head
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
    (probe,) = method.probes()
    sums = probe.collect(net, data)
    assert {k: (v.shape, v.dtype) for k, v in sums.items()} == {
        k: (v.shape, v.dtype) for k, v in probe.template(net).items()
    }
    torch.testing.assert_close(sums["counts"], torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(sums["sums"], torch.tensor([[4.0, 6.0], [5.0, 0.0]]))
    # h h^T: [[1 + 9, 2 + 12], [., 4 + 16]] and [[25, 0], [., 0]]
    expected = torch.tensor([[10.0, 14.0, 20.0], [25.0, 0.0, 0.0]])
    torch.testing.assert_close(sums["second-moments"], expected)


def test_covariances_too_large_to_send_are_refused(task: Callable[..., Any]) -> None:
    large = task(num_classes=200, dim=512)
    with pytest.raises(ConfigError, match="covariance = diagonal"):
        CCVR(large, CCVR.Options()).probes()
    diagonal = CCVR(large, CCVR.Options(covariance="diagonal"))
    (probe,) = diagonal.probes()
    assert probe.template(diagonal.build())["second-moments"].shape == (200, 512)


def test_where_no_client_sent_a_feature_nothing_is_calibrated(task: Callable[..., Any]) -> None:
    method = CCVR(task(num_classes=2, dim=2), CCVR.Options())
    net = method.build()
    (probe,) = method.probes()
    assert probe.finish(net, probe.template(net)).predictors == {}


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_a_run(run_twice: Callable[..., Any], covariance: str) -> None:
    run = run_twice("ccvr", f"virtual-features = 20, epochs = 2, covariance = {covariance}")
    last = run.metrics[-1]
    assert {"global/raw/all", "global/calibrated/all", "personal/tuned/mean"} <= last.keys()
    assert {"ccvr/counts", "ccvr/sums", "ccvr/second-moments"} <= run.sent


def test_options_out_of_range_are_refused(refuses: Callable[[str, str], None]) -> None:
    refuses("ccvr", "virtual-features = 0")
    refuses("ccvr", "covariance = round")
