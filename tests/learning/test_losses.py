from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fedloge.errors import ConfigError
from fedloge.learning import losses

COUNTS = torch.tensor([81, 16, 1])
NAMES = ["cross-entropy", "balanced-softmax", "logit-adjusted", "fedlc", "ldam", "focal", "ratio"]


def case(seed: int, counts: Tensor, samples: int = 6) -> tuple[Tensor, Tensor]:
    """Random logits, and labels among the classes that are present."""
    g = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(samples, len(counts), generator=g)
    labels = torch.multinomial((counts > 0).float(), samples, replacement=True, generator=g)
    return logits, labels


some_counts = st.lists(st.integers(0, 500), min_size=2, max_size=6).filter(any).map(torch.tensor)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), some_counts)
def test_what_equals_what(seed: int, counts: Tensor) -> None:
    logits, labels = case(seed, counts)
    plain = F.cross_entropy(logits, labels)
    close = torch.testing.assert_close
    close(losses.cross_entropy(logits, labels), plain)
    close(losses.focal(logits, labels, gamma=0.0), plain)
    close(losses.fedlc(logits, labels, counts, tau=0.0), plain)
    close(losses.logit_adjusted(logits, labels, counts, tau=0.0), plain)
    close(losses.ratio_loss(logits, labels, counts, alpha=2.0, beta=0.0), 2 * plain)
    close(
        losses.ldam(logits, labels, counts, max_margin=0.0, scale=4.0),
        F.cross_entropy(4 * logits, labels),
    )
    close(
        losses.balanced_softmax(logits, labels, counts),
        losses.logit_adjusted(logits, labels, counts, tau=1.0),
    )


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), counts=some_counts)
def test_gradients_are_finite_with_absent_classes(name: str, seed: int, counts: Tensor) -> None:
    logits, labels = case(seed, counts)
    logits.requires_grad_()
    loss = losses.local_loss(name, counts)(logits, labels)
    assert loss.shape == ()
    assert loss.isfinite()
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    if name in ("balanced-softmax", "logit-adjusted", "fedlc"):
        assert (logits.grad[:, counts == 0] == 0).all()


def test_equal_logits_by_hand() -> None:
    """With all logits 0 each loss is a number that can be worked out."""
    logits, labels = torch.zeros(1, 3), torch.tensor([2])
    n = 81 + 16 + 1

    def check(loss: Tensor, expected: float) -> None:
        assert float(loss) == pytest.approx(expected, rel=1e-5)

    check(losses.balanced_softmax(logits, labels, COUNTS), math.log(n / 1))
    weights = [9.0, 4.0, 1.0]
    check(losses.logit_adjusted(logits, labels, COUNTS, tau=0.5), math.log(sum(weights)))
    # n^(-1/4) is 1/3, 1/2 and 1.
    shifted = [math.exp(-2 * m) for m in (1 / 3, 1 / 2, 1)]
    check(losses.fedlc(logits, labels, COUNTS, tau=2.0), -math.log(shifted[2] / sum(shifted)))
    check(losses.ldam(logits, labels, COUNTS, scale=2.0), math.log(2 + math.exp(-1)) + 1)
    # The first class's margin is a third of the rarest one's.
    common = math.log(2 + math.exp(-1 / 6)) + 1 / 6
    check(losses.ldam(logits, torch.tensor([0]), COUNTS, scale=1.0), common)
    check(losses.focal(logits, labels), (2 / 3) ** 2 * math.log(3))
    # The other two classes have 97 images, 48.5 each, against one.
    check(losses.ratio_loss(logits, labels, COUNTS), (1 + 0.1 * 48.5) * math.log(3))


def test_batch_means() -> None:
    logits, labels = torch.zeros(2, 3), torch.tensor([1, 2])
    # R is 41 / 16 and 48.5; a plain mean of weighted terms.
    expected = (2 + 0.1 * (41 / 16 + 48.5)) / 2 * math.log(3)
    assert float(losses.ratio_loss(logits, labels, COUNTS)) == pytest.approx(expected, rel=1e-5)
    # Deferred re-weighting is a weighted mean: equal terms stay what they are.
    weights = torch.tensor([1.0, 1.0, 4.0])
    weighted = losses.ldam(logits, labels, COUNTS, max_margin=0.0, scale=1.0, weights=weights)
    assert float(weighted) == pytest.approx(math.log(3), rel=1e-5)


def test_an_absent_class_is_not_in_the_softmax() -> None:
    logits = torch.tensor([[1.0, 2.0, 50.0]])
    counts, labels = torch.tensor([5, 5, 0]), torch.tensor([0])
    expected = F.cross_entropy(logits[:, :2], labels)
    for loss in (losses.balanced_softmax, losses.logit_adjusted, losses.fedlc):
        torch.testing.assert_close(loss(logits, labels, counts), expected)


def test_focal_is_smooth_where_nothing_is_missing() -> None:
    for gamma in (0.0, 0.5, 2.0):
        logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
        loss = losses.focal(logits, torch.tensor([0]), gamma)
        loss.backward()
        assert float(loss.detach()) == 0
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


