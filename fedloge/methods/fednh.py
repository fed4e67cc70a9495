"""FedNH: tackling data heterogeneity in federated learning with class prototypes.

Dai, Chen, Li, Heinecke, Sun, Xu. AAAI 2023, arXiv 2212.02758.

The head is a set of unit prototypes w_c, far apart from the start and the same for all
clients: logits = s W h / ||h||. Clients train the backbone (and s) against it. The server
moves each prototype slowly towards mu_c, the mean direction of the class's features over the
clients of the round, weighted by their examples: w_c <- unit(rho w_c + (1 - rho) mu_c).

A client's personal model is the one that it has trained last, as in the authors' code. The client
keeps it with the prototypes that it was trained against.

The prototypes start as a simplex ETF, whose smallest distance is the largest possible, as the
paper asks for. (The authors' code starts from random orthonormal rows.) Learning s from 20 is
the default of the authors' code for a ResNet.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from fedloge.geometry.simplex import simplex_etf
from fedloge.learning.class_told import ClassTold
from fedloge.methods.method import (
    Aggregate,
    ClientData,
    Losses,
    Method,
    MethodOptions,
    Network,
    Part,
    Predictor,
    Update,
    plain_features,
)
from fedloge.models.cosine_head import CosineHead
from fedloge.models.head import LinearHead


class FedNHNetwork(Network):
    """A backbone, the prototypes that it trains against, and the client's own copy of both."""

    prototypes: CosineHead
    own_backbone: nn.Module
    own_prototypes: CosineHead


class FedNH(Method[FedNHNetwork]):
    """A backbone against prototypes that only the server moves."""

    name = "fednh"
    parts: ClassVar = {
        "backbone": Part.SHARED,
        "prototypes": Part.SHARED,
        "own_backbone": Part.PERSONAL,
        "own_prototypes": Part.PERSONAL,
    }
    primary_global = "raw"
    primary_personal = "raw"
    class_told = ClassTold(counts=True, sums=True)

    class Options(MethodOptions):
        """`rho`: share of the old prototype in a new one. `scale`: s, or its initial value if it is learned."""

        rho: float = Field(0.9, ge=0, le=1)
        scale: float = Field(20.0, gt=0)
        learn_scale: bool = True

    options: Options

    def build(self) -> FedNHNetwork:
        """The backbone, prototypes at the corners of a simplex, and copies for the client's own."""
        backbone, options = self.task.backbone(), self.options
        start = simplex_etf(self.task.num_classes, backbone.out_features, seed=self.config.seed)
        head = CosineHead(start, options.scale, learn_scale=options.learn_scale)
        return FedNHNetwork(
            backbone=backbone,
            prototypes=head,
            own_backbone=copy.deepcopy(backbone).requires_grad_(False),
            own_prototypes=copy.deepcopy(head).requires_grad_(False),
        )

    def loss(self, net: FedNHNetwork, inputs: Tensor, labels: Tensor, client: ClientData) -> Losses:
        """Cross-entropy of the scaled cosines."""
        return {"ce": cross_entropy(net.prototypes(net.backbone(inputs)), labels)}

    @property
    def soft_labels(self) -> bool:
        """True: cross-entropies take shares of classes."""
        return True

    def local_update(self, net: FedNHNetwork, client: ClientData) -> Update:
        """Train, then send the mean directions of the classes under the trained backbone."""
        update = super().local_update(net, client)
        net.own_backbone.load_state_dict(net.backbone.state_dict())
        net.own_prototypes.load_state_dict(net.prototypes.state_dict())
        means = class_directions(*plain_features(self, net, client), self.task.num_classes)
        weighted = client.counts.to(means)[:, None] * means
        return dataclasses.replace(update, sums={"directions": weighted})

    def uplink(self, net: FedNHNetwork) -> dict[str, Tensor]:
        """Class directions times counts. Only the direction of their sum matters."""
        return {"directions": torch.zeros_like(net.prototypes.weight, device="cpu")}

    def server_update(self, net: FedNHNetwork, aggregate: Aggregate) -> Aggregate:
        """The moved prototypes; a class that no client of the round has keeps its own."""
        name = "prototypes.weight"
        moved = moved_prototypes(
            aggregate.shared[name], aggregate.sums["directions"], self.options.rho
        )
        return aggregate.with_shared({name: moved})

    def global_predictors(self, net: FedNHNetwork) -> dict[str, Predictor]:
        """The class of the nearest prototype by angle; s and ||h|| do not change the ranking."""
        return {"raw": Predictor(LinearHead(net.prototypes.weight))}

    def averaged_model(self, net: FedNHNetwork) -> Predictor:
        """The prototypes at the scale of training, on features of norm 1."""
        scaled = net.prototypes.scale.detach() * net.prototypes.weight
        return Predictor(LinearHead(scaled), "unit_features")

    def unit_features(self, net: FedNHNetwork, inputs: Tensor) -> Float[Tensor, "batch features"]:
        """The shared features, scaled to norm 1."""
        return normalize(net.backbone(inputs))

    def own_features(self, net: FedNHNetwork, inputs: Tensor) -> Float[Tensor, "batch features"]:
        """Features of the backbone as this client has trained it last."""
        return net.own_backbone(inputs)

    def personal_predictors(self, net: FedNHNetwork, client: ClientData) -> dict[str, Predictor]:
        """The model that this client has trained last; before any training, the global one."""
        if client.rounds_trained == 0:
            return self.global_predictors(net)
        return {"raw": Predictor(LinearHead(net.own_prototypes.weight), "own_features")}


def class_directions(
    features: Float[Tensor, "examples features"], labels: Int[Tensor, " examples"], classes: int
) -> Float[Tensor, "classes features"]:
    """Mean of h / ||h|| over the examples of each class, scaled to norm 1; zero for an absent class."""
    unit = normalize(features)
    sums = [unit[labels == c].sum(dim=0) for c in range(classes)]
    return normalize(torch.stack(sums))


def moved_prototypes(
    prototypes: Float[Tensor, "classes features"],
    directions: Float[Tensor, "classes features"],
    rho: float,
) -> Float[Tensor, "classes features"]:
    """unit(rho w_c + (1 - rho) unit(d_c)), or w_c where d_c is zero."""
    moved = normalize(rho * prototypes + (1 - rho) * normalize(directions))
    return torch.where(directions.any(dim=1, keepdim=True), moved, prototypes)
