"""FedBABU: toward enhanced representation for federated image classification.

Oh, Kim, Yun. ICLR 2022, arXiv 2106.06042.

Only the backbone is trained and averaged. The head keeps the values it was drawn
with, the same for all, so that there is a global model; each client tunes a copy of
it for evaluation. (The paper also tunes the whole network then; this tunes the head.)
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fedloge.methods.fedavg import FedAvg, TuningOptions
from fedloge.methods.method import Part, Predictor
from fedloge.methods.single_head import HeadNetwork, LossOptions


class FedBABU(FedAvg):
    """FedAvg of the backbone alone, under a head that stays as it was drawn."""

    name = "fedbabu"
    parts: ClassVar = {"backbone": Part.SHARED, "head": Part.FIXED}
    uniform_step = FedAvg.uniform_step

    class Options(LossOptions, TuningOptions):
        """The local loss, and the head's tuning; no head is trained that anything could be made of."""

    options: Options  # type: ignore[assignment]

    def build(self) -> HeadNetwork:
        """As FedAvg's, the head frozen."""
        net = self.fresh_model()
        net.head.requires_grad_(False)
        return net

    def global_predictors(self, net: HeadNetwork) -> dict[str, Predictor]:
        """The averaged backbone under the head as it was drawn."""
        return {"raw": Predictor.of(net.head)}

    def head_norms(self, net: HeadNetwork) -> dict[str, Tensor]:
        """None worth plotting: the head has learned nothing."""
        return {}
