"""A client that never took part: its own model from the shared one, by the method's own local step.

The client trains as it would in a round. What it learns of the shared part is dropped, as after a round
the average takes its place; what is personal it keeps. Then its model is made as every client's is: of
FedLoGe, the local head phi is trained and realigned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedloge.federation.evaluation import predictor_guesses
from fedloge.federation.feature_bank import FeatureBank
from fedloge.learning.client_data import ClientData
from fedloge.learning.guesses import Guesses
from fedloge.learning.lr_schedule import without_schedule
from fedloge.methods.method import Method, Network, Predictor
from fedloge.rng import torch_seeded

STAGES = ("shared", "untrained", "personalized")
"""The shared model, the client's own before it has trained, and after."""


def can_personalize(method: Method[Any]) -> bool:
    """Whether the method has models that differ from client to client; centralised training has none."""
    return method.primary_personal is not None and not method.pooled


@dataclass(frozen=True)
class NewClient:
    """What it starts from.

    Attributes
    ----------
    net : written to; it holds the personal tensors when all is done.
    shared, initial : the shared tensors, which do not change, and every client's first personal ones.
    whole : whether `shared` makes a global network (see `Federation.has_global_network`).
    data : its training examples; `data.round` is the round of its first local step.
    """

    method: Method[Any]
    net: Network
    shared: Mapping[str, Tensor]
    initial: Mapping[str, Tensor]
    whole: bool
    data: ClientData

    def stages(self, rounds: int = 1) -> Iterator[tuple[str, Predictor]]:
        """Each of `STAGES` that the method has, with its predictor, valid until the next is asked for.

        ``shared`` is the global model by which the method is judged; where that is made from clients'
        sums (CCVR), the averaged one. ``untrained`` is left out where nothing is personal between rounds:
        there a personal model is the shared one, tuned. ``personalized`` is left out by a method without
        personal models.

        Parameters
        ----------
        rounds : how often the local step is done; 1 or more.
        """
        method, net, data = self.method, self.net, self.data
        self._load(self.shared, self.initial)
        global_models = method.global_predictors(net.eval()) if self.whole else {}
        for name in (method.primary_global, "raw"):
            if name in global_models:
                yield "shared", global_models[name]
                break
        if not can_personalize(method):
            return
        if self.initial:
            yield "untrained", self._own(0)
            for done in range(rounds):
                step = dataclasses.replace(
                    data,
                    round=data.round + done,
                    rounds_trained=done,
                    # By the end of a run a schedule may have come near 0.
                    config=without_schedule(data.config),
                )
                seed = data.config.seed
                with torch_seeded(seed, "local-update", step.round, data.client):
                    method.local_update(net, step)
                self._load(self.shared)
        yield "personalized", self._own(rounds if self.initial else 0)

    def measured(self, bank: FeatureBank, rounds: int = 1) -> dict[str, Guesses]:
        """What the model of each stage says of the bank's examples."""
        return {stage: self.guesses(bank, predictor) for stage, predictor in self.stages(rounds)}

    def guesses(self, bank: FeatureBank, predictor: Predictor) -> Guesses:
        """What the present stage's predictor says of the bank's examples."""
        everything = torch.arange(len(bank.examples), device=bank.examples.device)
        return predictor_guesses(self.method, self.net, predictor, bank, None, everything)

    def _own(self, rounds_trained: int) -> Predictor:
        data = dataclasses.replace(self.data, rounds_trained=rounds_trained)
        with torch_seeded(data.config.seed, "personal-models", data.round, data.client):
            found = self.method.personal_predictors(self.net.eval(), data)
        assert self.method.primary_personal is not None
        return found[self.method.primary_personal]

    def _load(self, *groups: Mapping[str, Tensor]) -> None:
        for tensors in groups:
            self.net.load_state_dict(dict(tensors), strict=False)
