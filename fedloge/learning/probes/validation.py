"""Global models on the validation examples of all clients, which no client trains on."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedloge.learning.class_told import ClassTold
from fedloge.learning.client_data import EVALUATION_BATCH, ClientData
from fedloge.learning.probes.probe import Findings, Probe
from fedloge.models.network import Network


class Validation(Probe):
    """Accuracy over all validation examples, and its mean over classes.

    Settings are chosen by these, never by the test set. A client sends, for each class, how many
    validation examples it has and how many of them each global model gets right. Models that are
    themselves made from clients' sums (CCVR's) are not included.
    """

    name: ClassVar[str] = "validation"
    class_told: ClassVar[ClassTold] = ClassTold(counts=True, sums=False, of="validation")

    def template(self, net: Network) -> dict[str, Tensor]:
        """For each class: examples, and for each global model those it gets right."""
        names = self.task.method.global_predictors(net)
        zeros = torch.zeros(self.task.num_classes)
        return {"examples": zeros, **{f"right/{name}": zeros.clone() for name in names}}

    @torch.no_grad()
    def collect(self, net: Network, client: ClientData) -> dict[str, Tensor]:
        """This client's counts."""
        net.eval()
        held, predictors = client.validation, self.task.method.global_predictors(net)
        counts = self.template(net)
        for start in range(0, 0 if held is None else len(held), EVALUATION_BATCH):
            assert held is not None
            part = slice(start, start + EVALUATION_BATCH)
            inputs, classes = client.preparation.prepare(held.inputs[part]), held.classes[part]
            counts["examples"] += _per_class(classes, self.task.num_classes)
            features: dict[str, Tensor] = {}
            for name, predictor in predictors.items():
                if predictor.extractor not in features:
                    own = self.task.features_for(predictor, net, inputs)
                    features[predictor.extractor] = own
                guesses = predictor.head.predict(features[predictor.extractor])
                counts[f"right/{name}"] += _per_class(
                    classes[guesses == classes], self.task.num_classes
                )
        return counts

    def finish(self, net: Network, sums: dict[str, Tensor]) -> Findings:
        """For each global model ``<name>/all``, and ``<name>/balanced``: the mean over classes that occur."""
        examples = sums["examples"].double()
        occurs = examples > 0
        if not occurs.any():
            return Findings()
        figures = {}
        for key, right in sums.items():
            if key.startswith("right/"):
                name = key.removeprefix("right/")
                figures[f"{name}/all"] = float(right.double().sum() / examples.sum())
                shares = right.double()[occurs] / examples[occurs]
                figures[f"{name}/balanced"] = float(shares.mean())
        return Findings(figures)


def _per_class(classes: Tensor, num_classes: int) -> Tensor:
    return torch.bincount(classes, minlength=num_classes).float().cpu()
