"""RUCR: federated learning with long-tailed data via representation unification and rectification.

Huang et al. IEEE Transactions on Information Forensics and Security, 2024, document 10534053.

Clients send the mean features of their classes under the model that they received, and the
server pools these into unified prototypes. In training a feature is drawn to its class's
prototype and away from the others (representation unification). After training each client
fits a copy of its head further, on mixtures of a class's prototype with any local feature, the
same number for each class. The server averages those heads (classifier rectification). The
average is the global classifier; no client goes on training from it.

Losses and constants are those of the authors' code. One thing differs. In their code prototypes
travel to the server and back before clients train, so that a round has two exchanges. Here a
round has one, so that clients use the prototypes of the round before. A class that none of that
round's clients had keeps its last prototype. The authors rectify in the last 20 rounds only; here
it is done in every round, so that it can be evaluated in every round.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import ClassVar, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from fedloge.learning.class_told import ClassTold
from fedloge.methods.fedavg import FedAvg, FedAvgOptions
from fedloge.methods.head_tuning import fit_head
from fedloge.methods.method import (
    Aggregate,
    ClientData,
    Losses,
    Part,
    Predictor,
    Update,
    plain_features,
)
from fedloge.methods.single_head import HeadNetwork
from fedloge.methods.told_counts import tell, told
from fedloge.rng import rng


class RUCR(FedAvg):
    """FedAvg with features drawn to unified prototypes, and a head rectified on mixtures of them."""

    name = "rucr"
    parts: ClassVar = {
        "backbone": Part.SHARED,
        "head": Part.SHARED,
        "rectified": Part.SHARED,
        "unified": Part.SHARED,
    }
    heads: ClassVar[tuple[str, ...]] = ("head", "rectified")
    primary_global = "rectified"
    class_told = ClassTold(counts=True, sums=True)

    class Options(FedAvgOptions):
        """The authors' settings for CIFAR-10-LT.

        `feature_weight`, `temperature`: of the feature loss. `mix_low`, `mix_high`: range from
        which a prototype's share in a mixture is drawn uniformly. `virtual_features`: mixtures for
        each class. `rectify_epochs`, `rectify_lr`, `rectify_batch_size`: SGD of the head on them.
        """

        feature_weight: float = Field(0.15, ge=0)
        temperature: float = Field(0.9, gt=0)
        mix_low: float = Field(0.35, ge=0, le=1)
        mix_high: float = Field(0.95, ge=0, le=1)
        virtual_features: int = Field(100, ge=1)
        rectify_epochs: int = Field(50, ge=0)
        rectify_lr: float = Field(0.01, gt=0)
        rectify_batch_size: int = Field(256, ge=1)

        @field_validator("mix_high")
        @classmethod
        def _a_range(cls, high: float, others: ValidationInfo) -> float:
            low = others.data.get("mix_low", 0.0)
            if high < low:
                raise ValueError(f"expected at least mix-low, which is {low:g}")
            return high

    options: Options

    def build(self) -> HeadNetwork:
        """FedAvg's network, the rectified head (at first a copy of the head), and no prototypes yet."""
        net = super().build()
        net.add_module("rectified", copy.deepcopy(net.head).requires_grad_(False))
        net.add_module("unified", Unified(*net.head.weight.shape))
        return net

    def loss(self, net: HeadNetwork, inputs: Tensor, labels: Tensor, client: ClientData) -> Losses:
        """FedAvg's loss, and the feature loss against the unified prototypes."""
        features = net.backbone(inputs)
        unified = cast(Unified, net.unified)
        return {
            "local": self.local_loss(net.head(features), labels, client),
            "feature": self.options.feature_weight
            * feature_loss(features, labels, unified, client.counts, self.options.temperature),
        }

    def local_update(self, net: HeadNetwork, client: ClientData) -> Update:
        """Class means under the model as received, then training, then rectification of a copy of the head."""
        features, labels = plain_features(self, net, client)
        means = class_means(features, labels, self.task.num_classes)
        update = super().local_update(net, client)
        rectified = cast(nn.Linear, net.rectified)
        rectified.load_state_dict(self._rectified(net, features, client).state_dict())
        counts = client.counts.to(means)
        sums = {
            "means": counts[:, None] * means,
            "directions": counts[:, None] * normalize(means),
            "counts": counts,
        }
        return dataclasses.replace(update, sums=sums)

    def _rectified(self, net: HeadNetwork, features: Tensor, client: ClientData) -> nn.Linear:
        unified, o = cast(Unified, net.unified), self.options
        head = copy.deepcopy(net.head)
        known = unified.counts.nonzero()[:, 0]
        if not len(known):
            return head
        generator = rng(self.config.seed, "rucr/mix", client.round, client.client)
        mixed = mixtures(
            unified.directions[known],
            features,
            each=o.virtual_features,
            low=o.mix_low,
            high=o.mix_high,
            generator=generator,
        )
        fit_head(
            head,
            mixed.flatten(0, 1),
            known.repeat_interleave(o.virtual_features),
            epochs=o.rectify_epochs,
            lr=o.rectify_lr,
            batch_size=o.rectify_batch_size,
            generator=generator,
        )
        return head

    def uplink(self, net: HeadNetwork) -> dict[str, Tensor]:
        """Class means and their directions, both times the class counts, and these counts."""
        c, d = net.head.weight.shape
        return {
            "means": torch.zeros(c, d),
            "directions": torch.zeros(c, d),
            "counts": torch.zeros(c),
        }

    def server_update(self, net: HeadNetwork, aggregate: Aggregate) -> Aggregate:
        """New unified prototypes for the classes that this round's clients hold."""
        counts = aggregate.sums["counts"]
        seen = counts > 0
        pooled = {
            "unified.prototypes": aggregate.sums["means"] / counts.clamp(min=1)[:, None],
            "unified.directions": aggregate.sums["directions"] / counts.clamp(min=1)[:, None],
        }
        shared = {
            name: torch.where(seen[:, None], new, aggregate.shared[name])
            for name, new in pooled.items()
        }
        name = "unified.counts"
        known = torch.where(seen, counts, told(aggregate, name))
        return tell(aggregate.with_shared(shared), name, known)

    def global_predictors(self, net: HeadNetwork) -> dict[str, Predictor]:
        """The averaged head, and the average of the rectified ones."""
        rectified = Predictor.of(cast(nn.Linear, net.rectified))
        return super().global_predictors(net) | {"rectified": rectified}


