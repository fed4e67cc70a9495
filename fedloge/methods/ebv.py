"""EBV: equiangular basis vectors as the classifier of all clients.

Shen, Sun, Wei. "Equiangular Basis Vectors", CVPR 2023, arXiv 2303.11637.

Every class has a fixed unit vector, nearly orthogonal to all others however many classes there are.
The backbone is trained on cross-entropy of the cosines over a temperature, with smoothed labels,
and averaged as in FedAvg; nothing else is learned or sent. A client's personal model is the same
network, which predicts only classes that the client was trained on.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedloge.geometry.prototypes import prototypes
from fedloge.geometry.realignment import absent_mask
from fedloge.methods.method import (
    ClientData,
    Losses,
    Method,
    MethodOptions,
    Network,
    Part,
    Predictor,
)
from fedloge.models.cosine_head import scaled_cosines
from fedloge.models.head import FixedHead, LinearHead


class EBVNetwork(Network):
    """A backbone and the basis vectors."""

    fixed: FixedHead


class EBV(Method[EBVNetwork]):
    """A backbone against basis vectors, by angle alone."""

    name = "ebv"
    parts: ClassVar = {"backbone": Part.SHARED, "fixed": Part.FIXED}
    primary_global = "raw"
    primary_personal = "masked"
    takes_stale = True

    class Options(MethodOptions):
        """`prototypes`: basis vectors (``basis``, or ``sparse-basis``), or another kind of fixed classifier.

        `sparsity`: share of zeros of a sparse kind. `temperature`: what cosines are divided by.
        `label_smoothing`: share of the target that is spread over all classes.
        """

        prototypes: Literal["basis", "sparse-basis", "etf", "sparse-etf"] = "basis"
        sparsity: float = Field(0.6, ge=0, lt=1)
        temperature: float = Field(0.07, gt=0)
        label_smoothing: float = Field(0.1, ge=0, lt=1)

    options: Options

    def build(self) -> EBVNetwork:
        """The backbone as usual; rows of norm 1."""
        backbone, o = self.task.backbone(), self.options
        rows = prototypes(
            self.task.num_classes,
            backbone.out_features,
            o.prototypes,
            sparsity=o.sparsity,
            gamma=1.0,
            seed=self.config.seed,
        )
        return EBVNetwork(backbone=backbone, fixed=FixedHead(rows))

    def loss(self, net: EBVNetwork, inputs: Tensor, labels: Tensor, client: ClientData) -> Losses:
        """Smoothed cross-entropy of the cosines over the temperature."""
        o = self.options
        logits = scaled_cosines(net.backbone(inputs), net.fixed.weight, 1 / o.temperature)
        return {"fixed": cross_entropy(logits, labels, label_smoothing=o.label_smoothing)}

    @property
    def uniform_step(self) -> bool:
        """True: the loss depends on the batch alone."""
        return True

    @property
    def example_by_example(self) -> bool:
        """True: a mean over the batch's examples."""
        return True

    @property
    def soft_labels(self) -> bool:
        """True: cross-entropy takes shares of classes."""
        return True

    def global_predictors(self, net: EBVNetwork) -> dict[str, Predictor]:
        """The class of the nearest vector by angle; ||h|| does not change the ranking."""
        return {"raw": Predictor.of(net.fixed)}

    def personal_predictors(self, net: EBVNetwork, client: ClientData) -> dict[str, Predictor]:
        """The global model, and the same among the classes that the client was trained on."""
        weight = net.fixed.weight.detach()
        mask = absent_mask(client.counts).to(weight)
        return {
            "raw": Predictor.of(net.fixed),
            "masked": Predictor(LinearHead(weight, mask=mask)),
        }
