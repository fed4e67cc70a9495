"""Epsilon against published settings, and against formulas that a reader can work out."""

from __future__ import annotations

import math

import pytest
from scipy.stats import norm

from fedloge.learning.privacy_accountant import Spending, epsilon, merged

pytest.importorskip("dp_accounting")

# sampling, noise, steps, epsilon at delta 1e-5 as published, and where.
PUBLISHED = {
    "Abadi et al. 2016, section 3.2: q = 0.01, sigma = 4, T = 10000": (0.01, 4.0, 10_000, 1.26),
    "TensorFlow Privacy, MNIST, 60 epochs": (256 / 60_000, 1.12, 60 * 60_000 // 256, 2.92),
    "TensorFlow Privacy, MNIST, 10 epochs": (256 / 60_000, 1.2, 10 * 60_000 // 256, 1.20),
    "TensorFlow Privacy, MNIST, 30 epochs": (256 / 60_000, 0.6, 30 * 60_000 // 256, 9.74),
}


def renyi(q: float, sigma: float, order: int) -> float:
    """Of a Poisson-sampled Gaussian step, exact for whole orders (Mironov, Talwar and Zhang 2019, eq. 3)."""
    logs = [
        math.log(math.comb(order, k))
        + (order - k) * math.log1p(-q)
        + k * math.log(q)
        + (k * k - k) / (2 * sigma**2)
        for k in range(order + 1)
    ]
    top = max(logs)
    return (top + math.log(math.fsum(math.exp(x - top) for x in logs))) / (order - 1)


@pytest.mark.parametrize("setting", PUBLISHED)
def test_published_settings(setting: str) -> None:
    q, sigma, steps, published = PUBLISHED[setting]
    delta, orders = 1e-5, range(2, 65)
    # Published are conversions of Mironov 2017, proposition 3, over whole orders.
    old = min(steps * renyi(q, sigma, a) + math.log(1 / delta) / (a - 1) for a in orders)
    assert old == pytest.approx(published, rel=0.006)
    # dp-accounting converts by Canonne, Kamath and Steinke 2020, proposition 12, which is tighter.
    new = min(
        steps * renyi(q, sigma, a) + math.log1p(-1 / a) - math.log(delta * a) / (a - 1)
        for a in orders
    )
    found = epsilon([Spending(q, sigma, steps)], delta)
    assert found == pytest.approx(new, rel=0.01) and found < published


def test_one_step_on_all_examples_is_a_gaussian_release() -> None:
    # Balle and Wang 2018, theorem 8: the exact delta of a Gaussian release at epsilon.
    def delta(eps: float, sigma: float) -> float:
        a, b = 1 / (2 * sigma), eps * sigma
        return float(norm.cdf(a - b) - math.exp(eps) * norm.cdf(-a - b))

    for sigma in (1.0, 5.0):
        found = epsilon([Spending(1.0, sigma, 1)], 1e-5)
        assert delta(found, sigma) < 1e-5 < delta(0.9 * found, sigma)


def test_steps_add_up_and_their_order_is_nothing() -> None:
    a, b = Spending(0.1, 1.0, 30), Spending(0.2, 2.0, 5)
    assert merged([b, a, a]) == [Spending(0.1, 1.0, 60), b]
    assert epsilon([a, b, a], 1e-5) == epsilon([b, Spending(0.1, 1.0, 60)], 1e-5)
    assert epsilon([a, b], 1e-5) > epsilon([a], 1e-5) > epsilon([a], 1e-3) > epsilon([], 1e-5) == 0


def test_without_noise_nothing_is_private() -> None:
    assert epsilon([Spending(0.1, 1.0, 30), Spending(0.1, 0.0, 1)], 1e-5) == math.inf
