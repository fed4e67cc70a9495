"""FedBN: federated learning on non-IID features via local batch normalization.

Li, Jiang, Zhang, Kamp, Dou. ICLR 2021, arXiv 2102.07623.

Everything is averaged except the normalisation layers, whose parameters and running
statistics stay with their client. The server has no such layers of its own, and so no
global model.
"""

from __future__ import annotations

from typing import ClassVar

from fedloge.errors import ConfigError
from fedloge.methods.method import ClientData, MethodOptions, Part, Predictor, Task
from fedloge.methods.single_head import HeadNetwork, SingleHead
from fedloge.models.network import NORM_LAYERS


class FedBN(SingleHead[HeadNetwork]):
    """One model, averaged without its norm layers."""

    name = "fedbn"
    parts: ClassVar = {
        "backbone": Part.SHARED,
        "head": Part.SHARED,
        NORM_LAYERS: Part.PERSONAL,
    }
    primary_personal = "raw"
    uniform_step = SingleHead.uniform_step
    example_by_example = SingleHead.example_by_example

    def __init__(self, task: Task, options: MethodOptions) -> None:
        super().__init__(task, options)
        if self.config.norm_sharing == "affine":
            raise ConfigError(
                "norm-sharing: fedbn shares nothing of the norm layers, got 'affine'; "
                "leave the key out, or use method=fedavg"
            )

    def personal_predictors(self, net: HeadNetwork, client: ClientData) -> dict[str, Predictor]:
        """The averaged model with the client's own norm layers."""
        return {"raw": Predictor.of(net.head)}
