from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from fedloge.errors import GeometryError
from fedloge.geometry.imbalanced import imbalanced_law


def counts(*n: int) -> Tensor:
    return torch.tensor(n)


def objective(layers: list[Tensor], h: Tensor, y: Tensor, decays: list[float], fd: float) -> Tensor:
    out = h
    for w in layers:
        out = w @ out
    error = ((out - y) ** 2).sum() / (2 * y.shape[1])
    penalty = sum(lam / 2 * (w**2).sum() for lam, w in zip(decays, layers, strict=True))
    return error + penalty + fd / 2 * (h**2).sum()


def trained(n: Tensor, decays: list[float], fd: float) -> tuple[Tensor, Tensor, float]:
    """Row norms, norms of every example's feature, and loss of a model trained from a random start."""
    classes, examples = len(n), int(n.sum())
    y = torch.eye(classes, dtype=torch.float64).repeat_interleave(n, dim=1)
    g = torch.Generator().manual_seed(3)
    # Far from zero, which from two layers on is a local minimum for every class.
    start = 0.3 * torch.randn(
        classes, len(decays) * classes + examples, generator=g, dtype=torch.float64
    )
    for m in range(len(decays)):
        start[:, m * classes :][:, :classes] += 1.5 * torch.eye(classes)
    start[:, len(decays) * classes :] += y

    def parts(flat: Tensor) -> tuple[list[Tensor], Tensor]:
        *layers, h = flat.reshape(classes, -1).split([classes] * len(decays) + [examples], dim=1)
        return layers, h

    def loss_and_slope(flat: np.ndarray) -> tuple[float, np.ndarray]:
        x = torch.tensor(flat, requires_grad=True)
        layers, h = parts(x)
        loss = objective(layers, h, y, decays, fd)
        (slope,) = torch.autograd.grad(loss, x)
        return float(loss.detach()), slope.numpy()

    found = minimize(
        loss_and_slope,
        start.ravel().numpy(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 20000, "maxfun": 40000, "ftol": 0, "gtol": 1e-9},
    )
    layers, h = parts(torch.from_numpy(found.x))
    product = layers[0]
    for w in layers[1:]:
        product = w @ product
    return product.norm(dim=1), h.norm(dim=0), float(found.fun)


CASES = {
    "one layer, a collapsed minority": (counts(40, 20, 10, 4, 1), [0.02], 0.02),
    "one layer, unequal decays": (counts(30, 12, 5), [0.002], 0.01),
    "two layers": (counts(24, 12, 6), [0.003, 0.01], 0.005),
    "two layers, two collapsed minorities": (counts(30, 15, 2, 1), [0.02, 0.03], 0.01),
    "three layers, unequal decays": (counts(24, 12, 6), [0.004, 0.01, 0.02], 0.004),
}


@pytest.mark.parametrize("case", CASES)
def test_a_trained_model_ends_where_the_law_says(case: str) -> None:
    n, decays, fd = CASES[case]
    law = imbalanced_law(n, decays, fd)
    w, h, loss = trained(n, decays, fd)
    assert (w - law.w_norms).abs().max() < 1e-4
    assert (h - law.h_norms.repeat_interleave(n)).abs().max() < 1e-4
    assert abs(loss - law.loss) < 1e-6


def test_the_cases_are_what_they_are_called() -> None:
    collapsed = {case: imbalanced_law(*arguments).collapsed for case, arguments in CASES.items()}
    assert collapsed["one layer, a collapsed minority"] == [4]
    assert collapsed["two layers, two collapsed minorities"] == [2, 3]
    assert sum(map(len, collapsed.values())) == 3


def test_norms_known_beforehand() -> None:
    law = imbalanced_law(counts(200, 100, 50, 20, 4), [0.008], 0.004)
    expected = torch.tensor([2.9162, 2.3612, 1.8719, 1.2908, 0.0], dtype=torch.float64)
    assert (law.w_norms - expected).abs().max() < 6e-5
    assert law.survives.tolist() == [True, True, True, True, False] and law.collapsed == [4]
    assert law.threshold == pytest.approx(374**2 * 0.008 * 0.004)


@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_collapse_is_a_jump_from_depth_two_on(depth: int) -> None:
    # Of two classes the second stands a hair above and below its threshold.
    n, fd = counts(900, 100), 0.003
    right_side = (depth - 1) ** ((depth - 1) / depth) / depth if depth > 1 else 1.0

    def second(ratio: float) -> float:
        decay = (ratio * right_side * 100 / (depth * 1000)) ** depth / (1000 * fd)
        law = imbalanced_law(n, [decay ** (1 / depth)] * depth, fd)
        assert law.threshold == pytest.approx(ratio * 100)
        assert law.least_norm == pytest.approx(math.sqrt((depth - 1) * 1000 * fd))
        return float(law.w_norms[1])

    assert second(1 + 1e-9) == 0
    assert second(1 - 1e-9) == pytest.approx(math.sqrt((depth - 1) * 3.0), abs=1e-3)


@given(
    n=st.lists(st.integers(0, 1000), min_size=1, max_size=8).filter(any),
    decays=st.lists(st.floats(1e-5, 0.1), min_size=1, max_size=5),
    fd=st.floats(1e-5, 0.1),
)
def test_no_other_norm_has_a_smaller_loss(n: list[int], decays: list[float], fd: float) -> None:
    """The class's loss on a fine grid of sigma, from the objective itself, not from the law's roots."""
    law = imbalanced_law(torch.tensor(n), decays, fd)
    total, depth = sum(n), len(decays)
    sigma = torch.linspace(0, 1.5 * float(law.w_norms.max()) + 3, 4000, dtype=torch.float64)
    # Layers share sigma so that their penalties are equal; the feature is the ridge solution.
    penalty = depth / 2 * (math.prod(decays) * sigma**2) ** (1 / depth)
    best = 0.0
    for size, norm in zip(n, law.w_norms, strict=True):
        assert norm == 0 or norm >= law.least_norm * (1 - 1e-9)
        best += float((size / 2 * fd / (sigma**2 + total * fd) + penalty).min())
    assert law.loss <= best + 1e-12
    assert law.loss >= best - 0.02 * max(best, 1e-3)


def test_norms_follow_the_counts_and_an_absent_class_has_none() -> None:
    law = imbalanced_law(counts(0, 50, 5, 500), [0.001, 0.001], 0.001)
    assert law.w_norms[0] == 0 and not law.survives[0] and law.collapsed == []
    assert law.w_norms[3] > law.w_norms[1] > law.w_norms[2] > 0
    assert law.depth == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((counts(3, -1), [0.1], 0.1), "counts of at least 0"),
        ((counts(0, 0), [0.1], 0.1), "one example or more"),
        ((counts(3, 1), [], 0.1), "one layer or more"),
        ((counts(3, 1), [0.1, 0.0], 0.1), "weight decay > 0, got 0.0"),
        ((counts(3, 1), [0.1], float("nan")), "feature decay > 0, got nan"),
    ],
)
def test_wrong_arguments(arguments: tuple[Tensor, list[float], float], text: str) -> None:
    with pytest.raises(GeometryError, match=text):
        imbalanced_law(*arguments)
