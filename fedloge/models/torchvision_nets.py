"""Any classification model of torchvision as a backbone: untrained, its classifier taken off."""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from fedloge.errors import ConfigError


class TorchvisionBackbone(nn.Module):
    """A torchvision model up to its classifier; grey images are shown to it as RGB.

    Raises
    ------
    ConfigError
        The images have neither 1 nor 3 channels, or are too small for the model.
    """

    def __init__(self, name: str, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = image_shape
        if channels not in (1, 3):
            raise ConfigError(
                f"model {name!r} takes grey or RGB images, 1 or 3 channels; these have {channels}; "
                "choose cnn or one of the small ResNets"
            )
        self.net = torchvision.models.get_model(name, weights=None, **_arguments(name, image_shape))
        _remove_classifier(self.net)
        self.out_features = self._probe(name, (channels, height, width))

    def forward(self, images: Tensor) -> Tensor:
        """(samples, channels, height, width) to (samples, features)."""
        # expand leaves RGB images as they are.
        return self.net(images.expand(-1, 3, -1, -1))

    @torch.no_grad()
    def _probe(self, name: str, image_shape: tuple[int, int, int]) -> int:
        self.eval()
        try:
            features = self(torch.zeros(1, *image_shape))
        except (RuntimeError, AssertionError, ValueError) as exc:
            size = f"{image_shape[1]}x{image_shape[2]}"
            raise ConfigError(
                f"model {name!r} cannot take {size} images ({str(exc).splitlines()[0]}); "
                "set image-size to what it expects, or choose cnn, resnet8, resnet18 or resnet34"
            ) from None
        self.train()
        return features.shape[1]


def torchvision_names() -> list[str]:
    """Names of torchvision's image classification models."""
    return torchvision.models.list_models(module=torchvision.models)


def _arguments(name: str, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    _, height, width = image_shape
    if name in ("googlenet", "inception_v3"):
        # Auxiliary classifiers would make the output in training a tuple.
        return {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        # Its position embedding is as long as the image has patches.
        return {"image_size": height}
    if name.startswith("maxvit"):
        return {"input_size": (height, width)}
    return {}


def _remove_classifier(net: nn.Module) -> None:
    # The last layer with weights, whatever it is called: a Linear, or a 1x1 convolution before
    # the pooling (squeezenet).
    path = [name for name, m in net.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]
    parent, _, child = path.rpartition(".")
    setattr(net.get_submodule(parent), child, nn.Identity())
