"""Mixup pushes mixed features out of the segment between two classes, with cross-entropy and not with MSE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from fedloge.geometry.mixed_features import ChannelSums, amplification
from fedloge.geometry.simplex import simplex_etf
from fedloge.labs.finding import Finding, Lab
from fedloge.labs.small_federation import dirichlet_parts, federated
from fedloge.learning.mixup import Mix
from fedloge.rng import rng, torch_seeded

CLASSES, INPUTS, FEATURES, EACH = 5, 10, 8, 100
_BATCH, _LR, _DECAY = 50, 3e-3, 1e-3
_STEPS = 600
_CLIENTS, _ROUNDS = 5, 30
_SKEWS = (100.0, 0.5, 0.1)


@dataclass(frozen=True)
class Blobs:
    """Gaussian blobs, the classifier that they are trained against, and the network as it starts."""

    inputs: Float[Tensor, "examples inputs"]
    labels: Int[Tensor, " examples"]
    rows: Float[Tensor, "classes features"]
    start: nn.Module


def blobs(seed: int) -> Blobs:
    """Five classes of 100 examples around the corners of a simplex, and a unit simplex as W."""
    labels = torch.arange(CLASSES).repeat_interleave(EACH)
    noise = rng(seed, "lab/blobs").standard_normal((len(labels), INPUTS)).astype(np.float32)
    inputs = (
        simplex_etf(CLASSES, INPUTS, gamma=3.0, seed=seed)[labels] + torch.from_numpy(noise) / 2
    )
    with torch_seeded(seed, "lab/network"):
        start = nn.Sequential(
            nn.Linear(INPUTS, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, FEATURES)
        )
    return Blobs(inputs, labels, simplex_etf(CLASSES, FEATURES, gamma=1.0, seed=seed), start)


def trained(
    net: nn.Module,
    of: Blobs,
    own: Int[Tensor, " own"],
    generator: np.random.Generator,
    *,
    loss: str,
    mixed: bool,
    steps: int,
) -> None:
    """Train in place by Adam on examples `own`, against the fixed rows."""
    optimiser = torch.optim.Adam(net.parameters(), _LR, weight_decay=_DECAY)
    for _ in range(steps):
        batch = own[torch.from_numpy(generator.integers(0, len(own), _BATCH))]
        share = float(generator.beta(1, 1)) if mixed else 1.0
        mix = Mix(share, torch.from_numpy(generator.permutation(_BATCH)))
        targets = mix.labels(of.labels[batch], CLASSES)
        logits = net(mix.of(of.inputs[batch])) @ of.rows.T
        optimiser.zero_grad()
        (cross_entropy(logits, targets) if loss == "ce" else mse_loss(logits, targets)).backward()
        optimiser.step()


@torch.no_grad()
def channel(net: nn.Module, of: Blobs) -> ChannelSums:
    """The channel of half and half mixes of every example with one of the next class."""
    second = torch.arange(len(of.labels)).roll(-EACH)
    x, y = of.inputs, of.labels
    h = net(x)
    mixed = net((x + x[second]) / 2)
    return ChannelSums.of(mixed, h, h[second], (y, y[second]), of.rows)


def run(seed: int) -> tuple[Sequence[Finding], Figure]:
    """Three networks at one place, and one of a federation for each skew."""
    of, everything = blobs(seed), torch.arange(CLASSES * EACH)
    nets: dict[str, nn.Module] = {}
    for name, loss, mixed in (
        ("CE + mixup", "ce", True),
        ("MSE + mixup", "mse", True),
        ("CE", "ce", False),
    ):
        nets[name] = _train_once(of, everything, loss, mixed, seed)
    ratios = {name: channel(net, of).ratio for name, net in nets.items()}
    found = [
        Finding(
            "channel ratio, CE + mixup",
            ratios["CE + mixup"],
            "above 1.5 (2.17 elsewhere)",
            ratios["CE + mixup"] > 1.5,
        ),
        Finding(
            "channel ratio, MSE + mixup",
            ratios["MSE + mixup"],
            "1 within 5 %",
            abs(ratios["MSE + mixup"] - 1) < 0.05,
        ),
        Finding("channel ratio, CE", ratios["CE"], "below 1 (.85 elsewhere)", ratios["CE"] < 1),
        Finding(
            "amplification of a free feature",
            free := amplification(CLASSES, 0.01),
            "1.53 within 1 %",
            abs(free / 1.53 - 1) < 0.01,
        ),
    ]
    for alpha in _SKEWS:
        net = _train_federated(of, alpha, seed)
        name = f"FedAvg, alpha {alpha:g}"
        nets[name] = net
        found.append(Finding(f"channel ratio, CE + mixup, {name}", channel(net, of).ratio))
    return found, _picture(nets, of)


def _train_once(
    of: Blobs, own: Int[Tensor, " own"], loss: str, mixed: bool, seed: int
) -> nn.Module:
    def steps(net: nn.Module, own: Tensor, generator: np.random.Generator) -> None:
        trained(net, of, own, generator, loss=loss, mixed=mixed, steps=_STEPS)

    return federated(of.start, [own], 1, steps, seed=seed)


def _train_federated(of: Blobs, alpha: float, seed: int) -> nn.Module:
    def steps(net: nn.Module, own: Tensor, generator: np.random.Generator) -> None:
        trained(net, of, own, generator, loss="ce", mixed=True, steps=_STEPS // _ROUNDS)

    parts = dirichlet_parts(of.labels, _CLIENTS, alpha, seed=seed)
    return federated(of.start, parts, _ROUNDS, steps, seed=seed)


@torch.no_grad()
def _picture(nets: dict[str, nn.Module], of: Blobs) -> Figure:
    """Features of two classes and of their mixes, in the plane of w_0 and w_1."""
    figure = Figure(figsize=(11, 2.4), layout="constrained")
    panels = figure.subplots(1, len(nets))
    x, second = of.inputs[:EACH], of.inputs[EACH : 2 * EACH]
    axes = of.rows[0] - of.rows[1], of.rows[0] + of.rows[1]
    plane = torch.stack([axis / axis.norm() for axis in axes], dim=1)
    for panel, (name, net) in zip(panels, nets.items(), strict=True):
        for share, colour in ((1.0, "#2a6fb0"), (0.0, "#c0504d"), (0.5, "#7a7a7a")):
            h = net(share * x + (1 - share) * second) @ plane
            panel.plot(h[:, 0], h[:, 1], ".", markersize=3, color=colour)
        panel.set_title(name, fontsize=8)
        panel.tick_params(labelsize=6)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("along w_0 + w_1", fontsize=7)
    figure.suptitle("features of two classes and of their half and half mixes (grey)", fontsize=9)
    return figure


MIXUP = Lab(
    "mixup",
    "With cross-entropy, mixup pushes features of mixed examples out of the segment between their classes "
    "(Fisher et al., ICLR 2024).",
    run,
)
