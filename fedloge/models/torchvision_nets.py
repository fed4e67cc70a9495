"""Any classification model of torchvision as a backbone: untrained, its classifier taken off."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fedloge.errors import ConfigError
from fedloge.models.backbone import Backbone

# torchvision takes seconds to import, and torch's compiler with it: only who uses it pays.


class TorchvisionBackbone(Backbone):
    """A torchvision model up to its classifier; grey images are shown to it as RGB.

    Raises
    ------
    ConfigError
        The images have neither 1 nor 3 channels, or their size is none that the model takes.
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
            # The models check their input with whichever of these comes to hand.
            raise ConfigError(
                f"model {name!r} cannot take {height}x{width} images "
                f"({str(exc).splitlines()[0].rstrip('.')}); set image-size to what it expects, "
                "or choose cnn, resnet8, resnet18 or resnet34"
            ) from None

    def forward(self, images: Tensor) -> Tensor:
        """(samples, channels, height, width) to (samples, features)."""
        # expand leaves RGB images as they are.
        return self.net(images.expand(-1, 3, -1, -1))

    @torch.no_grad()
    def _width(self, image_shape: tuple[int, int, int]) -> int:
        self.eval()
        width = self(torch.zeros(1, *image_shape)).shape[1]
        self.train()
        return width


def torchvision_names() -> list[str]:
    """Names of torchvision's image classification models, all but mnasnet.

    An mnasnet loads no state that lacks torch's own version mark, as any from elsewhere does.
    """
    import torchvision

    return torchvision.models.list_models(module=torchvision.models, exclude="mnasnet*")


def _arguments(name: str, height: int, width: int) -> dict[str, Any]:
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


def _drop_index_tables(net: nn.Module) -> None:
    # Constants of windowed attention, in whole numbers: no part of what is trained or averaged.
    for module in net.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if name == "relative_position_index":
                module.register_buffer(name, buffer, persistent=False)
