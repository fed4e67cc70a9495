"""How many of each class's images the clients' own models get right, over all clients."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedloge.learning.class_told import ClassTold
from fedloge.learning.client_data import ClientData
from fedloge.learning.probes.probe import Findings, Probe
from fedloge.models.network import Network


class Sensitivity(Probe):
    """Per-class sensitivity (recall) of the personal models by which the method is judged.

    A client sends, for each class, how many test images it has and how many of them its own model
    gets right.
    """

    name: ClassVar[str] = "sensitivity"
    class_told: ClassVar[ClassTold] = ClassTold(counts=True, sums=False, of="test")

    def template(self, net: Network) -> dict[str, Tensor]:
        """Nothing of the global models, which the record has already."""
        return {}

    def collect(self, net: Network, client: ClientData) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def personal_template(self) -> dict[str, Tensor]:
        """For each class: test images, and those that are predicted right."""
        zeros = torch.zeros(self.task.num_classes)
        return {"images": zeros, "right": zeros.clone()}

    def collect_personal(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """This client's counts."""
        right, classes = labels[logits.argmax(dim=1) == labels], self.task.num_classes
        return {
            "images": torch.bincount(labels, minlength=classes).float().cpu(),
            "right": torch.bincount(right, minlength=classes).float().cpu(),
        }

    def finish(self, net: Network, sums: dict[str, Tensor]) -> Findings:
        """Each class's share by name ``personal``, NaN for a class without test images, and their mean."""
        shares = sums["right"].double() / sums["images"].double()
        measured = shares[sums["images"] > 0]
        if not len(measured):
            return Findings()
        return Findings({"personal/mean": float(measured.mean())}, {"personal": shares.tolist()})
