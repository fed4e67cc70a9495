"""Training heads on fixed features: those of a client's own examples, or virtual ones."""

from __future__ import annotations

import copy

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import one_hot

from fedloge.learning.optimiser import Optimiser, optimiser_of
from fedloge.methods.method import ClientData, Method, Network, plain_features
from fedloge.rng import rng


def tuned_head(
    method: Method, net: Network, head: nn.Linear, client: ClientData, *, epochs: int
) -> nn.Linear:
    """A copy of `head`, trained by SGD on the client's features under a frozen backbone.

    The features are computed once, without augmentation and in evaluation mode, so that tuning
    costs one forward pass over the client's examples. The optimiser and the batch size are the run's,
    and its ``lr`` before any schedule, which may have ended near 0. `epochs` >= 0 is the number
    of passes over the features.
    """
    config = client.config
    features, labels = plain_features(method, net, client)
    tuned = copy.deepcopy(head).requires_grad_(True)
    written_out = config.optimiser == "sgd" and not config.nesterov
    optimiser = optimiser_of(config, tuned.parameters(), lr=config.lr, weight_decay=0.0)
    fit_head(
        tuned,
        features,
        labels,
        epochs=epochs,
        lr=config.lr,
        momentum=config.momentum,
        batch_size=config.batch_size,
        generator=rng(config.seed, "tune", client.round, client.client),
        optimiser=None if written_out else optimiser,
    )
    return tuned.requires_grad_(False)


@torch.no_grad()
def fit_head(
    head: nn.Linear,
    features: Float[Tensor, "examples features"],
    labels: Int[Tensor, " examples"],
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    generator: np.random.Generator,
    momentum: float = 0.0,
    optimiser: Optimiser | None = None,
) -> None:
    """Train a head in place on cross-entropy, over shuffled batches of fixed features.

    By SGD with this learning rate and momentum, unless an `optimiser` of the head's parameters is given.

    The gradient of a linear head is written out, (p - y) h^T. For so small a model, autograd
    and an optimiser would cost five times as much as the arithmetic.
    """
    weight, bias = head.weight.data, head.bias.data
    targets = one_hot(labels, len(bias)).to(features)
    velocities = torch.zeros_like(weight), torch.zeros_like(bias)
    for _ in range(epochs):
        order = torch.from_numpy(generator.permutation(len(labels))).to(labels.device)
        batches = features[order].split(batch_size), targets[order].split(batch_size)
        for h, y in zip(*batches, strict=True):
            residual = (torch.addmm(bias, h, weight.T).softmax(dim=1) - y) / len(h)
            if optimiser is not None:
                head.weight.grad, head.bias.grad = residual.T @ h, residual.sum(dim=0)
                optimiser.step()
                continue
            velocities[0].mul_(momentum).addmm_(residual.T, h)
            velocities[1].mul_(momentum).add_(residual.sum(dim=0))
            weight.sub_(velocities[0], alpha=lr)
            bias.sub_(velocities[1], alpha=lr)
