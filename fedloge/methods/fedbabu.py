"""FedBABU: toward enhanced representation for federated image classification.

Oh, Kim, Yun. ICLR 2022, arXiv 2106.06042.

Only the backbone is trained and averaged. The head keeps its initial values, which are the
same for all, so that there is a global model. For evaluation each client tunes a copy: of the
whole network as in the paper (``tune = "all"``), or of the head alone, which costs one forward
pass.
"""

from __future__ import annotations

from typing import ClassVar, Literal, cast

from jaxtyping import Float
from torch import Tensor, nn

from fedloge.learning.loop import sgd
from fedloge.methods.fedavg import FedAvg, TuningOptions
from fedloge.methods.method import ClientData, Part, Predictor
from fedloge.methods.single_head import HeadNetwork, LossOptions


class FedBABU(FedAvg):
    """FedAvg of the backbone alone, under a head that keeps its initial values."""

    name = "fedbabu"
    parts: ClassVar = {"backbone": Part.SHARED, "head": Part.FIXED, "tuned": Part.PERSONAL}
    heads: ClassVar[tuple[str, ...]] = ()
    uniform_step = FedAvg.uniform_step
    example_by_example = FedAvg.example_by_example

    class Options(LossOptions, TuningOptions):
        """The local loss and the tuning; without ``post-hoc``, which needs a trained head.

        `tune`: what is tuned on the client's examples for evaluation, the ``head`` or ``all``.
        """

        tune: Literal["head", "all"] = "head"

    options: Options  # type: ignore[assignment]

    def build(self) -> HeadNetwork:
        """FedAvg's network with its head frozen, and room for a network that a client tunes whole."""
        net = self.fresh_model()
        net.head.requires_grad_(False)
        tuned = self.fresh_model() if self.options.tune == "all" else nn.Module()
        net.add_module("tuned", tuned.requires_grad_(False))
        return net

    def global_predictors(self, net: HeadNetwork) -> dict[str, Predictor]:
        """The averaged backbone under the initial head."""
        return {"raw": Predictor.of(net.head)}

    def personal_predictors(self, net: HeadNetwork, client: ClientData) -> dict[str, Predictor]:
        """The averaged model as it is, and tuned on the client's examples."""
        if self.options.tune == "head":
            return super().personal_predictors(net, client)
        tuned = cast(HeadNetwork, net.tuned)
        tuned.backbone.load_state_dict(net.backbone.state_dict())
        tuned.head.load_state_dict(net.head.state_dict())
        if epochs := self.options.tune_epochs:
            parameters = list(tuned.requires_grad_(True).parameters())
            sgd(tuned, parameters, self.loss, client, epochs=epochs, purpose="tune")
        tuned.requires_grad_(False).eval()
        return {"raw": Predictor.of(net.head), "tuned": Predictor.of(tuned.head, "tuned_features")}

    def tuned_features(self, net: HeadNetwork, inputs: Tensor) -> Float[Tensor, "batch features"]:
        """Features of the network that the client has tuned as a whole."""
        return cast(HeadNetwork, net.tuned).backbone(inputs)

    def head_norms(self, net: HeadNetwork) -> dict[str, Tensor]:
        """None, since the head has learned nothing."""
        return {}
