"""FedPer: federated learning with personalization layers.

Arivazhagan, Aggarwal, Singh, Choudhary. 2019, arXiv 1912.00818.

The backbone is averaged and the head stays with its client; both are trained together.
There is no global head, and so no global model.
"""

from __future__ import annotations

from typing import ClassVar

from fedloge.methods.method import ClientData, Part, Predictor
from fedloge.methods.single_head import HeadNetwork, SingleHead


class FedPer(SingleHead[HeadNetwork]):
    """A shared backbone under a head that never leaves its client."""

    name = "fedper"
    parts: ClassVar = {"backbone": Part.SHARED, "head": Part.PERSONAL}
    primary_personal = "raw"
    uniform_step = SingleHead.uniform_step
    example_by_example = SingleHead.example_by_example

    def personal_predictors(self, net: HeadNetwork, client: ClientData) -> dict[str, Predictor]:
        """The shared backbone under the client's own head."""
        return {"raw": Predictor.of(net.head)}
