"""Images as they are kept: 8-bit tensors and labels, with what a data set says about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

Augmentation = Literal["crop-flip", "crop", "none"]


@dataclass(frozen=True)
class Images:
    """Pixels and labels of one set of images.

    Parameters
    ----------
    pixels : (images, channels, height, width), uint8, 0..255.
    labels : (images,), int64, 0..classes-1.
    """

    pixels: UInt8[Tensor, "images channels height width"]
    labels: Int64[Tensor, " images"]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.integer] | Int64[Tensor, " chosen"]) -> Images:
        """A copy of the chosen images, in the order of `indices`; repeats are allowed."""
        chosen = torch.as_tensor(indices, dtype=torch.int64, device=self.labels.device)
        return Images(self.pixels[chosen], self.labels[chosen])

    def to(self, device: torch.device) -> Images:
        """The same images on a device."""
        return Images(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True)
class DataSet:
    """A training and a test set over the same classes.

    Parameters
    ----------
    name : what it is called in messages and records.
    train, test : the images; of one shape in both.
    classes : class names; a label is a position in it.
    mean, std : of each channel over the training pixels, in units of [0, 1] pixels.
    augment : the training augmentation to use (`fedloge.data.augment`).
    """

    name: str
    train: Images
    test: Images
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augmentation

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self.train.pixels.shape[1:]
        return channels, height, width


def channel_statistics(
    pixels: UInt8[np.ndarray, "images channels height width"],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, in units of [0, 1] pixels.

    From integer histograms, so that they do not hang on the order of a sum. A
    channel of one value gets the deviation 1: it can be divided by.
    """
    values = np.arange(256, dtype=np.int64)
    step = 1 + (1 << 22) // (pixels.shape[2] * pixels.shape[3])
    mean, std = [], []
    for channel in range(pixels.shape[1]):
        histogram = np.zeros(256, dtype=np.int64)
        for start in range(0, len(pixels), step):
            histogram += np.bincount(pixels[start : start + step, channel].ravel(), minlength=256)
        count, total = int(histogram.sum()), int(histogram @ values)
        squares = int(histogram @ values**2)
        mean.append(total / count / 255)
        # An exact integer until the one division: no cancellation.
        std.append((count * squares - total**2) ** 0.5 / count / 255 or 1.0)
    return tuple(mean), tuple(std)
