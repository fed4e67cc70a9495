from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedloge.learning.probes.class_moments import class_moments, gaussians
from fedloge.messages.averaging import ExactSum


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


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.integers(1, 5), st.booleans(), st.randoms(use_true_random=False))
def test_sums_over_clients_are_those_of_all_at_once(
    seed: int, clients: int, full: bool, order
) -> None:
    g = torch.Generator().manual_seed(seed)
    # Whole numbers, so that not even a client's own float32 is rounded.
    features = torch.randint(-30, 31, (40, 5), generator=g).float()
    labels = torch.randint(0, 3, (40,), generator=g)
    owner = torch.randint(0, clients, (40,), generator=g)
    parts = [(features[owner == k], labels[owner == k]) for k in range(clients)]
    order.shuffle(parts)
    summed, whole = pooled(parts, 4, full), class_moments(features, labels, 4, full=full)
    assert summed.keys() == whole.keys()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in summed.items())
