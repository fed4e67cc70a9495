"""Personal heads that any method with a global model has for nothing: config key ``personal-heads``.

``own-prior`` is the averaged head plus the logarithm of the client's own class shares, with the
classes it lacks masked. Nothing is trained and nothing is sent. By Bayes' rule this is right where
the head's logits leave the prior out, as balanced softmax trains them (Menon et al. 2021, "Long-Tail
Learning via Logit Adjustment"). A head trained on cross-entropy holds the training prior already, so
there it counts priors twice, and is still a strong baseline under label skew.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from fedloge.errors import PluginError
from fedloge.geometry.realignment import absent_mask
from fedloge.methods.method import ClientData, Method, Network, Predictor
from fedloge.models.head import LinearHead


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


def log_shares(counts: Int[Tensor, " classes"]) -> Float[Tensor, " classes"]:
    """log(n_c / n) of the classes that occur, 0 for the others."""
    return (counts.clamp(min=1) / counts.sum()).log() * (counts > 0)


_FURTHER = {"own-prior": own_prior}
