"""Gaussian classes and a small network, for labs that train one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from fedloge.geometry.feature_sums import FeatureSums
from fedloge.labs.small_federation import dirichlet_parts, federated
from fedloge.rng import rng, torch_seeded

BATCH, LR, DECAY = 50, 3e-3, 1e-3
CLIENTS, ROUNDS = 5, 30
SKEWS = (100.0, 0.5, 0.1)

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""From a network, inputs and labels to the loss."""


@dataclass(frozen=True)
class Classes:
    """Examples of Gaussian classes around random centres, some to train on and as many of each class to test."""

    inputs: Float[Tensor, "examples inputs"]
    labels: Int[Tensor, " examples"]
    test_inputs: Float[Tensor, "tests inputs"]
    test_labels: Int[Tensor, " tests"]

    @property
    def number(self) -> int:
        """C."""
        return int(self.test_labels.max()) + 1


def gaussian_classes(counts: Sequence[int], dim: int, distance: float, seed: int) -> Classes:
    """Centres at `distance` from 0 in random directions, noise of deviation 1, 50 test examples of each class."""
    generator = rng(seed, "lab/classes")
    drawn = torch.from_numpy(generator.standard_normal((len(counts), dim)).astype(np.float32))
    centres = distance * normalize(drawn)

    def around(labels: Tensor) -> Tensor:
        noise = generator.standard_normal((len(labels), dim)).astype(np.float32)
        return centres[labels] + torch.from_numpy(noise)

    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    tests = torch.arange(len(counts)).repeat_interleave(50)
    return Classes(around(labels), labels, around(tests), tests)


def small_network(inputs: int, features: int, classes: int, seed: int) -> nn.Module:
    """Two hidden layers of 64 as ``body``, and a linear ``head`` without bias."""
    with torch_seeded(seed, "lab/network"):
        body = nn.Sequential(
            nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, features)
        )
        return nn.ModuleDict({"body": body, "head": nn.Linear(features, classes, bias=False)})


def trained(
    start: nn.Module, of: Classes, loss: Loss, *, steps: int, alpha: float | None, seed: int
) -> nn.Module:
    """A trained copy: at one place (`alpha` None), or averaged over clients for as many steps each."""

    def local(net: nn.Module, own: Tensor, generator: np.random.Generator) -> None:
        optimiser = torch.optim.Adam(net.parameters(), LR, weight_decay=DECAY)
        for _ in range(steps if alpha is None else steps // ROUNDS):
            batch = own[torch.from_numpy(generator.integers(0, len(own), BATCH))]
            optimiser.zero_grad()
            loss(net, of.inputs[batch], of.labels[batch]).backward()
            optimiser.step()

    if alpha is None:
        return federated(start, [torch.arange(len(of.labels))], 1, local, seed=seed)
    parts = dirichlet_parts(of.labels, CLIENTS, alpha, seed=seed)
    return federated(start, parts, ROUNDS, local, seed=seed)


@torch.no_grad()
def class_sums(net: nn.Module, of: Classes) -> FeatureSums:
    """Sums of the training examples' features."""
    return FeatureSums.of(net.get_submodule("body")(of.inputs), of.labels, of.number)
