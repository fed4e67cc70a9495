"""Heads in closed form: against float64 solves on all examples, whatever the split."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from torch import Tensor
from torch.nn.functional import one_hot

from fedloge.geometry.closed_form import (
    FeatureSums,
    balanced_weights,
    packed,
    ridge,
    unpacked,
    within,
)

CLASSES, D = 5, 7


def examples(n: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    # The last class has no example.
    labels = torch.randint(0, CLASSES - 1, (n,), generator=g)
    h = torch.randn(n, D, generator=g) + labels[:, None] * torch.linspace(-1, 1, D)
    return h, labels


def test_ridge_by_hand() -> None:
    # One feature, two examples: h = 1 of class 0, h = -1 of class 1. G' = [[2, 0], [0, 2]].
    known = FeatureSums.of(torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1]), 2)
    weight, bias = ridge(known, shrinkage=2.0)
    assert weight[:, 0].tolist() == [0.25, -0.25] and bias.tolist() == [0.25, 0.25]
    weight, bias = ridge(known, shrinkage=2.0, normalised=True)
    assert weight[:, 0].tolist() == [1.0, -1.0] and bias.tolist() == [1.0, 1.0]


def test_ridge_is_scikit_learns_on_all_examples() -> None:
    h, labels = examples()
    weight, bias = ridge(FeatureSums.of(h, labels, CLASSES), shrinkage=0.3)
    extended = torch.cat([h.double(), torch.ones(len(h), 1, dtype=torch.float64)], dim=1)
    model = Ridge(alpha=0.3, fit_intercept=False, solver="cholesky")
    model.fit(extended.numpy(), one_hot(labels, CLASSES).double().numpy())
    wanted = torch.from_numpy(model.coef_)
    torch.testing.assert_close(torch.cat([weight, bias[:, None]], dim=1), wanted)


def test_balanced_ridge_is_scikit_learns_with_class_weights() -> None:
    h, labels = examples()
    weights = balanced_weights(torch.bincount(labels, minlength=CLASSES).double())
    weight, bias = ridge(FeatureSums.of(h, labels, CLASSES, weights), shrinkage=0.3)
    extended = torch.cat([h.double(), torch.ones(len(h), 1, dtype=torch.float64)], dim=1)
    model = Ridge(alpha=0.3, fit_intercept=False, solver="cholesky")
    targets = one_hot(labels, CLASSES).double().numpy()
    model.fit(extended.numpy(), targets, sample_weight=weights[labels].numpy())
    torch.testing.assert_close(
        torch.cat([weight, bias[:, None]], dim=1), torch.from_numpy(model.coef_)
    )


def test_balanced_weights_by_hand() -> None:
    # 12 examples over 2 classes that occur: 6 each.
    found = balanced_weights(torch.tensor([9.0, 3.0, 0.0], dtype=torch.float64))
    assert found.tolist() == pytest.approx([2 / 3, 2.0, 0.0])


@given(seed=st.integers(0, 50), cuts=st.lists(st.integers(0, 60), max_size=5), turn=st.booleans())
@settings(max_examples=25, deadline=None)
def test_no_split_and_no_order_matters(seed: int, cuts: list[int], turn: bool) -> None:
    h, labels = examples(seed=seed)
    edges = [0, *sorted(cuts), len(h)]
    parts = [FeatureSums.of(h[a:b], labels[a:b], CLASSES) for a, b in itertools.pairwise(edges)]
    total, *rest = reversed(parts) if turn else parts
    for part in rest:
        total = total.plus(part)
    whole = FeatureSums.of(h, labels, CLASSES)
    for one, other in zip(ridge(total), ridge(whole), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(within(total), within(whole), rtol=1e-8, atol=1e-10)


def test_fedcofs_head_has_the_scatter_within_classes_of_all_examples() -> None:
    h, labels = examples()
    x, n, gamma = h.double(), len(h), 0.7
    moment = n * torch.outer(x.mean(dim=0), x.mean(dim=0))
    seen = labels.unique().tolist()
    for c in seen:  # its formula, with each class's true covariance
        own = x[labels == c]
        covariance = own.T.cov() + gamma * torch.eye(D, dtype=torch.float64)
        moment += (len(own) - 1) * covariance
    sums = one_hot(labels, CLASSES).double().T @ x
    wanted = torch.linalg.solve(moment, sums.T).T
    wanted = wanted[seen] / wanted[seen].norm(dim=1, keepdim=True)
    found = within(FeatureSums.of(h, labels, CLASSES), gamma=gamma)
    torch.testing.assert_close(found[seen], wanted)
    assert not found[-1].any()


def test_a_triangle_holds_a_symmetric_matrix() -> None:
    gram = FeatureSums.of(*examples(), CLASSES).gram
    assert packed(gram).shape == (D * (D + 1) // 2,)
    assert torch.equal(unpacked(packed(gram), D), gram)