def test_drw_weights_by_hand() -> None:
    # Effective numbers at beta 1/2: 1, 1.5, 1.75; one over them sums to 2.238095.
    weights = losses.drw_weights(torch.tensor([1, 2, 3, 0]), beta=0.5)
    total = 1 + 1 / 1.5 + 1 / 1.75
    expected = [3 / total, 3 / 1.5 / total, 3 / 1.75 / total, 0]
    assert weights.tolist() == pytest.approx(expected)
    assert losses.drw_weights(torch.tensor([7, 1]), beta=0.0).tolist() == [1, 1]
    # As beta nears 1 the weights near 1/n.
    assert losses.drw_weights(torch.tensor([1, 3]), beta=1 - 1e-9).tolist() == pytest.approx(
        [1.5, 0.5], rel=1e-5
    )
    with pytest.raises(ConfigError, match="beta must be a number >= 0 and < 1, got 1"):
        losses.drw_weights(torch.tensor([1]), beta=1.0)


def test_local_loss_binds_options() -> None:
    logits, labels = case(0, COUNTS)
    bound = losses.local_loss("ldam", COUNTS, {"max-margin": 0.2, "scale": 1})
    assert torch.equal(bound(logits, labels), losses.ldam(logits, labels, COUNTS, 0.2, 1.0))
    for name in NAMES:
        assert losses.local_loss(name, COUNTS)(logits, labels) > 0


def test_wrong_names_and_options_are_refused() -> None:
    def message(name: str, options: dict[str, object] | None = None) -> str:
        with pytest.raises(ConfigError) as caught:
            losses.local_loss(name, COUNTS, options)
        return str(caught.value)

    assert "unknown loss 'focl' (did you mean 'focal'?)" in message("focl")
    focal = message("focal", {"gama": 1})
    assert (
        focal
        == "loss-options of 'focal': unknown option 'gama' (did you mean 'gamma'?); known: gamma"
    )
    less = "input should be greater than or equal to 0, got -1"
    for name, option in [("fedlc", "tau"), ("logit-adjusted", "tau"), ("focal", "gamma")]:
        assert f"{option}: {less}" in message(name, {option: -1})
    for option in ("alpha", "beta"):
        assert f"{option}: {less}" in message("ratio", {option: -1})
    assert "max-margin: input should be a valid number, got 'wide'" in message(
        "ldam", {"max-margin": "wide"}
    )
    assert "unknown option 'max_margin'" in message("ldam", {"max_margin": 0.5})
    assert "got nan" in message("ldam", {"scale": math.nan})
    assert "scale: input should be greater than 0" in message("ldam", {"scale": 0})
    for name in ("cross-entropy", "balanced-softmax"):
        assert "there are no options, got 'tau'; leave it out" in message(name, {"tau": 1})


def test_deferred_weights_come_from_their_round_on() -> None:
    logits, labels = case(0, COUNTS)
    options = {"drw-from": 3, "drw-beta": 0.5}
    before, at = (losses.local_loss("ldam", COUNTS, options, round=r) for r in (2, 3))
    assert torch.equal(before(logits, labels), losses.ldam(logits, labels, COUNTS))
    weights = losses.drw_weights(COUNTS, 0.5)
    assert torch.equal(at(logits, labels), losses.ldam(logits, labels, COUNTS, weights=weights))
    assert not torch.equal(before(logits, labels), at(logits, labels))


@pytest.mark.parametrize("name", ["cross-entropy", "balanced-softmax", "logit-adjusted", "fedlc"])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), counts=some_counts.filter(lambda counts: bool((counts > 0).all())))
def test_soft_labels_are_mixtures_of_hard_ones(name: str, seed: int, counts: Tensor) -> None:
    logits, labels = case(seed, counts)
    loss = losses.local_loss(name, counts)
    hard = F.one_hot(labels, len(counts)).float()
    torch.testing.assert_close(loss(logits, hard), loss(logits, labels))
    # Cross-entropy is linear in the labels: a mixture costs the mixture of its classes.
    shares = torch.rand(logits.shape, generator=torch.Generator().manual_seed(seed)).softmax(dim=1)
    by_class = [
        torch.stack([loss(row[None], torch.tensor([c])) for c in range(len(counts))])
        for row in logits
    ]
    expected = (shares * torch.stack(by_class)).sum(dim=1).mean()
    torch.testing.assert_close(loss(logits, shares), expected)


@pytest.mark.parametrize("name", ["balanced-softmax", "logit-adjusted", "fedlc"])
def test_soft_labels_may_leave_out_an_absent_class(name: str) -> None:
    logits = torch.tensor([[1.0, 2.0, 50.0]], requires_grad=True)
    shares = torch.tensor([[0.25, 0.75, 0.0]])
    loss = losses.local_loss(name, torch.tensor([5, 5, 0]))(logits, shares)
    torch.testing.assert_close(loss, F.cross_entropy(logits[:, :2], shares[:, :2]))
    loss.backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[0, 2].item(), 0.0)
    torch.testing.assert_close(logits.grad[0, :2].sum().item(), 0.0, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["focal", "ldam", "ratio"])
def test_losses_of_one_class_each_refuse_soft_labels(name: str) -> None:
    with pytest.raises(ConfigError, match=f"loss '{name}' takes one class per example"):
        losses.local_loss(name, COUNTS)(torch.zeros(2, 3), torch.full((2, 3), 1 / 3))
