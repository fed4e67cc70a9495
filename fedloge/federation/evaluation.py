"""Measuring predictors on the test examples."""

from __future__ import annotations

import math
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from fedloge.federation.feature_bank import FeatureBank
from fedloge.learning.client_data import ClientData
from fedloge.learning.guesses import Guesses
from fedloge.learning.metrics import ShotGroups, accuracy, group_accuracy
from fedloge.methods.method import Method, Network, Predictor


def predictor_guesses(
    method: Method,
    net: Network,
    predictor: Predictor,
    bank: FeatureBank,
    version: str | None,
    indices: Int[Tensor, " n"],
) -> Guesses:
    """What one predictor says of the bank's examples at `indices`.

    `version` names the shared backbone's tensors, for features that are kept. None: the backbone is
    this client's own, so its features are computed anew.
    """
    extract = partial(getattr(method, predictor.extractor), net)
    if predictor.extractor == "features" and version is not None:
        features = bank.features(version, extract, indices)
    else:
        features = bank.fresh(extract, indices)
    return Guesses(predictor.head.logits(features), bank.examples.classes[indices])


def predictor_accuracy(
    method: Method, net: Network, predictor: Predictor, client: ClientData
) -> float:
    """Share of a client's validation examples that one predictor gets right, in [0, 1]; NaN without any."""
    held = client.validation
    if held is None or not len(held):
        return math.nan
    bank = FeatureBank(held, client.preparation.prepare)
    everything = torch.arange(len(held), device=held.device)
    return accuracy(predictor_guesses(method, net, predictor, bank, None, everything).tally)


def client_figures(name: str, guesses: Guesses, groups: ShotGroups | None) -> dict[str, float]:
    """What one client reports of one personal model, in [0, 1].

    ``personal/NAME/accuracy``, the figures of `Guesses.quality` and, where `groups` are known,
    ``many``, ``medium`` and ``few``; a group without a test example is left out.
    """
    figures = {
        "accuracy": accuracy(guesses.tally),
        **guesses.quality(),
        **(group_accuracy(guesses.tally, groups) if groups else {}),
    }
    return {f"personal/{name}/{key}": value for key, value in figures.items()}
