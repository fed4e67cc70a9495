"""A probe: the mean length of the features of each class, without a feature leaving its client."""

from __future__ import annotations

import torch
from torch import Tensor

from fedloge.learning.client_data import ClientData
from fedloge.learning.probes import Findings, Probe
from fedloge.models import Network


class FeatureLength(Probe):
    name = "feature-length"

    def template(self, net: Network) -> dict[str, Tensor]:
        classes = self.task.num_classes
        return {"lengths": torch.zeros(classes), "counts": torch.zeros(classes)}

    @torch.no_grad()
    def collect(self, net: Network, client: ClientData) -> dict[str, Tensor]:
        lengths = torch.zeros(self.task.num_classes)
        for inputs, labels in client.plain_batches():
            lengths.index_add_(0, labels, self.task.features(net, inputs).norm(dim=1))
        return {"lengths": lengths, "counts": client.counts.float()}

    def finish(self, net: Network, sums: dict[str, Tensor]) -> Findings:
        lengths, counts = sums["lengths"], sums["counts"]
        mean = float(lengths.sum() / counts.sum())
        return Findings({"mean": mean}, {"mean": (lengths / counts).tolist()})
