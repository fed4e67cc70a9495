"""Do collapse measures follow the loss as language models grow, and does averaging over authors bend them?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedloge.data import DataSet
from fedloge.data.speeches import installed_speeches, load_speeches
from fedloge.geometry.collapse import AgreementSums, cdnv, spread
from fedloge.geometry.feature_sums import FeatureSums
from fedloge.labs.finding import Finding, Lab
from fedloge.labs.small_federation import dirichlet_parts, federated
from fedloge.models.token_nets import Transformer
from fedloge.rng import rng, torch_seeded

WIDTHS = (8, 16, 32, 64)
_FEDERATED_WIDTH = 32
_STEPS, _BATCH, _LR = 600, 64, 2e-3
_CLIENTS, _ROUNDS, _LOCAL = 10, 10, 20
_MEASURED = 30_000
_HELD_OUT = 9_000


@dataclass(frozen=True)
class Measures:
    """Of one model: cross-entropy on held-out tokens, NC4 there, and NC1 and NC2 on trained tokens."""

    loss: float
    agreement: float
    kernel_mean: float
    kernel_variance: float
    cdnv: float


_PAPER: Mapping[str, tuple[str, float]] = {
    "agreement": ("NC4", -0.94),
    "kernel_mean": ("log-kernel mean", 0.92),
    "kernel_variance": ("log-kernel variance", 0.89),
    "cdnv": ("CDNV", 0.57),
}
"""Correlation with held-out loss over the paper's 210 models."""


class NextToken(nn.Module):
    """A causal transformer of one block, and a head over the vocabulary."""

    def __init__(self, width: int, classes: int, length: int) -> None:
        super().__init__()
        self.body = Transformer((length,), width=width, depth=1, heads=4, vocabulary=classes)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Int[Tensor, "examples length"]) -> Tensor:
        """Token ids to logits."""
        out: Tensor = self.head(self.body(tokens))
        return out


def run(seed: int) -> tuple[Sequence[Finding], Figure]:
    """Four sizes at one place; one size averaged over clients of mixed, authors' and skewed tokens."""
    data = load_speeches(installed_speeches(), characters=False)
    everything = torch.arange(len(data.train.classes))
    sizes = {
        width: measured(_trained(data, width, [everything], 1, _STEPS, seed), data, seed)
        for width in WIDTHS
    }
    over = {}
    for name, parts in splits(data, seed).items():
        net = _trained(data, _FEDERATED_WIDTH, parts, _ROUNDS, _LOCAL, seed)
        over[name] = measured(net, data, seed)
    found = [Finding(f"held-out loss, width {w}", m.loss) for w, m in sizes.items()]
    losses = [m.loss for m in sizes.values()]
    for field, (name, paper) in _PAPER.items():
        r = float(np.corrcoef(losses, [getattr(m, field) for m in sizes.values()])[0, 1])
        # Four models tell a sign, not a size.
        found.append(Finding(f"correlation of {name} with it", r, f"{paper:g}", r * paper > 0))
    for name, m in over.items():
        found += [
            Finding(f"held-out loss, {name}", m.loss),
            Finding(f"NC4, {name}", m.agreement),
            Finding(f"log-kernel variance, {name}", m.kernel_variance),
        ]
    return found, _picture(sizes, over)


def splits(data: DataSet, seed: int) -> dict[str, list[Tensor]]:
    """The tokens of the ten authors with most, by author, mixed, and skewed by token; the same in all."""
    assert data.train_manifest is not None
    authors = np.array(data.train_manifest.column("site"))
    names, counts = np.unique(authors, return_counts=True)
    most = names[np.argsort(-counts, kind="stable")[:_CLIENTS]]
    own = [torch.from_numpy(np.flatnonzero(authors == name)) for name in most]
    pool = torch.cat(own)
    shuffled = pool[torch.from_numpy(rng(seed, "lab/mixed").permutation(len(pool)))]
    skewed = dirichlet_parts(data.train.classes[pool], _CLIENTS, 0.1, seed=seed)
    return {
        "FedAvg, mixed": list(shuffled.split([len(part) for part in own])),
        "FedAvg, by author": own,
        "FedAvg, by token, alpha 0.1": [pool[part] for part in skewed],
    }


def _trained(
    data: DataSet, width: int, parts: Sequence[Tensor], rounds: int, steps: int, seed: int
) -> NextToken:
    with torch_seeded(seed, "lab/network"):
        start = NextToken(width, len(data.classes), data.train.inputs.shape[1])

    def local(net: nn.Module, own: Tensor, generator: np.random.Generator) -> None:
        optimiser = torch.optim.AdamW(net.parameters(), _LR, weight_decay=0.0)
        for _ in range(steps):
            batch = own[torch.from_numpy(generator.integers(0, len(own), _BATCH))]
            optimiser.zero_grad()
            cross_entropy(net(data.train.inputs[batch]), data.train.classes[batch]).backward()
            optimiser.step()

    found = federated(start, parts, rounds, local, seed=seed)
    assert isinstance(found, NextToken)
    return found


@torch.no_grad()
def measured(net: NextToken, data: DataSet, seed: int) -> Measures:
    """The measures on a sample of tokens that were trained on, and of held-out ones."""
    net.eval()
    generator = rng(seed, "lab/measured")
    trained_on = torch.from_numpy(generator.permutation(len(data.train.classes))[:_MEASURED])
    held = torch.from_numpy(generator.permutation(len(data.test.classes))[:_HELD_OUT])
    classes = len(data.classes)
    batches = [
        FeatureSums.of(
            net.body(data.train.inputs[part]), data.train.classes[part], classes, moments=False
        )
        for part in trained_on.split(2000)
    ]
    sums = batches[0]
    for batch in batches[1:]:
        sums += batch
    agreement, loss = AgreementSums(), 0.0
    for part in held.split(2000):
        h = net.body(data.test.inputs[part])
        logits = net.head(h)
        agreement += AgreementSums.of(h, logits, sums)
        loss += float(cross_entropy(logits, data.test.classes[part], reduction="sum"))
    nc2 = spread(sums)
    return Measures(
        loss / len(held), agreement.share, nc2.log_kernel_mean, nc2.log_kernel_variance, cdnv(sums)
    )


def _picture(sizes: Mapping[int, Measures], over: Mapping[str, Measures]) -> Figure:
    figure = Figure(figsize=(9, 3), layout="constrained")
    panels = figure.subplots(1, 3)
    shown = {
        "agreement": "NC4",
        "kernel_mean": "log-kernel mean",
        "kernel_variance": "log-kernel variance",
    }
    for axes, (field, name) in zip(panels, shown.items(), strict=True):
        losses = [m.loss for m in sizes.values()]
        axes.plot(
            losses,
            [getattr(m, field) for m in sizes.values()],
            "o-",
            color="#2a6fb0",
            label="one place",
        )
        for i, (width, m) in enumerate(sizes.items()):
            at, beside = (m.loss, getattr(m, field)), (5, -8 if i % 2 else 4)
            axes.annotate(f"{width}", at, xytext=beside, textcoords="offset points", fontsize=7)
        for mark, (split, m) in zip("sD^", over.items(), strict=True):
            axes.plot(m.loss, getattr(m, field), mark, label=split, fillstyle="none")
        axes.set_xlabel("held-out loss", fontsize=8)
        axes.set_title(name, fontsize=9)
        axes.margins(0.15)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=4, loc="outside upper center")
    return figure


LANGUAGE = Lab(
    "language",
    "As language models grow, NC4 and the uniformity of the class means follow the held-out loss (Wu and Papyan, "
    "NeurIPS 2024).",
    run,
)
