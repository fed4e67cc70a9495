"""FedETF: no fear of classifier biases, with a synthetic and fixed classifier.

Li, Shang, He, Lin, Wu. ICCV 2023, arXiv 2303.10058.

The backbone is followed by a linear projection to features h of norm 1, a fixed simplex
ETF W and one learned scale: logits = scale W h. The loss is balanced softmax with the
client's class counts. A client's personal model is made for evaluation: W and the
projection are tuned in turns on cross-entropy, as in the second stage of the paper's
personalization. The first stage, which trains the whole network on the client for some
more epochs, is left out, so that the backbone's features are computed only once.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from fedloge.geometry.prototypes import prototypes
from fedloge.learning.losses import balanced_softmax
from fedloge.learning.optimiser import optimiser_of
from fedloge.methods.method import (
    ClientData,
    Losses,
    Method,
    MethodOptions,
    Network,
    Part,
    Predictor,
)
from fedloge.models import head as heads
from fedloge.models.cosine_head import scaled_cosines
from fedloge.models.head import FixedHead, LinearHead, Scalar
from fedloge.rng import rng


class FedETFNetwork(Network):
    """Backbone, projection, scale and fixed classifier, and room for the client's tuned projection."""

    projection: nn.Linear
    scale: Scalar
    fixed: FixedHead
    own_projection: nn.Linear


class FedETF(Method[FedETFNetwork]):
    """Unit features against a fixed simplex."""

    name = "fedetf"
    parts: ClassVar = {
        "backbone": Part.SHARED,
        "projection": Part.SHARED,
        "scale": Part.SHARED,
        "fixed": Part.FIXED,
        "own_projection": Part.PERSONAL,
    }
    primary_global = "raw"
    primary_personal = "tuned"
    takes_stale = True

    class Options(MethodOptions):
        """`dim`: width of the projection; 0, as the authors have it: the number of classes.

        `scale`: initial value of the learned scale, above 0. `tune_epochs`: how often W and then
        the projection are trained for one pass over the client's examples when it is evaluated
        (the paper: 20 turns of 3 passes each). `tune_lr`: learning rate of this tuning; absent: the
        run's.
        """

        dim: int = Field(0, ge=0)
        scale: float = Field(1.0, gt=0)
        tune_epochs: int = Field(5, ge=0)
        tune_lr: float | None = Field(None, gt=0)

    options: Options

    def build(self) -> FedETFNetwork:
        """W has rows of norm 1; the other parts are initialised as usual."""
        backbone, seed, classes = self.task.backbone(), self.config.seed, self.task.num_classes
        dim = self.options.dim or classes
        projection, own = (
            heads.linear(backbone.out_features, dim, seed=seed, purpose="init/projection")
            for _ in range(2)
        )
        return FedETFNetwork(
            backbone=backbone,
            projection=projection,
            scale=Scalar(self.options.scale),
            fixed=FixedHead(prototypes(classes, dim, "etf", gamma=1.0, seed=seed)),
            own_projection=own.requires_grad_(False),
        )

    def loss(
        self, net: FedETFNetwork, inputs: Tensor, labels: Tensor, client: ClientData
    ) -> Losses:
        """Balanced softmax of the scaled cosines."""
        projected = net.projection(net.backbone(inputs))
        logits = scaled_cosines(projected, net.fixed.weight, net.scale.value)
        return {"balanced": balanced_softmax(logits, labels, client.counts)}

    @property
    def soft_labels(self) -> bool:
        """True: cross-entropies take shares of classes."""
        return True

    def features(self, net: FedETFNetwork, inputs: Tensor) -> Float[Tensor, "batch features"]:
        """The projected features, scaled to norm 1."""
        return normalize(net.projection(net.backbone(inputs)))

    def own_features(self, net: FedETFNetwork, inputs: Tensor) -> Float[Tensor, "batch features"]:
        """The features through the client's tuned projection, scaled to norm 1."""
        return normalize(net.own_projection(net.backbone(inputs)))

    def global_predictors(self, net: FedETFNetwork) -> dict[str, Predictor]:
        """The fixed classifier on the shared projection."""
        return {"raw": Predictor(LinearHead(net.scale.value.detach() * net.fixed.weight))}

    def personal_predictors(self, net: FedETFNetwork, client: ClientData) -> dict[str, Predictor]:
        """The global model, and the same with projection and classifier tuned on the client's examples."""
        tuned = self._tune(net, client)
        return {
            **self.global_predictors(net),
            "tuned": Predictor(LinearHead(tuned), extractor="own_features"),
        }

    def _tune(self, net: FedETFNetwork, client: ClientData) -> Float[Tensor, "classes features"]:
        """Tune `net.own_projection` in place and a copy of W; returns the tuned W times the scale."""
        config, projection = self.config, net.own_projection
        projection.load_state_dict(net.projection.state_dict())
        net.eval()
        with torch.no_grad():
            h, labels = client.plain_features(net.backbone)
        weight, scale = nn.Parameter(net.fixed.weight.clone()), net.scale.value.detach()
        projection.requires_grad_(True)
        generator = rng(config.seed, "tune", client.round, client.client)
        lr = self.options.tune_lr or config.lr
        for _ in range(self.options.tune_epochs):
            for moving in ([weight], list(projection.parameters())):
                optimiser = optimiser_of(config, moving, lr=lr, weight_decay=0.0)
                order = torch.from_numpy(generator.permutation(len(labels))).to(labels.device)
                for batch in order.split(config.batch_size):
                    optimiser.zero_grad()
                    logits = scaled_cosines(projection(h[batch]), weight, scale)
                    cross_entropy(logits, labels[batch]).backward()
                    optimiser.step()
        projection.requires_grad_(False)
        return scale * weight.detach()
