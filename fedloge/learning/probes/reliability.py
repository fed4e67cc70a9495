"""Calibration over all clients: of global models on held-out images, of personal models on test images."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedloge.learning.calibration import Reliability
from fedloge.learning.class_told import NOTHING_OF_CLASSES, ClassTold
from fedloge.learning.client_data import EVALUATION_BATCH, ClientData
from fedloge.learning.probes.probe import Findings, Probe
from fedloge.models.network import Network

PERSONAL = "personal"


class Calibration(Probe):
    """How sure models are, and how often they are then right, in 15 bins of confidence.

    A client sends, for each bin, how many of its images fall into it, the sum of the model's
    confidences, and how many it gets right: of each global model on the images that the client holds
    out from training (``validation-share``; without it of none), and of the client's own model, by
    which the method is judged, on its test images. Models that are themselves made from clients' sums
    are not included.
    """

    name: ClassVar[str] = "calibration"
    class_told: ClassVar[ClassTold] = NOTHING_OF_CLASSES

    def template(self, net: Network) -> dict[str, Tensor]:
        """Three rows of bins for each global model; nothing where none exists or no images are held out."""
        if not (self.task.config.validation_share and self.task.global_network):
            return {}
        names = self.task.method.global_predictors(net)
        return {f"global/{name}": Reliability.empty().sums for name in names}

    @torch.no_grad()
    def collect(self, net: Network, client: ClientData) -> dict[str, Tensor]:
        """The bins of this client's held-out images."""
        net.eval()
        held, sums = client.validation, self.template(net)
        predictors = self.task.method.global_predictors(net) if sums else {}
        for start in range(0, 0 if held is None else len(held), EVALUATION_BATCH):
            assert held is not None
            part = slice(start, start + EVALUATION_BATCH)
            inputs, classes = client.preparation.prepare(held.inputs[part]), held.classes[part]
            for name, predictor in predictors.items():
                logits = predictor.head.logits(self.task.features_for(predictor, net, inputs))
                sums[f"global/{name}"] += Reliability.of(logits.softmax(dim=1), classes).sums
        return sums

    def personal_template(self) -> dict[str, Tensor]:
        """Three rows of bins."""
        return {PERSONAL: Reliability.empty().sums}

    def collect_personal(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The bins of this client's test images."""
        return {PERSONAL: Reliability.of(logits.softmax(dim=1), labels).sums}

    def finish(self, net: Network, sums: dict[str, Tensor]) -> Findings:
        """``global/NAME/ece`` and ``personal/ece``, and the bins themselves."""
        found = {name: Reliability(each) for name, each in sums.items()}
        found = {name: each for name, each in found.items() if each.examples}
        return Findings(
            {f"{name}/ece": each.ece for name, each in found.items()}, reliability=found
        )
