"""Heads that probes make of the clients' sums, as the tensors of a checkpoint.

A method's own global models are made of the shared tensors, whenever they are wanted. CCVR's head,
a head in closed form, or a tau that validation examples choose, is made of sums that are gone after
the evaluation. So these heads are kept beside the shared tensors of the round that they are of.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fedloge.federation import Federation
from fedloge.methods.method import Predictor
from fedloge.models.head import LinearHead
from fedloge.models.network import Network

_PARTS = ("weight", "bias", "mask")


def head_tensors(predictors: Mapping[str, Predictor]) -> dict[str, Tensor]:
    """The tensors of the heads, named ``MODEL/EXTRACTOR/PART``; `made_heads` reads them."""
    return {
        f"{name}/{predictor.extractor}/{part}": tensor.detach().clone()
        for name, predictor in predictors.items()
        for part in _PARTS
        if (tensor := getattr(predictor.head, part)) is not None
    }


def made_heads(tensors: Mapping[str, Tensor]) -> dict[str, Predictor]:
    """The predictors of which `head_tensors` gave the tensors, by name."""
    parts: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, extractor, part = key.rsplit("/", 2)
        parts.setdefault((name, extractor), {})[part] = tensor
    return {
        name: Predictor(LinearHead(**found), extractor)
        for (name, extractor), found in parts.items()
    }


def global_models(
    federation: Federation, net: Network, made: Mapping[str, Tensor]
) -> dict[str, Predictor]:
    """All global models of a round by name: the method's own, and those that probes made of it.

    Parameters
    ----------
    net : in evaluation mode, with the round's shared tensors.
    made : what a checkpoint of that round keeps of them.
    """
    kept = {name: tensor.to(federation.device) for name, tensor in made.items()}
    return federation.method.global_predictors(net) | made_heads(kept)
