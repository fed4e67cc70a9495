"""Personal heads that any method with a global model has for nothing: config key ``personal-heads``.

``own-prior`` is the averaged head plus the logarithm of the client's own class shares, with the
classes it lacks masked. Nothing is trained and nothing is sent. By Bayes' rule this is right where
the head's logits leave the prior out, as balanced softmax trains them (Menon et al. 2021, "Long-Tail
Learning via Logit Adjustment"). A head trained on cross-entropy holds the training prior already, so
there it counts priors twice, and is still a strong baseline under label skew.

``own-prior-tuned`` is that head after `TUNED_EPOCHS` passes of SGD over the client's features, slow
ones, so that it stays near where it began: a head that is tuned from the averaged one has to learn the
client's shares first, and by then has moved away from what all clients know.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedloge.errors import PluginError
from fedloge.geometry.realignment import absent_mask
from fedloge.methods.head_tuning import fit_head
from fedloge.methods.method import ClientData, Method, Network, Predictor, plain_features
from fedloge.models.head import LinearHead
from fedloge.rng import rng

TUNED_EPOCHS = 5
TUNED_RATE = 0.01
"""Learning rate of ``own-prior-tuned``, without momentum. Faster ones lose what the head knew where it was good, and
slower ones leave a head that holds the training prior too near it (measured: experiments/LOG.md, 2026-11-26)."""


def personal_models(method: Method[Any], net: Network, client: ClientData) -> dict[str, Predictor]:
    """One client's models by name: the method's own, and those of ``personal-heads``.

    `PluginError`: the method has a model of such a name itself.
    """
    own = method.personal_predictors(net, client)
    further = {name: _FURTHER[name](method, net, client) for name in method.config.further_heads}
    found = {name: predictor for name, predictor in further.items() if predictor is not None}
    if twice := own.keys() & found.keys():
        raise PluginError(
            f"method {method.name!r} has a personal model {min(twice)!r} of its own; leave it out of personal-heads"
        )
    return own | found


def own_prior(method: Method[Any], net: Network, client: ClientData) -> Predictor | None:
    """The global model with the client's class shares as its prior; None for a method without one."""
    averaged = method.averaged_model(net)
    if averaged is None:
        return None
    head = averaged.head
    bias = head.offset() + log_shares(client.counts).to(head.weight)
    mask = absent_mask(client.counts).to(head.weight)
    return Predictor(LinearHead(head.weight, bias, mask), averaged.extractor)


def own_prior_tuned(method: Method[Any], net: Network, client: ClientData) -> Predictor | None:
    """`own_prior`, tuned on the client's own features; None for a method without a global model."""
    begun = own_prior(method, net, client)
    if begun is None:
        return None
    weight = begun.head.weight
    # A class that is masked has the bias -inf, so its share is 0 and no step moves it.
    head = nn.utils.skip_init(nn.Linear, *reversed(weight.shape), device=weight.device)
    head.weight.data, head.bias.data = weight.clone(), begun.head.offset()
    features, labels = _features(method, net, client, begun.extractor)
    fit_head(
        head,
        features,
        labels,
        epochs=TUNED_EPOCHS,
        lr=TUNED_RATE,
        batch_size=client.config.batch_size,
        generator=rng(client.config.seed, "tune own prior", client.round, client.client),
    )
    return Predictor(LinearHead.of(head), begun.extractor)


@torch.no_grad()
def _features(
    method: Method[Any], net: Network, client: ClientData, extractor: str
) -> tuple[Tensor, Tensor]:
    if extractor == Predictor.extractor:
        return plain_features(method, net, client)
    net.eval()
    return client.plain_features(partial(getattr(method, extractor), net))


def log_shares(counts: Int[Tensor, " classes"]) -> Float[Tensor, " classes"]:
    """log(n_c / n) of the classes that occur, 0 for the others."""
    return (counts.clamp(min=1) / counts.sum()).log() * (counts > 0)


_FURTHER = {"own-prior": own_prior, "own-prior-tuned": own_prior_tuned}
