"""Any classification model of torchvision as a backbone: untrained, without its classifier."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fedloge.errors import ConfigError
from fedloge.models.backbone import Backbone

# torchvision and, with it, torch's compiler take seconds to import, so they wait until one is used.


class TorchvisionBackbone(Backbone):
    """A torchvision model up to its classifier; grey images become RGB by repeating their channel.

    Raises
    ------
    ConfigError
        The images have neither 1 nor 3 channels, or the model does not take their size.
    """

    def __init__(self, name: str, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = image_shape
        if channels not in (1, 3):
            raise ConfigError(
                f"model {name!r} takes grey or RGB images, 1 or 3 channels; these have {channels}; "
                "choose cnn or one of the small ResNets"
            )
        import torchvision

        try:
            self.net = torchvision.models.get_model(
                name, weights=None, **_arguments(name, height, width)
            )
            _remove_classifier(self.net)
            _drop_index_tables(self.net)
            self.out_features = self._width(image_shape)
        except (RuntimeError, AssertionError, ValueError) as exc:
            # Models refuse an input by any of these.
            raise ConfigError(
                f"model {name!r} cannot take {height}x{width} images "
                f"({str(exc).splitlines()[0].rstrip('.')}); set image-size to what it expects, "
                "or choose cnn, resnet8, resnet18 or resnet34"
            ) from None

    def forward(self, images: Tensor) -> Tensor:
        """(images, channels, height, width) to (images, features)."""
        # Grey images are expanded to three channels; RGB images stay as they are.
        return self.net(images.expand(-1, 3, -1, -1))

    @torch.no_grad()
    def _width(self, image_shape: tuple[int, int, int]) -> int:
        self.eval()
        width = self(torch.zeros(1, *image_shape)).shape[1]
        self.train()
        return width


def torchvision_names() -> list[str]:
    """Names of torchvision's image classification models, without mnasnet.

    An mnasnet refuses a state dict without torch's own version mark, which ours lack.
    """
    import torchvision

    return torchvision.models.list_models(module=torchvision.models, exclude="mnasnet*")


def _arguments(name: str, height: int, width: int) -> dict[str, Any]:
    if name in ("googlenet", "inception_v3"):
        # With auxiliary classifiers the output in training would be a tuple.
        return {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        # The length of its position embedding is the number of patches in the image.
        return {"image_size": height}
    if name.startswith("maxvit"):
        return {"input_size": (height, width)}
    return {}


def _remove_classifier(net: nn.Module) -> None:
    # The last layer with weights, whatever its name: a Linear, or a 1x1 convolution before the
    # pooling (squeezenet).
    path = [name for name, m in net.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]
    parent, _, child = path.rpartition(".")
    setattr(net.get_submodule(parent), child, nn.Identity())


def _drop_index_tables(net: nn.Module) -> None:
    # Integer constants of windowed attention, which are neither trained nor averaged.
    for module in net.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if name == "relative_position_index":
                module.register_buffer(name, buffer, persistent=False)
