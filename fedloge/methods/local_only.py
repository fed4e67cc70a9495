"""Local training without a federation: the lower bound of every table.

Each client trains a whole model of its own, and nothing leaves it. Steps are equal to those of a
federated run with the same config and seed: a client trains in the rounds for which it is drawn,
for ``local-epochs`` passes over the same batches, from the same initial weights. What it is not
given is the average. So a client that is never drawn keeps the initial weights.
"""

from __future__ import annotations

from typing import ClassVar

from fedloge.errors import ConfigError
from fedloge.methods.method import ClientData, MethodOptions, Part, Predictor, Task
from fedloge.methods.single_head import HeadNetwork, SingleHead

_NEUTRAL = {
    "aggregation": "mean",
    "server-optimiser": "none",
    "norm-sharing": "all",
    "wire-dtype": "float32",
    "dp-clip": 0.0,
    "secure-aggregation": False,
}


class LocalOnly(SingleHead[HeadNetwork]):
    """A whole model for each client, of which nothing is shared."""

    name = "local-only"
    parts: ClassVar = {"backbone": Part.PERSONAL, "head": Part.PERSONAL}
    primary_personal = "raw"
    uniform_step = SingleHead.uniform_step
    example_by_example = SingleHead.example_by_example
    soft_labels = SingleHead.soft_labels

    def __init__(self, task: Task, options: MethodOptions) -> None:
        super().__init__(task, options)
        for key, neutral in _NEUTRAL.items():
            if (given := self.config.flat()[key]) != neutral:
                raise ConfigError(
                    f"{key}: method 'local-only' sends and averages nothing, got {given!r}; leave the key out"
                )

    def personal_predictors(self, net: HeadNetwork, client: ClientData) -> dict[str, Predictor]:
        """The client's own model."""
        return {"raw": Predictor.of(net.head)}
