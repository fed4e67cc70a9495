"""A method's network: its parts, and where each of its tensors lives."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from torch import nn

from fedloge.models.backbone import Backbone
from fedloge.models.norm import norm_parameters, norm_statistics


class Part(StrEnum):
    """Where a part of a network lives.

    ``shared``: averaged by the server and sent to all clients. ``personal``: stays with its client,
    between rounds too. ``fixed``: everybody builds it from the config; it is neither trained nor sent.
    """

    SHARED = "shared"
    PERSONAL = "personal"
    FIXED = "fixed"


NORM_LAYERS = "norm layers"
"""The key of `Method.parts` for the normalisation layers inside all shared parts."""


class Network(nn.Module):
    """All parts of a method's model; each part is a child module under the part's name."""

    backbone: nn.Module

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, module in parts.items():
            self.add_module(name, module)


def parts_of_tensors(
    net: Network, parts: Mapping[str, Part], norm_sharing: str = "all"
) -> dict[str, Part]:
    """Where each tensor of a network's state dict lives, by name.

    Parameters
    ----------
    parts : where each child of the network lives, and under `NORM_LAYERS` where the norm layers
        inside shared children live.
    norm_sharing : what of those norm layers is averaged if `parts` does not say: ``all``;
        ``affine``, their parameters but not their running statistics; or ``none``.
    """
    if parts.get(NORM_LAYERS) is Part.PERSONAL:
        norm_sharing = "none"
    tensors: dict[str, Part] = {}
    for child, part in parts.items():
        if child == NORM_LAYERS:
            continue
        module = net.get_submodule(child)
        local: set[str] = set()
        if part is Part.SHARED and norm_sharing != "all":
            local |= norm_statistics(module)
            if norm_sharing == "none":
                local |= norm_parameters(module)
        fixed = _fixed_tensors(module)
        tensors |= {
            f"{child}.{name}": (
                Part.FIXED if name in fixed else Part.PERSONAL if name in local else part
            )
            for name in module.state_dict()
        }
    return tensors


def _fixed_tensors(module: nn.Module) -> set[str]:
    # What a backbone has frozen is fixed wherever the backbone lives.
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, backbone in module.named_modules()
        if isinstance(backbone, Backbone)
        for name in backbone.fixed_tensors()
    }
