"""Pretrained weights: where they come from, what they expect of images, and strict loading.

Libraries load leniently: timm puts one network's file into another without an error. Here every
tensor of the network must be in the file with its shape, and but for the classifier of the weights'
own classes nothing may be left over.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from fedloge.data.fitted_images import ImageStandard
from fedloge.digest import digest
from fedloge.errors import ConfigError
from fedloge.models.licences import UNKNOWN, is_non_commercial, licence_name
from fedloge.models.timm_nets import PREFIX as TIMM
from fedloge.models.timm_nets import timm_hub_file, timm_licence, timm_standard
from fedloge.models.torchvision_nets import (
    is_torchvision,
    torchvision_hub_file,
    torchvision_standard,
)
from fedloge.models.weight_files import SUFFIXES, read_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pretrained:
    """Weights from a file, not yet in a network.

    Attributes
    ----------
    source : the file, or the hub's name of the weights.
    licence : of the weights, as their publisher or their file states it.
    non_commercial : whether this licence excludes commercial use.
    standard : what they expect of images; None if nobody says.
    state : the tensors by name, with the classifier of the weights' own classes.
    """

    source: str
    licence: str
    non_commercial: bool
    standard: ImageStandard | None
    state: Mapping[str, Tensor] = field(repr=False)

    @cached_property
    def digest(self) -> str:
        """Hash of names and tensors: the same for a safetensors file and a pickle of them."""
        parts = (
            (f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), tensor_bytes(tensor))
            for name, tensor in sorted(self.state.items())
        )
        return digest(*(part for pair in parts for part in pair))

    def described(self) -> dict[str, object]:
        """For the record: source, digest, licence and preprocessing."""
        return {
            "source": self.source,
            "digest": self.digest,
            "licence": self.licence,
            "non-commercial": self.non_commercial,
            "preprocessing": self.standard and self.standard.described(),
        }


@lru_cache(maxsize=2)
def pretrained(model: str, weights: str) -> Pretrained:
    """The weights that a config names for a model, read from disk.

    Parameters
    ----------
    model : as in `fedloge.models.build_backbone`.
    weights : a file; or, for a model of timm or torchvision, a tag of its hub, ``hub`` for the
        library's own choice. They are downloaded if they are not in the library's cache.

    Raises
    ------
    ConfigError
        There is no such file or tag, the file is no weights, or the hub cannot be reached.
    """
    if names_a_file(weights):
        path = Path(weights).expanduser()
        state, stated = read_weights(path)
        licence, name = licence_name(stated), path.name
        said = licence if licence != UNKNOWN else _usual_licence(model)
    else:
        path, name, stated = _hub_file(model, weights)
        state, own = read_weights(path)
        licence = said = licence_name(stated or own)
    tag = "" if names_a_file(weights) else weights
    found = Pretrained(name, said, is_non_commercial(licence), _standard(model, tag), state)
    if found.non_commercial:
        log.warning("weights %s: their licence, %s, excludes commercial use", name, licence)
    return found


def load_strictly(net: nn.Module, state: Mapping[str, Tensor], model: str, source: str) -> None:
    """Copy weights into a network; `ConfigError` unless they are of exactly this network."""
    own = {k: v for k, v in net.state_dict().items() if not _is_counter(k)}
    given = {k: v for k, v in state.items() if not _is_counter(k)}
    missing, unknown = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    if missing or unknown:
        found = [
            f"{len(names)} tensors {words} ({names[0]!r}{', ...' if len(names) > 1 else ''})"
            for names, words in ((missing, "are missing"), (unknown, "are unknown to it"))
            if names
        ]
        raise ConfigError(
            f"weights: {source} is not of model {model!r}: {' and '.join(found)}; give this model's "
            "weights, or the model of these"
        )
    for name, tensor in given.items():
        if tensor.shape != own[name].shape:
            raise ConfigError(
                f"weights: {source} is not of model {model!r}: {name!r} has the shape "
                f"{tuple(tensor.shape)}, expected {tuple(own[name].shape)}; give this model's weights, or "
                "the image size that they are for"
            )
    net.load_state_dict(given, strict=False)


def tensor_bytes(tensor: Tensor) -> bytes:
    """The bytes of a tensor's numbers, in order."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def names_a_file(weights: str) -> bool:
    """Whether a config's ``weights`` are a file; else they are a hub's tag."""
    path = Path(weights).expanduser()
    return path.suffix in SUFFIXES or len(path.parts) > 1 or path.is_file()


def _standard(model: str, tag: str) -> ImageStandard | None:
    if model.startswith(TIMM):
        return timm_standard(model, tag)
    return torchvision_standard(model, tag) if is_torchvision(model) else None


def _hub_file(model: str, tag: str) -> tuple[Path, str, str]:
    if model.startswith(TIMM):
        return timm_hub_file(model, tag)
    if is_torchvision(model):
        return torchvision_hub_file(model, tag)
    raise ConfigError(
        f"weights: {tag!r} is no file, and model {model!r} has no hub; give the path of a file "
        f"({', '.join(SUFFIXES)})"
    )


def _usual_licence(model: str) -> str:
    # Whose weights a file holds is not known if it does not say so.
    usual = licence_name(timm_licence(model)) if model.startswith(TIMM) else UNKNOWN
    if usual == UNKNOWN:
        return UNKNOWN
    return f"{UNKNOWN} by the file ({usual} for timm's own weights of this model)"
