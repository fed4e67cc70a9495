"""A fixed sparse frame (SSE-C) keeps rare classes apart, where a trained head lets them merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from fedloge.geometry.collapse_targets import distance
from fedloge.geometry.feature_sums import FeatureSums, pair_distances
from fedloge.geometry.prototypes import Prototypes, prototypes
from fedloge.labs.finding import Finding, Lab
from fedloge.labs.toy_classes import (
    SKEWS,
    Classes,
    Loss,
    class_sums,
    gaussian_classes,
    small_network,
    trained,
)
from fedloge.rng import rng

CLASSES, INPUTS, FEATURES, STEPS = 10, 20, 16, 600
# A tail of 1/50: 200, 129, 83, 54, 35, 22, 14, 9, 6, 4.
COUNTS = tuple(int(200 * 50 ** (-c / (CLASSES - 1))) for c in range(CLASSES))
_RARE = 3
_GAMMA = 3.0
# Penalties of free features under which the rarest three classes have merged.
_WEIGHT_DECAY, _FEATURE_DECAY = 0.1, 0.2


def run(seed: int) -> tuple[Sequence[Finding], Figure]:
    """A trained head and two frames at one place, and SSE-C and the trained head over clients for each skew."""
    of = gaussian_classes(COUNTS, INPUTS, 5.0, seed)
    sparse = prototypes(CLASSES, FEATURES, "sparse-etf", gamma=_GAMMA, seed=seed)
    start = small_network(INPUTS, FEATURES, CLASSES, seed)
    ways: dict[str, tuple[Tensor | None, float | None]] = {
        "trained head": (None, None),
        "SSE-C": (sparse.matrix, None),
    }
    for alpha in SKEWS:
        ways[f"trained head, FedAvg, alpha {alpha:g}"] = (None, alpha)
        ways[f"SSE-C, FedAvg, alpha {alpha:g}"] = (sparse.matrix, alpha)
    nets = {
        name: trained(start, of, _loss(rows), steps=STEPS, alpha=alpha, seed=seed)
        for name, (rows, alpha) in ways.items()
    }
    bent = {
        name: distance(class_sums(net, of), torch.eye(CLASSES)).cos for name, net in nets.items()
    }
    right = {name: _rare_accuracy(net, of, ways[name][0]) for name, net in nets.items()}
    found = [
        *_of_the_frame(sparse),
        *_of_free_features(sparse.matrix, seed),
        *_of_networks(bent, right),
    ]
    return found, _picture(nets, of, seed)


def _of_the_frame(sparse: Prototypes) -> list[Finding]:
    found = sparse.certificate()
    zeros = float((sparse.matrix == 0).double().mean())
    share = sparse.quality()["cos_mean"]
    assert share is not None
    return [
        Finding(
            "SSE-C: share of zeros",
            zeros,
            "0.6, in whole entries",
            abs(zeros - 0.6) <= 0.5 / FEATURES,
        ),
        Finding("SSE-C: mean cosine of two rows", share, "-0.1111", abs(share + 1 / 9) < 1e-4),
        Finding(
            "SSE-C: deviation of the cosines",
            found.cos_std,
            "0 (authors' search: 0.0037)",
            found.cos_std < 1e-4,
        ),
    ]


def free_features(
    rows: Float64[Tensor, "classes features"] | None, seed: int
) -> tuple[Float64[Tensor, "classes features"], Float64[Tensor, "classes features"]]:
    """Rows and features that are best on cross-entropy where every class may choose its feature.

    They minimise the mean over examples of CE(W h_c) + l_h/2 ||h_c||^2, plus l_w/2 ||W||^2 if W is not fixed,
    by L-BFGS in float64.
    """
    share, size = torch.tensor(COUNTS, dtype=torch.float64) / sum(COUNTS), CLASSES * FEATURES
    labels = torch.arange(CLASSES)

    def loss_and_slope(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        x = torch.tensor(flat, requires_grad=True)
        w = x[:size].view(CLASSES, -1) if rows is None else rows
        h = x[size:].view(CLASSES, -1)
        each = cross_entropy(h @ w.T, labels, reduction="none")
        loss = (share * (each + _FEATURE_DECAY / 2 * (h**2).sum(dim=1))).sum()
        loss = loss + (_WEIGHT_DECAY / 2 * (w**2).sum() if rows is None else 0)
        (slope,) = torch.autograd.grad(loss, x)
        return float(loss.detach()), slope.numpy()

    start = rng(seed, "lab/free").standard_normal(2 * size) / 3
    exact = {"maxiter": 5000, "maxfun": 10_000, "ftol": 0, "gtol": 1e-10}
    found = minimize(loss_and_slope, start, jac=True, method="L-BFGS-B", options=exact).x
    w, h = torch.from_numpy(found).view(2, CLASSES, FEATURES)
    return (w if rows is None else rows), h


def _of_free_features(fixed: Tensor, seed: int) -> list[Finding]:
    rows, _ = free_features(None, seed)
    rare = normalize(rows[-_RARE:])
    merged = float((rare @ rare.T)[tuple(torch.triu_indices(_RARE, _RARE, offset=1))].min())
    _, features = free_features(fixed.double(), seed)
    ones = FeatureSums.of(features, torch.arange(CLASSES), CLASSES, moments=False)
    bent = distance(ones, torch.eye(CLASSES)).cos
    return [
        Finding(
            f"free features, trained head: least cosine of the rarest {_RARE} rows",
            merged,
            "1 (merged) within 0.05",
            merged > 0.95,
        ),
        Finding(
            "free features, SSE-C: distance of the classes' angles to a simplex",
            bent,
            "0 within 1e-3",
            bent < 1e-3,
        ),
    ]


def _of_networks(bent: Mapping[str, float], right: Mapping[str, float]) -> list[Finding]:
    """Networks have no free features, and nobody has made a claim of clients."""
    found = [
        Finding(
            f"distance of the classes' angles to a simplex, {name}",
            figure,
            "less than the trained head's" if name == "SSE-C" else "",
            figure < bent["trained head"] if name == "SSE-C" else None,
        )
        for name, figure in bent.items()
    ]
    return found + [
        Finding(f"accuracy of the rarest {_RARE}, {name}", share) for name, share in right.items()
    ]


def _loss(rows: Float[Tensor, "classes features"] | None) -> Loss:
    """Cross-entropy against fixed rows, or against the network's own head."""

    def loss(net: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        weight = net.get_submodule("head").weight if rows is None else rows
        return cross_entropy(net.get_submodule("body")(inputs) @ weight.T, labels)

    return loss


@torch.no_grad()
def _rare_accuracy(net: nn.Module, of: Classes, rows: Tensor | None) -> float:
    weight = net.get_submodule("head").weight if rows is None else rows
    guess = (net.get_submodule("body")(of.test_inputs) @ weight.T).argmax(dim=1)
    rare = of.test_labels >= CLASSES - _RARE
    return float((guess == of.test_labels)[rare].double().mean())


def _cosines(net: nn.Module, of: Classes) -> Float64[Tensor, " pairs"]:
    centred = class_sums(net, of).centred
    return 1 - pair_distances(centred / centred.norm(dim=1, keepdim=True)) ** 2 / 2


def _picture(nets: Mapping[str, nn.Module], of: Classes, seed: int) -> Figure:
    """Cosines of every two class means, a column for each way of training."""
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.axhline(-1 / (CLASSES - 1), color="#7a7a7a", linewidth=1)
    jitter = rng(seed, "lab/jitter")
    # Pairs of which one class at least is rare stand out.
    _, second = torch.triu_indices(CLASSES, CLASSES, offset=1)
    rare = (second >= CLASSES - _RARE).numpy()
    for place, net in enumerate(nets.values()):
        cos = _cosines(net, of).numpy()
        at = place + jitter.uniform(-0.25, 0.25, len(cos))
        for chosen, colour, name in (
            (~rare, "#2a6fb0", "of frequent classes"),
            (rare, "#c0504d", f"with one of the rarest {_RARE}"),
        ):
            axes.plot(at[chosen], cos[chosen], ".", color=colour, label=name if not place else None)
    names = [name.replace(", FedAvg, ", "\nFedAvg,\n") for name in nets]
    axes.set_xticks(np.arange(len(nets)), names, fontsize=7)
    axes.set_ylabel("cosine of two class means\n(line: simplex)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure


FRAME = Lab(
    "frame",
    "Against a fixed sparse frame the classes of a long tail stand at a simplex's angles (Xiao et al., FedLoGe, ICLR "
    "2024); with a trained head the rare ones merge (Fang et al., PNAS 2021).",
    run,
)
