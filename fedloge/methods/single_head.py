"""A backbone and one linear head trained together on a local loss: what many methods start from."""

from __future__ import annotations

from typing import ClassVar, TypeVar, cast

import torch
from jaxtyping import Int
from torch import Tensor, nn

from fedloge.config import Config, parse_options
from fedloge.errors import ConfigError
from fedloge.learning.losses import LocalLoss, drw_weights, local_loss
from fedloge.methods.method import (
    LocalData,
    Losses,
    Method,
    MethodOptions,
    Network,
    Part,
    Predictor,
    Task,
)
from fedloge.methods.post_hoc import post_hoc
from fedloge.models.head import LinearHead, linear


class HeadNetwork(Network):
    """A backbone and one linear head."""

    head: nn.Linear


H = TypeVar("H", bound=HeadNetwork)


class SingleHead(Method[H]):
    """Base of the methods that train a backbone and a head together on one loss."""

    reads: ClassVar = frozenset({"local-loss", "local-loss-options"})

    def __init__(self, task: Task, options: MethodOptions) -> None:
        super().__init__(task, options)
        # A wrong loss is refused here, not by every client in turn.
        configured_loss(task.config, torch.ones(task.num_classes, dtype=torch.int64), round=1)
        self._bound: tuple[LocalData, LocalLoss] | None = None

    def build(self) -> H:
        """One model; methods with further parts build their own."""
        return cast("H", self.fresh_model())

    def fresh_model(self) -> HeadNetwork:
        """A backbone and a linear head, as their layers start: the same on every call."""
        backbone, seed = self.task.backbone(), self.config.seed
        head = linear(
            backbone.out_features, self.task.num_classes, seed=seed, purpose="init/global-head"
        )
        return HeadNetwork(backbone=backbone, head=head)

    def loss(self, net: H, images: Tensor, labels: Tensor, client: LocalData) -> Losses:
        """The configured local loss: cross-entropy unless set otherwise."""
        return {"local": self.local_loss(net.head(net.backbone(images)), labels, client)}

    @property
    def constant_loss(self) -> bool:
        """Where neither the method nor the local loss looks at the client."""
        mine = type(self)
        untouched = (
            mine.loss is SingleHead.loss
            and mine.local_loss is SingleHead.local_loss
            and mine.local_update is Method.local_update
        )
        return untouched and self.config.local_loss in ("cross-entropy", "focal")

    def local_loss(self, logits: Tensor, labels: Tensor, client: LocalData) -> Tensor:
        """The configured local loss under this client's class counts."""
        if self._bound is None or self._bound[0] is not client:  # once a round, not once a batch
            loss = configured_loss(self.config, client.counts, client.round)
            self._bound = (client, loss)
        return self._bound[1](logits, labels)


class SharedHead(SingleHead[H]):
    """Base of those whose backbone and head are both averaged: they are the global model."""

    parts: ClassVar = {"backbone": Part.SHARED, "head": Part.SHARED}
    primary_global = "raw"
    reads: ClassVar = SingleHead.reads | {"post-hoc"}

    def __init__(self, task: Task, options: MethodOptions) -> None:
        super().__init__(task, options)
        post_hoc(task.config.post_hoc, torch.zeros(task.num_classes, 1))

    def global_predictors(self, net: H) -> dict[str, Predictor]:
        """The averaged model, and what ``post-hoc`` makes of its head."""
        further = post_hoc(self.config.post_hoc, net.head.weight.detach())
        return {"raw": Predictor(LinearHead.of(net.head)), **further}

    def head_norms(self, net: H) -> dict[str, Tensor]:
        """Row norms of the head, which follow the class sizes."""
        return {"global-head": net.head.weight.detach().norm(dim=1)}


def configured_loss(config: Config, counts: Int[Tensor, " classes"], round: int) -> LocalLoss:
    """The local loss that a config names, for one client in one round.

    Besides the loss's own parameters, ``ldam`` takes ``drw-from``, the round from which
    classes are re-weighted (Cao et al. 2019 defer that to the end of training; absent:
    never), and ``drw-beta`` (0.9999).

    Raises
    ------
    ConfigError
        ``local-loss-options`` holds an unknown option or one out of range.
    """
    where = f"local-loss-options of {config.local_loss!r}"
    options = parse_options(config.local_loss_options, where)
    if "weights" in options:
        raise ConfigError(f"{where}: class weights come from drw-from and drw-beta, not from here")
    further = {}
    if config.local_loss == "ldam":
        first, beta = options.pop("drw-from", None), options.pop("drw-beta", 0.9999)
        if first is not None and (not isinstance(first, int) or first < 1):
            raise ConfigError(f"{where}: drw-from must be a round, 1 or later, got {first!r}")
        if isinstance(beta, bool | str) or not 0 <= beta < 1:
            raise ConfigError(f"{where}: drw-beta must be a number >= 0 and < 1, got {beta!r}")
        if first is not None and round >= first:
            further["weights"] = drw_weights(counts, float(beta))
    return local_loss(config.local_loss, counts, **options, **further)
