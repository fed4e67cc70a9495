"""ResNet for small images (He et al. 2016, section 4.2 and, for resnet18 and 34, table 1).

The stem is one 3x3 convolution of stride 1 without max-pooling, as is usual for CIFAR. The
shortcut of a block that changes the shape is a 1x1 convolution. Convolutions are initialised as
torch does it, like the networks of FedLoGe's authors. Before batch norm the scale of a weight does
not change the output, but the effective step shrinks with its square, and in the usual alternative
(He et al. 2015, fan-out) that square starts six times as large.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fedloge.models.backbone import Backbone


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(images, channels_in, height, width) to (images, channels, height / stride, width / stride)."""
        # In place, since neither the norm nor the sum is read again: the same bits, a few per cent faster.
        h = F.relu_(self.norm1(self.conv1(x)))
        return F.relu_(self.norm2(self.conv2(h)).add_(self.shortcut(x)))


class CifarResNet(Backbone):
    """From images to non-negative features: the average over the map of the last stage.

    Parameters
    ----------
    channels_in : channels of an image.
    widths : channels of each stage; every stage after the first halves the image.
    blocks : number of basic blocks in each stage.
    """

    def __init__(self, channels_in: int, widths: tuple[int, ...], blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels_in, widths[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
        )
        stages: list[nn.Module] = []
        previous = widths[0]
        for stage, (width, depth) in enumerate(zip(widths, blocks, strict=True)):
            strides = [1 if stage == 0 else 2] + [1] * (depth - 1)
            layers = [
                BasicBlock(previous if i == 0 else width, width, s) for i, s in enumerate(strides)
            ]
            stages.append(nn.Sequential(*layers))
            previous = width
        self.stages = nn.Sequential(*stages)
        self.out_features = previous

    def forward(self, images: Tensor) -> Tensor:
        """(images, channels, height, width) to (images, features)."""
        return self.stages(self.stem(images)).mean(dim=(2, 3))
