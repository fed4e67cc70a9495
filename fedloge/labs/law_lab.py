"""Minority collapse: the norms that imbalance leaves, in closed form, trained, and trained by a federation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from fedloge.geometry.imbalanced import ImbalancedLaw, imbalanced_law
from fedloge.geometry.law_fit import fit_law
from fedloge.labs.finding import Finding, Lab
from fedloge.rng import rng

COUNTS = (200, 100, 50, 20, 4)
# With these the rarest class collapses.
_WEIGHT_DECAY, _FEATURE_DECAY = 0.008, 0.004
_FEATURES = 8
_CLIENTS, _ROUNDS, _LOCAL, _LR = 4, 600, 5, 0.5
_SKEWS = (100.0, 1.0, 0.1)


@dataclass
class Site:
    """A client's class counts, and the free feature of each of its classes."""

    counts: Float64[Tensor, " classes"]
    features: Float64[Tensor, "features classes"]


def split(alpha: float, seed: int) -> list[Float64[Tensor, " classes"]]:
    """Counts of each client: of every class, whole examples by shares from Dirichlet(alpha)."""
    generator = rng(seed, "lab/split")
    counts = torch.zeros(_CLIENTS, len(COUNTS), dtype=torch.float64)
    for c, n in enumerate(COUNTS):
        drawn = generator.multinomial(n, generator.dirichlet([alpha] * _CLIENTS))
        counts[:, c] = torch.from_numpy(drawn.astype(np.float64))
    return [own for own in counts if own.sum() > 0]


@dataclass(frozen=True)
class Optimum:
    """Where the objective of the law is least, found without the law."""

    rows: Float64[Tensor, "classes features"]
    features: Float64[Tensor, "features classes"]
    loss: float


