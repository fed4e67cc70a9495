"""One factory for backbones: from a name and the shape of an input to an initialised module."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal

from torch import Tensor

from fedloge.errors import ConfigError, PluginError, unknown_name
from fedloge.models.backbone import Backbone
from fedloge.models.cnn import Cnn
from fedloge.models.norm import drop_batch_counters, use_group_norm
from fedloge.models.pretrained import Pretrained, load_strictly
from fedloge.models.resnet import CifarResNet
from fedloge.models.timm_nets import PREFIX as TIMM
from fedloge.models.timm_nets import TimmBackbone
from fedloge.models.token_nets import TOKEN_NETS, token_net
from fedloge.models.torchvision_nets import (
    TorchvisionBackbone,
    is_torchvision,
    torchvision_names,
)
from fedloge.options import checked_options, keyword_options
from fedloge.plugins import load_plugin, names_a_plugin
from fedloge.rng import torch_seeded

log = logging.getLogger(__name__)

# Widths of the stages, blocks per stage. These replace torchvision's models of the same name,
# which are made for images of 224x224 and are called torchvision/NAME.
_RESNETS = {
    "resnet8": ((16, 32, 64), (1, 1, 1)),
    "resnet18": ((64, 128, 256, 512), (2, 2, 2, 2)),
    "resnet34": ((64, 128, 256, 512), (3, 4, 6, 3)),
}


# The shorter side in pixels from which a network for small images is wasteful.
_LARGE = 96
_IMAGES = "images (channels, height, width)"


class IdentityBackbone(Backbone):
    """No network: the inputs are features already, (examples, d)."""

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.out_features = out_features

    def forward(self, features: Tensor) -> Tensor:
        """The features as they are."""
        return features


def build_backbone(
    name: str,
    input_shape: tuple[int, ...],
    norm: Literal["batch", "group"] = "batch",
    options: Mapping[str, Any] | None = None,
    *,
    seed: int,
    weights: Pretrained | None = None,
) -> Backbone:
    """A backbone on the CPU in training mode; its ``out_features`` is d.

    Parameters
    ----------
    name : ``cnn`` (d = 128), ``resnet8`` (64), ``resnet18`` and ``resnet34`` (512, for small
        images), ``torchvision/NAME`` for any classification model of torchvision and ``timm/NAME``
        for any of timm (both for large images), ``identity`` for inputs that are features already,
        ``transformer`` and ``embedding-mlp`` (for token ids, with options), or a class of the user's
        own by entry point, ``package.module:Class`` or ``path/to/file.py:Class``, made with the
        input shape and its options.
    input_shape : shape of one input; (channels, height, width) for an image.
    norm : ``batch`` keeps a model's batch norm, without its counters; ``group`` replaces it by
        group norm.
    options : the model's own options, which are the keyword-only parameters of its class.
    seed : >= 0. The initial weights depend on it, the name, the shape and the options alone.
    weights : take the place of the initial weights; their classifier is left out.

    Raises
    ------
    ConfigError
        The name or an option is unknown, the inputs do not fit, there is no batch norm to
        replace, or the weights are another model's.
    PluginError
        A model of the user's own cannot be imported, or is no backbone.
    """
    with torch_seeded(seed, "init/backbone"):
        net = _build(name, input_shape, options or {})
    if weights is not None:
        if norm == "group":
            raise ConfigError(
                "norm: 'group' would throw away the batch norm that the weights were trained with; "
                "leave norm at 'batch'"
            )
        target, own = net.load_target(), net.own_tensors(weights.state)
        load_strictly(target, own, name, weights.source)
    if norm == "group" and not use_group_norm(net):
        raise ConfigError(
            f"norm 'group' replaces batch norm layers, but model {name!r} has none; "
            "leave norm at 'batch'"
        )
    drop_batch_counters(net)
    return net


@cache
def warn_of_small_stem(name: str, input_shape: tuple[int, ...]) -> None:
    """Warn, once, of a network for small images that is given large ones: it computes at full resolution."""
    if name in _RESNETS and min(input_shape[1:]) >= _LARGE:
        size = "x".join(map(str, input_shape[1:]))
        other = f"model=torchvision/{name}" if name != "resnet8" else "model=torchvision/resnet18"
        log.warning(
            "model %s is for small images: its stem keeps %s pixels, where an ImageNet network computes on a "
            "sixteenth of them, about 14 times faster; try %s",
            name,
            size,
            other,
        )


def _build(name: str, input_shape: tuple[int, ...], options: Mapping[str, Any]) -> Backbone:
    if names_a_plugin(name, "fedloge.models"):
        return _plugin(name, input_shape, options)
    if name in TOKEN_NETS:
        return token_net(name, input_shape, options)
    make = _builtin(name)
    if options:
        raise ConfigError(
            f"model-options: model {name!r} has none, got {min(options)!r}; leave it out"
        )
    if len(input_shape) != (1 if name == "identity" else 3):
        raise ConfigError(
            f"model {name!r} takes {'features (d,)' if name == 'identity' else _IMAGES}, but inputs have "
            f"the shape {input_shape}; give a model of your own for them"
        )
    return make(input_shape)


def _builtin(name: str) -> Callable[[tuple[int, ...]], Backbone]:
    if name == "cnn":
        return lambda shape: Cnn(shape[0])
    if name in _RESNETS:
        widths, blocks = _RESNETS[name]
        return lambda shape: CifarResNet(shape[0], widths, blocks)
    if name == "identity":
        return lambda shape: IdentityBackbone(shape[0])
    if name.startswith(TIMM):
        return lambda shape: TimmBackbone(name, (shape[0], shape[1], shape[2]))
    if is_torchvision(name):
        return lambda shape: TorchvisionBackbone(name, (shape[0], shape[1], shape[2]))
    raise ConfigError(
        unknown_name(
            "model", name, {"cnn", "identity", *_RESNETS, *TOKEN_NETS, *torchvision_names()}
        )
    )


def _plugin(name: str, input_shape: tuple[int, ...], options: Mapping[str, Any]) -> Backbone:
    found = load_plugin(name, "fedloge.models", {}, "model")
    if not inspect.isclass(found):
        raise PluginError(f"model {name!r}: expected a class, got {found!r}")
    kind = keyword_options(found)
    checked = checked_options(kind, options, f"model-options of {name!r}")
    net: object = found(input_shape, **dict(checked))  # type: ignore[call-arg]
    if not isinstance(net, Backbone) or not isinstance(getattr(net, "out_features", None), int):
        raise PluginError(
            f"model {name!r}: expected a fedloge.models.Backbone with out_features, got "
            f"{type(net).__name__}"
        )
    return net
