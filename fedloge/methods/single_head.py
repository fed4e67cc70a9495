"""A backbone and one linear head, trained together on a local loss: the base of many methods."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypeVar, cast

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from fedloge.learning.losses import (
    WITH_SOFT_LABELS,
    WITHOUT_COUNTS,
    LocalLoss,
    local_loss,
    logit_shift,
)
from fedloge.learning.probes import Probe
from fedloge.methods.chosen_tau import post_hoc_probes
from fedloge.methods.method import (
    ClientData,
    LinearLoss,
    Losses,
    Method,
    MethodOptions,
    Network,
    Part,
    Task,
)
from fedloge.methods.post_hoc import post_hoc
from fedloge.models.head import Predictor, linear


class HeadNetwork(Network):
    """A backbone and one linear head."""

    head: nn.Linear


class LossOptions(MethodOptions):
    """`loss`: what a client minimises. `loss_options`: the loss's own parameters, as a table."""

    loss: Literal[
        "cross-entropy", "balanced-softmax", "logit-adjusted", "fedlc", "ldam", "focal", "ratio"
    ] = "cross-entropy"
    loss_options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known_loss(self) -> LossOptions:
        # So that a wrong option is refused before the run, not by every client in it.
        local_loss(self.loss, torch.ones(2, dtype=torch.int64), self.loss_options)
        return self


class PostHocOptions(MethodOptions):
    """`post_hoc`: further global models made from the trained head; see `fedloge.methods.post_hoc`."""

    post_hoc: str = ""

    @field_validator("post_hoc")
    @classmethod
    def _known_models(cls, text: str) -> str:
        post_hoc(text, torch.zeros(1, 1))
        return text


class SharedHeadOptions(LossOptions, PostHocOptions):
    """`loss`, `loss_options` and `post_hoc`, for methods with one averaged head."""


H = TypeVar("H", bound=HeadNetwork)


class SingleHead(Method[H]):
    """Base of the methods that train a backbone and a head together on one loss."""

    takes_stale = True
    Options: ClassVar[type[MethodOptions]] = LossOptions

    def __init__(self, task: Task, options: MethodOptions) -> None:
        super().__init__(task, options)
        self._bound: tuple[ClientData, LocalLoss] | None = None

    def build(self) -> H:
        """A backbone and a head; methods with further parts add to it."""
        return cast("H", self.fresh_model())

    def fresh_model(self) -> HeadNetwork:
        """A backbone and a linear head; the same initial weights on every call."""
        backbone, seed = self.task.backbone(), self.config.seed
        head = linear(
            backbone.out_features, self.task.num_classes, seed=seed, purpose="init/global-head"
        )
        return HeadNetwork(backbone=backbone, head=head)

    def loss(self, net: H, inputs: Tensor, labels: Tensor, client: ClientData) -> Losses:
        """The configured local loss: cross-entropy, unless the option ``loss`` names another."""
        return {"local": self.local_loss(net.head(net.backbone(inputs)), labels, client)}

    @property
    def uniform_step(self) -> bool:
        """True if the local loss does not use the client's class counts."""
        return cast(LossOptions, self.options).loss in WITHOUT_COUNTS

    @property
    def example_by_example(self) -> bool:
        """True if the local loss does not use the client's class counts."""
        return cast(LossOptions, self.options).loss in WITHOUT_COUNTS

    @property
    def soft_labels(self) -> bool:
        """True if the local loss is a cross-entropy of changed logits."""
        return cast(LossOptions, self.options).loss in WITH_SOFT_LABELS

    def linear_losses(self, net: H, client: ClientData) -> dict[str, LinearLoss] | None:
        """The local loss, if it is a cross-entropy of shifted logits."""
        options = cast(LossOptions, self.options)
        shift = logit_shift(options.loss, client.counts, options.loss_options)
        return None if shift is None else {"local": LinearLoss(net.head, shift)}

    def local_loss(self, logits: Tensor, labels: Tensor, client: ClientData) -> Tensor:
        """The configured local loss, with this client's class counts."""
        if self._bound is None or self._bound[0] is not client:  # once per round, not per batch
            options = cast(LossOptions, self.options)
            loss = local_loss(options.loss, client.counts, options.loss_options, round=client.round)
            self._bound = (client, loss)
        return self._bound[1](logits, labels)


class SharedHead(SingleHead[H]):
    """Base of the methods that average both backbone and head, which are then the global model."""

    parts: ClassVar = {"backbone": Part.SHARED, "head": Part.SHARED}
    heads: ClassVar[tuple[str, ...]] = ("head",)
    primary_global = "raw"
    uniform_step = SingleHead.uniform_step
    example_by_example = SingleHead.example_by_example

    Options: ClassVar[type[MethodOptions]] = SharedHeadOptions

    def global_predictors(self, net: H) -> dict[str, Predictor]:
        """The averaged model, and what the option ``post-hoc`` makes of its head."""
        text = cast(PostHocOptions, self.options).post_hoc
        return {
            "raw": Predictor.of(net.head),
            **post_hoc(text, net.head.weight.detach(), self.task.counts_for),
        }

    def probes(self) -> list[Probe]:
        """The choice of tau, if ``post-hoc`` leaves it to the validation examples."""
        given = self.options
        text = given.post_hoc if isinstance(given, PostHocOptions) else ""
        return post_hoc_probes(text, self.config, self.task.num_classes, self)

    def head_norms(self, net: H) -> dict[str, Tensor]:
        """Row norms of the head, which follow the class sizes."""
        return {"global-head": net.head.weight.detach().norm(dim=1)}