class Unified(nn.Module):
    """What the server knows of each class: mean feature, clients' mean direction, `told_counts`."""

    prototypes: Tensor
    directions: Tensor
    counts: Tensor

    def __init__(self, classes: int, features: int) -> None:
        super().__init__()
        self.register_buffer("prototypes", torch.zeros(classes, features))
        self.register_buffer("directions", torch.zeros(classes, features))
        self.register_buffer("counts", torch.zeros(classes))


def feature_loss(
    features: Float[Tensor, "batch features"],
    labels: Int[Tensor, " batch"],
    unified: Unified,
    counts: Int[Tensor, " classes"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Cross-entropy of cosines with the prototypes, over the examples whose class has one.

    A class that this client does not have counts with cosine 0. To the true class's logit the
    logarithm of the class's share of all examples is added, so that rare classes need a wider margin.
    """
    cosines = normalize(features) @ normalize(unified.prototypes).T
    logits = torch.where(counts > 0, cosines, 0.0) / temperature
    known = unified.counts[labels] > 0
    share = torch.where(known, unified.counts[labels] / unified.counts.sum().clamp(min=1), 1.0)
    logits = logits.scatter_add(1, labels[:, None], share.log()[:, None])
    losses = cross_entropy(logits, labels, reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)


def class_means(
    features: Float[Tensor, "examples features"], labels: Int[Tensor, " examples"], classes: int
) -> Float[Tensor, "classes features"]:
    """Mean feature of each class; zero for an absent class."""
    means = features.new_zeros(classes, features.shape[1])
    for c in labels.unique().tolist():
        means[c] = features[labels == c].mean(dim=0)
    return means


def mixtures(
    directions: Float[Tensor, "classes features"],
    features: Float[Tensor, "examples features"],
    *,
    each: int,
    low: float,
    high: float,
    generator: np.random.Generator,
) -> Float[Tensor, "classes each features"]:
    """Prototypical mix-up: s w_c + (1 - s) h / ||h||, s ~ U(low, high), h any local feature."""
    shape = (len(directions), each)
    share = torch.from_numpy(generator.uniform(low, high, shape)).to(features)[..., None]
    chosen = torch.from_numpy(generator.integers(0, len(features), shape)).to(features.device)
    return share * directions[:, None] + (1 - share) * normalize(features)[chosen]
