"""Whether a model gives away what it was trained on, with and without privacy at the client.

`uv run python experiments/benchmarks/membership.py`

The worst case that is easily made: digits with random labels, which a network can only know by heart. Half of them
it is trained on until it does. The attack guesses by the loss (Yeom et al. 2018): what has a small one was there. Its
area under the ROC curve is 1 where it always finds out, and 0.5 for guessing.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Annotated

import torch
import typer
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedloge.config import from_flat
from fedloge.console import print_json
from fedloge.data.examples import Examples
from fedloge.federation import open_federation
from fedloge.federation.federation import Federation
from fedloge.learning.local_privacy import LocalPrivacy
from fedloge.learning.privacy_accountant import epsilon
from fedloge.learning.private_draws import SeededDraws
from fedloge.methods.method import Part
from fedloge.rng import rng, torch_seeded

CLIP = 1.0


@dataclass(frozen=True)
class Attack:
    """What came of a model.

    Attributes
    ----------
    epsilon : at delta 1e-5; None: without privacy.
    auc : of the attack; the deviation of a guess is 0.053 for 60 members and as many others.
    fitted : the share of its training examples whose random label the model has.
    """

    noise: float
    epsilon: float | None
    auc: float
    fitted: float


def attacked(noise: float, seed: int, *, members: int = 60, epochs: int = 120) -> Attack:
    """Train a client's model on random labels, and guess who was there.

    Parameters
    ----------
    noise : the noise multiplier; 0: plain training.
    members : as many others were not trained on.
    """
    fed = _federation(seed, epochs, noise)
    inside, outside = _examples(fed, seed, members)
    draws = partial(SeededDraws, seed, round=1, client=0)
    privacy = LocalPrivacy(CLIP, noise, draws, lambda steps: None) if noise else None
    net = fed.load(fed.initial[Part.SHARED], fed.initial[Part.PERSONAL])
    data = fed.client_data(0, 1, fed.initial[Part.SHARED])
    with torch_seeded(seed, "membership"):
        fed.method.local_update(net, replace(data, train=inside, privacy=privacy))
    (inner, right), (outer, _) = (_losses(fed, examples) for examples in (inside, outside))
    labels = [1] * members + [0] * members
    found = roc_auc_score(labels, torch.cat([-inner, -outer]).tolist())
    spent = epsilon(privacy.spent, 1e-5) if privacy else None
    return Attack(noise, spent, float(found), right)


def _federation(seed: int, epochs: int, noise: float) -> Federation:
    private = {"local-dp-clip": CLIP, "local-dp-noise": noise} if noise else {}
    flat = {"method": "fedavg", "norm": "group", "imbalance-factor": 1.0, "num-clients": 2}
    flat |= {"clients-per-round": 2, "batch-size": 20, "lr": 0.1, "augment": "none"}
    return open_federation(from_flat({**flat, **private, "seed": seed, "local-epochs": epochs}))


def _examples(fed: Federation, seed: int, members: int) -> tuple[Examples, Examples]:
    draws = rng(seed, "membership")
    chosen = torch.from_numpy(draws.permutation(len(fed.train))[: 2 * members])
    labels = torch.from_numpy(draws.integers(0, fed.data.num_classes, 2 * members))
    inputs = fed.train.inputs[chosen]
    return Examples(inputs[:members], labels[:members]), Examples(
        inputs[members:], labels[members:]
    )


@torch.no_grad()
def _losses(fed: Federation, examples: Examples) -> tuple[Tensor, float]:
    """Of each example its loss, and which share of them the model labels as it is told."""
    net = fed.net.eval()
    predictor = fed.method.global_predictors(net)["raw"]
    features = fed.method.features(net, fed.data.preparation.prepare(examples.inputs))
    logits = predictor.head.logits(features)
    right = float((logits.argmax(dim=1) == examples.labels).float().mean())
    return cross_entropy(logits, examples.labels, reduction="none"), right


def main(seeds: Annotated[int, typer.Option(min=1)] = 3) -> None:
    """Attack models that were trained with more and more noise."""
    torch.set_num_threads(1)
    for noise in (0.0, 1.0, 3.0, 10.0):
        for seed in range(seeds):
            print_json(asdict(attacked(noise, seed)))


if __name__ == "__main__":
    sys.argv[0] = "membership"
    typer.run(main)
