"""Centralised training: the upper bound of every table. A simulation only.

All clients' training examples are put together, and the server trains one model on them. No
federation can do this: the data would have to leave the clients. So it is refused where the data
lie with the clients (``partitioner=on-node``), and no client is asked to train.

Steps are equal to those of a federated run with the same config and seed: in a round the server
takes as many steps of SGD as the clients drawn for this round would take together, the sum over
them of ``local-epochs`` x ceil(examples / ``batch-size``), with the same batch size and a fresh
optimiser. Its batches are of all clients' examples, not only of those drawn. They go through all of
them again and again, in an order drawn anew for every pass, whatever the rounds
(`fedloge.learning.pooled_data`). Examples held out by ``validation-share`` stay out.

The model is measured as FedAvg's is: on the balanced test set, and on each client's own test
examples. A loss that uses class counts, such as balanced softmax, uses those of all examples.
"""

from __future__ import annotations

from fedloge.errors import ConfigError
from fedloge.methods.method import ClientData, MethodOptions, Predictor, Task
from fedloge.methods.single_head import HeadNetwork, SharedHead

_NEUTRAL = {
    "aggregation": "mean",
    "server-optimiser": "none",
    "norm-sharing": "all",
    "dp-clip": 0.0,
    "secure-aggregation": False,
}


class Centralised(SharedHead[HeadNetwork]):
    """One model, trained on all clients' examples at one place."""

    name = "centralised"
    primary_personal = "raw"
    pooled = True
    uniform_step = SharedHead.uniform_step
    soft_labels = SharedHead.soft_labels

    def __init__(self, task: Task, options: MethodOptions) -> None:
        super().__init__(task, options)
        if self.config.on_node:
            raise ConfigError(
                "method 'centralised' needs all examples at one place, and with partitioner=on-node they lie "
                "with the clients; use another method, or simulate with another partitioner"
            )
        for key, neutral in _NEUTRAL.items():
            if (given := self.config.flat()[key]) != neutral:
                raise ConfigError(
                    f"{key}: in method 'centralised' no client trains, so nothing is averaged, got {given!r}; "
                    "leave the key out"
                )

    def personal_predictors(self, net: HeadNetwork, client: ClientData) -> dict[str, Predictor]:
        """The one model, measured on each client's own examples."""
        return {"raw": Predictor.of(net.head)}
