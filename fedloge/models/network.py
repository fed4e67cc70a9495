"""A method's network: its parts, and where each tensor of it lives."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from torch import nn

from fedloge.models.norm import norm_parameters, norm_statistics


class Part(StrEnum):
    """Where a tensor lives: with everybody, with one client alone, or nowhere but in the config."""

    SHARED = "shared"
    PERSONAL = "personal"
    FIXED = "fixed"


NORM_LAYERS = "norm layers"
"""As a key of `Method.parts`: the normalisation layers of every shared part."""


class Network(nn.Module):
    """All parts of a method's model, one child each; the children's names are the parts' names."""

    backbone: nn.Module

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, module in parts.items():
            self.add_module(name, module)


def parts_of_tensors(
    net: Network, parts: Mapping[str, Part], norm_sharing: str = "all"
) -> dict[str, Part]:
    """Each tensor of a network's state dict by name, and where it lives.

    Parameters
    ----------
    parts : for each child of the network; under `NORM_LAYERS`, for the norm layers of the
        shared ones.
    norm_sharing : what of the norm layers is averaged, where `parts` does not say: ``all``;
        ``affine``, so that running statistics stay with each client; or ``none``.
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
        tensors |= {
            f"{child}.{name}": Part.PERSONAL if name in local else part
            for name in module.state_dict()
        }
    return tensors
