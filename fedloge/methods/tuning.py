"""Tuning a head on a client's own images, for methods whose personal model is made at evaluation."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fedloge.methods.base import LocalData, Method, Network
from fedloge.rng import rng


def tuned_head(
    method: Method, net: Network, head: nn.Linear, client: LocalData, *, epochs: int
) -> nn.Linear:
    """A copy of `head` trained by SGD on the client's features, backbone frozen in evaluation mode.

    The features are computed once, without augmentation, so that tuning costs one
    forward pass over the client's images. Learning rate, momentum and batch size
    are the run's.
    """
    config = client.config
    net.eval()
    with torch.no_grad():
        parts = [(method.features(net, x), y) for x, y in client.plain_batches()]
    features, labels = torch.cat([h for h, _ in parts]), torch.cat([y for _, y in parts])
    tuned = copy.deepcopy(head)
    optimiser = torch.optim.SGD(
        tuned.parameters(), lr=config.lr, momentum=config.momentum, fused=True
    )
    generator = rng(config.seed, "tune", client.round, client.client)
    for _ in range(epochs):
        order = torch.from_numpy(generator.permutation(len(labels))).to(labels.device)
        for batch in order.split(config.batch_size):
            optimiser.zero_grad()
            cross_entropy(tuned(features[batch]), labels[batch]).backward()
            optimiser.step()
    return tuned.requires_grad_(False)
