"""FedAvg: communication-efficient learning of deep networks from decentralized data.

McMahan, Moore, Ramage, Hampson, Aguera y Arcas. AISTATS 2017, arXiv 1602.05629.

Everything is averaged. The personal model is the usual baseline: the global model
with its head fine-tuned on the client's own examples before it is measured.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from fedloge.methods.head_tuning import tuned_head
from fedloge.methods.method import ClientData, MethodOptions, Predictor
from fedloge.methods.single_head import HeadNetwork, SharedHead, SharedHeadOptions


class TuningOptions(MethodOptions):
    """`tune_epochs`: passes over the client's examples when its head is tuned for evaluation."""

    tune_epochs: int = Field(5, ge=0)


class FedAvgOptions(SharedHeadOptions, TuningOptions):
    """The local loss, what is made of the head after training, and its tuning."""


class FedAvg(SharedHead[HeadNetwork]):
    """One model, averaged whole."""

    name = "fedavg"
    primary_personal = "tuned"
    Options: ClassVar[type[MethodOptions]] = FedAvgOptions
    options: FedAvgOptions
    uniform_step = SharedHead.uniform_step

    def personal_predictors(self, net: HeadNetwork, client: ClientData) -> dict[str, Predictor]:
        """The averaged model as it is, and with its head tuned on the client's examples."""
        tuned = tuned_head(self, net, net.head, client, epochs=self.options.tune_epochs)
        return {"raw": Predictor.of(net.head), "tuned": Predictor.of(tuned)}
