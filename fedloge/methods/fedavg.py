"""FedAvg: communication-efficient learning of deep networks from decentralized data.

McMahan, Moore, Ramage, Hampson, Aguera y Arcas. AISTATS 2017, arXiv 1602.05629.

Everything is averaged. The personal model is the usual baseline: the global model
with its head fine-tuned on the client's own images before it is measured.
"""

from __future__ import annotations

from pydantic import Field

from fedloge.methods.head_tuning import tuned_head
from fedloge.methods.method import LocalData, MethodOptions, Predictor
from fedloge.methods.single_head import HeadNetwork, SharedHead
from fedloge.models.head import LinearHead


class FedAvg(SharedHead[HeadNetwork]):
    """One model, averaged whole."""

    name = "fedavg"
    primary_personal = "tuned"

    class Options(MethodOptions):
        """`tune_epochs`: passes over the client's images when its head is tuned for evaluation."""

        tune_epochs: int = Field(5, ge=0)

    options: Options

    def personal_predictors(self, net: HeadNetwork, client: LocalData) -> dict[str, Predictor]:
        """The averaged model as it is, and with its head tuned on the client's images."""
        tuned = tuned_head(self, net, net.head, client, epochs=self.options.tune_epochs)
        return {"raw": Predictor(LinearHead.of(net.head)), "tuned": Predictor(LinearHead.of(tuned))}
