"""How images are prepared: random crops and flips of a whole batch at once, and normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor
from torch.nn import functional

Augmentation = Literal["crop-flip", "crop", "none"]


@dataclass(frozen=True)
class ImagePreparation:
    """The preparation of uint8 images, (images, channels, height, width).

    Parameters
    ----------
    mean, std : of each channel, with pixels scaled to [0, 1].
    augmentation : used in training only (see `augment`).
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation

    def augment(self, inputs: Tensor, generator: np.random.Generator) -> Tensor:
        """Crop and flip, as `augmentation` says."""
        return augment(inputs, self.augmentation, generator)

    def prepare(self, inputs: Tensor) -> Tensor:
        """Normalised float32, in the memory layout (channels last) of training and evaluation."""
        # Convolutions may round differently in another layout.
        return normalise(inputs, self.mean, self.std).contiguous(memory_format=torch.channels_last)

    def described(self) -> dict[str, object]:
        """Mean and standard deviation; augmentation belongs to training alone."""
        return {"kind": "image", "mean": list(self.mean), "std": list(self.std)}


def crop_padding(height: int, width: int) -> int:
    """Width in pixels of the zeros around an image before it is cropped: 4, or 1 below 16 pixels."""
    return 4 if min(height, width) >= 16 else 1


def augment(
    pixels: UInt8[Tensor, "images channels height width"],
    kind: Augmentation,
    generator: np.random.Generator,
) -> UInt8[Tensor, "images channels height width"]:
    """Augment a batch, on the device it is on.

    Parameters
    ----------
    pixels : 0..255; not changed.
    kind : ``crop`` pads with zeros (`crop_padding`) and crops to the old size at random;
        ``crop-flip`` also mirrors left to right with probability 1/2; ``none`` changes nothing.
    generator : on the CPU, so that the draws are the same for every device: two integers
        per image for the crops, then one float per image for the flips.
    """
    if kind == "none":
        return pixels
    n, channels, height, width = pixels.shape
    padding = crop_padding(height, width)
    offsets = generator.integers(0, 2 * padding + 1, size=(n, 2))
    rows = offsets[:, :1] + np.arange(height)
    columns = offsets[:, 1:] + np.arange(width)
    if kind == "crop-flip":
        flipped = generator.random(n) < 0.5
        columns[flipped] = columns[flipped, ::-1]
    stride = width + 2 * padding
    source = torch.from_numpy(rows[:, :, None] * stride + columns[:, None, :]).to(pixels.device)
    padded = functional.pad(pixels, (padding,) * 4).flatten(2)
    picked = padded.gather(2, source.flatten(1)[:, None].expand(-1, channels, -1))
    return picked.view(n, channels, height, width)


def normalise(
    pixels: UInt8[Tensor, "images channels height width"],
    mean: Sequence[float],
    std: Sequence[float],
) -> Float32[Tensor, "images channels height width"]:
    """(pixels / 255 - mean) / std, channel by channel, in float32."""
    scale = [1 / (255 * s) for s in std]
    shift = [-m / s for m, s in zip(mean, std, strict=True)]
    per_channel = torch.tensor([scale, shift], device=pixels.device).view(2, -1, 1, 1)
    return pixels.to(torch.float32).mul_(per_channel[0]).add_(per_channel[1])


def channel_statistics(
    pixels: UInt8[np.ndarray, "images channels height width"],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, with pixels scaled to [0, 1].

    Computed from integer histograms, so that no order of summation matters. A constant
    channel gets the deviation 1, which can be divided by.
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
        # Exact integers until the one division, so nothing cancels.
        std.append((count * squares - total**2) ** 0.5 / count / 255 or 1.0)
    return tuple(mean), tuple(std)