def optimum(seed: int) -> Optimum:
    """Minimise the law's objective over W and free features, from a random start.

    By L-BFGS in float64: a class just under the threshold fades so slowly that after 12,500 steps of
    gradient descent its row still had a norm of 0.003.
    """
    n, eye = np.array(COUNTS, dtype=np.float64), np.eye(len(COUNTS))
    size = len(COUNTS) * _FEATURES

    def loss_and_slope(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        w, h = flat[:size].reshape(-1, _FEATURES), flat[size:].reshape(_FEATURES, -1)
        error, share = w @ h - eye, n / n.sum()
        loss = (error**2 * share).sum() + _WEIGHT_DECAY * (w**2).sum()
        loss += _FEATURE_DECAY * (h**2 * n).sum()
        to_w = (error * share) @ h.T + _WEIGHT_DECAY * w
        to_h = w.T @ (error * share) + _FEATURE_DECAY * h * n
        return float(loss / 2), np.concatenate([to_w.ravel(), to_h.ravel()])

    start = rng(seed, "lab/start").standard_normal(2 * size) / 3
    exact = {"maxiter": 20_000, "maxfun": 40_000, "ftol": 0, "gtol": 1e-12}
    found = minimize(loss_and_slope, start, jac=True, method="L-BFGS-B", options=exact)
    w, h = found.x[:size].reshape(-1, _FEATURES), found.x[size:].reshape(_FEATURES, -1)
    return Optimum(torch.from_numpy(w), torch.from_numpy(h), float(found.fun))


def averaged_rows(
    held: Sequence[Float64[Tensor, " classes"]], seed: int, rounds: int = _ROUNDS
) -> Float64[Tensor, "classes features"]:
    """Rows of W after federated averaging; every client keeps the features of its own examples.

    A client minimises 1/(2 N_k) sum_c n_c ||W h_c - e_c||^2 + l/2 ||W||^2 + l/2 sum_c n_c ||h_c||^2 by
    gradient descent on W and its features, all examples of a class sharing one. With one client this is
    the objective of the law.
    """
    generator = rng(seed, "lab/start")
    start = generator.standard_normal((len(COUNTS) + _FEATURES, max(len(COUNTS), _FEATURES))) / 3
    w = torch.from_numpy(start[: len(COUNTS), :_FEATURES].copy())
    h = torch.from_numpy(start[len(COUNTS) :, : len(COUNTS)].copy())
    sites = [Site(own, h.clone()) for own in held]
    total = sum(float(site.counts.sum()) for site in sites)
    for _ in range(rounds):
        mean = torch.zeros_like(w)
        for site in sites:
            mean += _local(w.clone(), site) * (float(site.counts.sum()) / total)
        w = mean
    return w


def _local(w: Float64[Tensor, "classes features"], site: Site) -> Tensor:
    n, eye = site.counts, torch.eye(len(COUNTS), dtype=torch.float64)
    share = n / n.sum()
    for _ in range(_LOCAL):
        error = (w @ site.features - eye) * share
        slope = error @ site.features.T + _WEIGHT_DECAY * w
        # Per example, so that every class's feature moves at one speed whatever its size.
        pull = w.T @ (w @ site.features - eye) / n.sum() + _FEATURE_DECAY * site.features
        site.features = site.features - _LR * n.sum() * pull / 40
        w = w - _LR * slope
    return w


def run(seed: int) -> tuple[Sequence[Finding], Figure]:
    """The law, its objective descended at one place, and averaged over clients for each skew."""
    counts = torch.tensor(COUNTS)
    law = imbalanced_law(counts, [_WEIGHT_DECAY], _FEATURE_DECAY)
    # Averaged, a client of N_k examples weighs N_k/N, and so does what its features are charged.
    shared = imbalanced_law(counts, [_WEIGHT_DECAY], _FEATURE_DECAY / _CLIENTS)
    alone = optimum(seed)
    rows = {"at one place": alone.rows}
    for alpha in _SKEWS:
        rows[f"FedAvg, alpha {alpha:g}"] = averaged_rows(split(alpha, seed), seed)
    found = [
        Finding(
            "examples up to which a class collapses, at one place",
            law.threshold,
            "4.476",
            abs(law.threshold - 4.476) < 1e-3,
        ),
        Finding(f"the same, averaged over {_CLIENTS} equal clients", shared.threshold),
        Finding(
            "gap of the objective to the closed form, at one place",
            gap := abs(alone.loss - law.loss),
            "0 within 1e-6",
            gap < 1e-6,
        ),
        Finding(
            "largest gap of the features' norms, at one place",
            gap := float((alone.features.norm(dim=0) - law.h_norms).abs().max()),
            "0 within 1e-4",
            gap < 1e-4,
        ),
    ]
    for name, w in rows.items():
        once = name == "at one place"
        expected = law if once else shared
        gap = float((w.norm(dim=1) - expected.w_norms).abs().max())
        found.append(
            Finding(
                f"largest gap of the rows' norms to the closed form{'' if once else ' of equal clients'}, {name}",
                gap,
                "0 within 1e-4" if once else "",
                gap < 1e-4 if once else None,
            )
        )
        fit = fit_law(np.array(COUNTS), w.norm(dim=1).numpy())
        found.append(Finding(f"variance that class sizes explain, {name}", fit.r_squared))
    return found, _picture(law, shared, rows)


def _picture(law: ImbalancedLaw, shared: ImbalancedLaw, rows: dict[str, Tensor]) -> Figure:
    figure = Figure(figsize=(6.5, 3.4), layout="constrained")
    axes = figure.subplots()
    sizes = np.geomspace(min(COUNTS), max(COUNTS), 200)
    for decay, line, name in (
        (law.feature_decay, "-", "closed form"),
        (shared.feature_decay, ":", "closed form of equal clients"),
    ):
        square = np.sqrt(sizes * decay / _WEIGHT_DECAY) - sum(COUNTS) * decay
        axes.plot(sizes, np.sqrt(np.maximum(square, 0)), line, color="#7a7a7a", label=name)
    for mark, (name, w) in zip("osD^", rows.items(), strict=True):
        axes.plot(COUNTS, w.norm(dim=1), mark, label=name, fillstyle="none")
    axes.axvline(law.threshold, color="#c0504d", linestyle="--", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("examples of the class (dashed: collapse)")
    axes.set_ylabel("norm of its row")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure


LAW = Lab(
    "collapse",
    "Under imbalance a linear head's rows have the norms of a closed form, and the rarest classes none "
    "(Dang et al., ICML 2023).",
    run,
)
