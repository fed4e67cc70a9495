"""What every backbone is, and what those of the large libraries have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from fedloge.errors import ConfigError


class Backbone(nn.Module):
    """A module that turns inputs into features: (examples, ...) to (examples, d), float."""

    out_features: int
    """d, the number of features."""

    feature_length: float | None = None
    """The mean length of the features before training, where it is known."""

    def fixed_tensors(self) -> set[str]:
        """Names of those tensors of the state dict that are neither trained nor averaged."""
        return set()

    def load_target(self) -> nn.Module:
        """The module whose state dict a file of weights holds."""
        return self

    def own_tensors(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those tensors of a file of weights that are features', not a classifier's."""
        return dict(state)


class ImageBackbone(Backbone):
    """A library's network for RGB images, without its classifier; grey images repeat their channel.

    Raises
    ------
    ConfigError
        The images have neither 1 nor 3 channels.
    """

    net: nn.Module

    def __init__(self, name: str, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        if image_shape[0] not in (1, 3):
            raise ConfigError(
                f"model {name!r} takes grey or RGB images, 1 or 3 channels; these have {image_shape[0]}; "
                "choose cnn or one of the small ResNets"
            )
        self._name, self._shape = name, image_shape

    def forward(self, images: Tensor) -> Tensor:
        """(images, channels, height, width) to (images, features)."""
        # Grey images are expanded to three channels; RGB images stay as they are.
        features: Tensor = self.net(images.expand(-1, 3, -1, -1))
        return features

    def load_target(self) -> nn.Module:
        """The library's network."""
        return self.net

    @contextlib.contextmanager
    def refusing_sizes(self) -> Iterator[None]:
        """Inside, whatever the network raises means that it does not take the images."""
        try:
            yield
        except (RuntimeError, AssertionError, ValueError, TypeError) as exc:
            # Models refuse an input by any of these.
            _, height, width = self._shape
            raise ConfigError(
                f"model {self._name!r} cannot take {height}x{width} images "
                f"({str(exc).splitlines()[0].rstrip('.')}); set image-size to what it expects, "
                "or choose cnn, resnet8, resnet18 or resnet34"
            ) from None

    @torch.no_grad()
    def measure(self) -> None:
        """Find out ``out_features`` by a forward pass; drop integer tables, which cannot be averaged."""
        drop_index_tables(self.net)
        self.eval()
        self.out_features = self(torch.zeros(1, *self._shape)).shape[1]
        self.train()


def drop_index_tables(net: nn.Module) -> None:
    """Take integer constants, such as those of windowed attention, out of a network's state dict."""
    for module in net.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if not buffer.is_floating_point() and name != "num_batches_tracked":
                module.register_buffer(name, buffer, persistent=False)
