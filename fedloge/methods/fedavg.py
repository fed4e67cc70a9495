"""FedAvg: communication-efficient learning of deep networks from decentralized data.

McMahan, Moore, Ramage, Hampson, Aguera y Arcas. AISTATS 2017, arXiv 1602.05629, algorithm 1.

In a round the server sends the model to some clients, each trains it on its own examples, and the
server averages what they send back, weighted by their numbers of training examples.

Read this file to learn what a method is. It spells out all that `SharedHead`, its base, would give
it too. A method says

1. its options, the keys of ``[method-options]`` in a config;
2. its network, and where each part of it lives: with all (shared), with one client (personal), or
   fixed;
3. how a client trains: a loss, and a local update that minimises it. The loop over batches is
   `fedloge.learning.loop.sgd`;
4. how the global model and a client's personal model predict.

`fedloge.methods.method.Method` lists what else a method may say, such as a step of its own for the
server after averaging. No method contains the rounds (``fedloge/server/rounds.py``), the handling of
a client's personal tensors (``fedloge/client/``) or the averaging (``fedloge/messages/averaging.py``):
they are the same for all methods.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from fedloge.learning.loop import sgd
from fedloge.methods.head_tuning import tuned_head
from fedloge.methods.method import ClientData, Losses, MethodOptions, Part, Predictor, Update
from fedloge.methods.post_hoc import post_hoc
from fedloge.methods.single_head import HeadNetwork, SharedHead, SharedHeadOptions


class TuningOptions(MethodOptions):
    """`tune_epochs`: passes over a client's examples that tune its head for evaluation; 0 or more."""

    tune_epochs: int = Field(5, ge=0)


class FedAvgOptions(SharedHeadOptions, TuningOptions):
    """`loss`, `loss_options`, `post_hoc` (see `SharedHeadOptions`) and `tune_epochs`."""


class FedAvg(SharedHead[HeadNetwork]):
    """One model, of which everything is averaged. A personal model is this model with a tuned head."""

    name = "fedavg"
    parts: ClassVar = {"backbone": Part.SHARED, "head": Part.SHARED}
    primary_global = "raw"
    primary_personal = "tuned"
    Options: ClassVar[type[MethodOptions]] = FedAvgOptions
    options: FedAvgOptions

    # True if the loss does not use the client's class counts (see `Method.uniform_step`).
    uniform_step = SharedHead.uniform_step
    # The same, and each example counts by itself (see `Method.example_by_example`).
    example_by_example = SharedHead.example_by_example
    # True if the loss takes the shares of the classes, as mixup needs it (see `Method.soft_labels`).
    soft_labels = SharedHead.soft_labels
    # `loss` once more, in a form that is fast on a frozen backbone (see `Method.linear_losses`).
    linear_losses = SharedHead.linear_losses

    def build(self) -> HeadNetwork:
        """The configured backbone and a linear head; the same initial weights on every call."""
        return self.fresh_model()

    def loss(self, net: HeadNetwork, inputs: Tensor, labels: Tensor, client: ClientData) -> Losses:
        """The loss of one batch: cross-entropy, unless the option ``loss`` names another."""
        logits = net.head(net.backbone(inputs))
        return {"local": self.local_loss(logits, labels, client)}

    def local_update(self, net: HeadNetwork, client: ClientData) -> Update:
        """SGD on `loss` over the client's examples, ``local-epochs`` times, in place."""
        parameters, epochs = self.trainable(net), self.config.local_epochs
        figures = sgd(
            net,
            parameters,
            self.loss,
            client,
            epochs=epochs,
            uniform=self.uniform_step,
            linear=self.linear_losses(net, client),
        )
        return Update(figures)

    def global_predictors(self, net: HeadNetwork) -> dict[str, Predictor]:
        """The averaged model (``raw``), and what the option ``post-hoc`` makes of its head."""
        weight = net.head.weight.detach()
        return {
            "raw": Predictor.of(net.head),
            **post_hoc(self.options.post_hoc, weight, self.task.counts_for),
        }

    def personal_predictors(self, net: HeadNetwork, client: ClientData) -> dict[str, Predictor]:
        """The averaged model (``raw``), and the same with its head tuned on the client's examples."""
        tuned = tuned_head(self, net, net.head, client, epochs=self.options.tune_epochs)
        return {"raw": Predictor.of(net.head), "tuned": Predictor.of(tuned)}
