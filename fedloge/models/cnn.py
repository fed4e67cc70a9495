"""A small convolutional network that a laptop trains in seconds."""

from __future__ import annotations

from torch import Tensor, nn

from fedloge.models.backbone import Backbone


class Cnn(Backbone):
    """Three 3x3 convolutions of 16, 32 and 128 channels, averaged over the image.

    The second and the third halve the image, so that 8x8 digits end in a map of 2x2 and
    32x32 colour images in one of 8x8.
    """

    out_features = 128

    def __init__(self, channels_in: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_block(channels_in, 16, stride=1),
            *_block(16, 32, stride=2),
            *_block(32, self.out_features, stride=2),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(images, channels, height, width) to (images, 128)."""
        return self.layers(images).mean(dim=(2, 3))


def _block(channels_in: int, channels: int, stride: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return conv, nn.BatchNorm2d(channels), nn.ReLU()
