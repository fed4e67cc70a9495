"""One factory for backbones: a name and an image's shape to an initialised module."""

from __future__ import annotations

from typing import Literal

from fedloge.errors import ConfigError, unknown_name
from fedloge.models.backbone import Backbone
from fedloge.models.cnn import Cnn
from fedloge.models.norm import drop_batch_counters, use_group_norm
from fedloge.models.resnet import CifarResNet
from fedloge.models.torchvision_nets import TorchvisionBackbone, torchvision_names
from fedloge.rng import torch_seeded

# Stage widths and blocks a stage. These take precedence over torchvision's of the same name,
# which are made for 224x224 images.
_RESNETS = {
    "resnet8": ((16, 32, 64), (1, 1, 1)),
    "resnet18": ((64, 128, 256, 512), (2, 2, 2, 2)),
    "resnet34": ((64, 128, 256, 512), (3, 4, 6, 3)),
}


def build_backbone(
    name: str,
    image_shape: tuple[int, int, int],
    norm: Literal["batch", "group"] = "batch",
    *,
    seed: int,
) -> Backbone:
    """A backbone on the CPU in training mode; its ``out_features`` is d.

    Parameters
    ----------
    name : ``cnn`` (d = 128), ``resnet8`` (64), ``resnet18`` and ``resnet34`` (512, for small
        images), ``resnet50`` (2048, for large ones) or any torchvision classification model.
    image_shape : channels, height and width.
    norm : ``batch`` keeps a model's batch norm, without its counters; ``group`` replaces it.
    seed : the initial weights hang on it, the name and the shape alone.

    Raises
    ------
    ConfigError
        The name is unknown, the images do not fit, or there is no batch norm to replace.
    """
    with torch_seeded(seed, "init/backbone"):
        net = _build(name, image_shape)
    if norm == "group" and not use_group_norm(net):
        raise ConfigError(
            f"norm 'group' replaces batch norm layers, but model {name!r} has none; "
            "leave norm at 'batch'"
        )
    drop_batch_counters(net)
    return net


def _build(name: str, image_shape: tuple[int, int, int]) -> Backbone:
    if name == "cnn":
        return Cnn(image_shape[0])
    if name in _RESNETS:
        widths, blocks = _RESNETS[name]
        return CifarResNet(image_shape[0], widths, blocks)
    if name in torchvision_names():
        return TorchvisionBackbone(name, image_shape)
    raise ConfigError(unknown_name("model", name, {"cnn", *_RESNETS, *torchvision_names()}))
