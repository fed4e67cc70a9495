"""The smallest federation: a few clients in one process, plain averaging, for a lab's network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from fedloge.rng import rng

LocalSteps = Callable[[nn.Module, Int[Tensor, " own"], np.random.Generator], None]


def federated(
    net: nn.Module, parts: Sequence[Tensor], rounds: int, train: LocalSteps, *, seed: int
) -> nn.Module:
    """Federated averaging of a copy of `net`, weighted by examples; all clients take part in every round.

    Parameters
    ----------
    parts : for each client the indices of its examples; clients without any are left out.
    train : trains a network in place on some examples, with draws from a generator.
    """
    shared = copy.deepcopy(net)
    held = [(k, own) for k, own in enumerate(parts) if len(own)]
    total = sum(len(own) for _, own in held)
    for round in range(rounds):
        sums = {name: torch.zeros_like(tensor) for name, tensor in shared.state_dict().items()}
        for k, own in held:
            local = copy.deepcopy(shared)
            train(local, own, rng(seed, "lab/local", round, k))
            for name, tensor in local.state_dict().items():
                sums[name] += tensor * (len(own) / total)
        shared.load_state_dict(sums)
    return shared


def dirichlet_parts(
    labels: Int[Tensor, " examples"], clients: int, alpha: float, *, seed: int
) -> list[Int[Tensor, " own"]]:
    """Indices of each client: of every class, shares drawn from Dirichlet(alpha)."""
    generator = rng(seed, "lab/split")
    owner = np.empty(len(labels), dtype=np.int64)
    for c in labels.unique().tolist():
        here = (labels == c).nonzero()[:, 0].numpy()
        owner[here] = generator.choice(
            clients, size=len(here), p=generator.dirichlet([alpha] * clients)
        )
    return [torch.from_numpy(np.flatnonzero(owner == k)) for k in range(clients)]
