from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from fedloge.errors import GeometryError
from fedloge.geometry.mixed_features import ChannelSums, amplification, free_feature
from fedloge.geometry.simplex import simplex_etf


@pytest.mark.parametrize(
    ("classes", "penalty", "expected"),
    [
        (5, 0.1, 1.32),
        (5, 0.01, 1.53),
        (5, 0.001, 1.65),
        (10, 0.1, 1.34),
        (10, 0.01, 1.56),
        (10, 0.001, 1.67),
    ],
)
def test_amplification_of_a_free_feature(classes: int, penalty: float, expected: float) -> None:
    assert amplification(classes, penalty) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("share", [0.5, 0.8, 1.0])
def test_the_formula_is_what_descent_finds(share: float) -> None:
    w = simplex_etf(5, 8, seed=0).double()
    h = torch.zeros(1, 8, dtype=torch.float64, requires_grad=True)
    target = torch.zeros(1, 5, dtype=torch.float64)
    target[0, 0], target[0, 1] = share, 1 - share
    optimiser = torch.optim.LBFGS([h], max_iter=200, tolerance_grad=1e-12, tolerance_change=0)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = cross_entropy(h @ w.T, target) + 0.01 / 2 * (h * h).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    found = free_feature(5, share, 0.01)
    expected = found.a * w[0] + found.b * w[1]
    torch.testing.assert_close(h.detach()[0], expected, rtol=1e-6, atol=1e-6)
    assert found.a == pytest.approx((share - found.p_i + found.q) / 0.01, abs=1e-6)
    assert found.p_i + found.p_j + 3 * found.q == pytest.approx(1)


def test_mixed_examples_are_less_sure_than_their_labels() -> None:
    assert free_feature(5, 0.5, 0.1).p_i == pytest.approx(0.41, abs=0.005)
    assert free_feature(5, 0.5, 0.01).p_i == pytest.approx(0.48, abs=0.005)


def test_ratio_by_hand() -> None:
    w = torch.eye(3)
    first, second = torch.tensor([[2.0, 0, 0]]), torch.tensor([[0, 2.0, 0]])
    labels = torch.tensor([0]), torch.tensor([1])
    assert ChannelSums.of((first + second) / 2, first, second, labels, w).ratio == 1
    assert ChannelSums.of(first + second, first, second, labels, w).ratio == 2
    # A pair of one class says nothing, nor does one whose rows cancel.
    same = ChannelSums.of(first, first, first, (labels[0], labels[0]), w)
    flat = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0]])
    opposite = ChannelSums.of(first, first, second, labels, flat)
    assert same.pairs == 0 and math.isnan(same.ratio) and opposite.pairs == 0


def test_out_of_range() -> None:
    for bad in ((2, 0.5, 0.1), (5, 1.5, 0.1), (5, 0.5, 0.0)):
        with pytest.raises(GeometryError, match="free feature"):
            free_feature(*bad)
