"""Where mixed inputs lie in feature space, over all clients: the channel ratio of mixup."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from fedloge.errors import ConfigError
from fedloge.geometry.mixed_features import ChannelSums
from fedloge.learning.class_told import NOTHING_OF_CLASSES, ClassTold
from fedloge.learning.client_data import EVALUATION_BATCH, ClientData
from fedloge.learning.probes.probe import Findings, Probe
from fedloge.models.network import Network
from fedloge.rng import rng


class MixupChannel(Probe):
    """The channel ratio of each global model, on training examples that are mixed half and half.

    A client mixes at most 256 pairs of its examples, drawn anew for every client but not for every
    round, and sends three numbers for each model. See `fedloge.geometry.mixed_features`.
    """

    name: ClassVar[str] = "mixup-channel"
    class_told: ClassVar[ClassTold] = NOTHING_OF_CLASSES

    def template(self, net: Network) -> dict[str, Tensor]:
        """For each global model: coordinates of the mixes and of the convex mixes, summed, and the pairs."""
        zeros = torch.zeros(3, dtype=torch.float64)
        return {name: zeros.clone() for name in self._models(net)}

    @torch.no_grad()
    def collect(self, net: Network, client: ClientData) -> dict[str, Tensor]:
        """This client's sums.

        `ConfigError`: its inputs are whole numbers, which cannot be mixed.
        """
        net.eval()
        named = self.template(net)
        order = rng(client.config.seed, "mixup-channel", client=client.client)
        chosen = torch.from_numpy(order.permutation(len(client.train))[:EVALUATION_BATCH])
        if len(chosen) < 2:
            return named
        chosen = chosen.to(client.train.device)
        x = client.preparation.prepare(client.train.inputs[chosen])
        if not x.is_floating_point():
            raise ConfigError(
                f"probe {self.name!r}: inputs that are whole numbers, such as token ids, cannot be mixed"
            )
        y = client.train.classes[chosen]
        first = self.task.features(net, x)
        mixed = self.task.features(net, (x + x.roll(1, dims=0)) / 2)
        for name, weight in self._models(net).items():
            found = ChannelSums.of(mixed, first, first.roll(1, dims=0), (y, y.roll(1)), weight)
            named[name] = torch.tensor(
                [found.mixed, found.convex, float(found.pairs)], dtype=torch.float64
            )
        return named

    def finish(self, net: Network, sums: dict[str, Tensor]) -> Findings:
        """``MODEL/ratio``; left out where there is no pair of two classes."""
        ratios = {
            name: ChannelSums(float(s[0]), float(s[1]), int(s[2])).ratio for name, s in sums.items()
        }
        return Findings(
            {f"{n}/ratio": value for n, value in ratios.items() if math.isfinite(value)}
        )

    def _models(self, net: Network) -> dict[str, Tensor]:
        models = self.task.method.global_predictors(net)
        return {n: m.head.weight for n, m in models.items() if m.extractor == "features"}
