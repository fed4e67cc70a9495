"""Images as pretrained weights expect them: resized, cropped and normalised as in their own training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor
from torch.nn import functional

from fedloge.config import Config
from fedloge.data.examples import DataSet
from fedloge.data.image_preparation import Augmentation, augment, normalise
from fedloge.errors import ConfigError

_OF_ONE_SIZE = ("digits", "cifar10", "cifar100")
Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True)
class ImageStandard:
    """What weights expect of an image.

    Parameters
    ----------
    size : side in pixels of the square that the network takes.
    crop : side of the square over the shorter side of the resized image it is cut from, in (0, 1].
    squash : whether images are resized to squares, whatever their shape, before they are cut.
    interpolation : how images are resized.
    mean, std : of each of the three channels, with pixels scaled to [0, 1].
    """

    size: int
    crop: float
    interpolation: Interpolation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    squash: bool = False

    @property
    def resized(self) -> int:
        """The length of an image's shorter side before the square is cut from its middle."""
        return max(self.size, round(self.size / self.crop))

    def at(self, size: int) -> ImageStandard:
        """The same for a network that takes squares of another side; 0: no change."""
        return replace(self, size=size) if size else self

    def described(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}


@dataclass(frozen=True)
class FittedImages:
    """The preparation of uint8 images of any one shape for pretrained weights.

    Grey images become RGB. The shorter side is resized and the middle is cut out, with the
    standard's interpolation and anti-aliasing; then channels are normalised.

    Parameters
    ----------
    standard : what the weights expect.
    augmentation : used in training only, on the images as they are stored.
    """

    standard: ImageStandard
    augmentation: Augmentation

    def augment(self, inputs: Tensor, generator: np.random.Generator) -> Tensor:
        """Crop and flip, as `augmentation` says."""
        return augment(inputs, self.augmentation, generator)

    def prepare(
        self, inputs: UInt8[Tensor, "images channels height width"]
    ) -> Float32[Tensor, "images 3 size size"]:
        """Resized, cropped and normalised, in the memory layout (channels last) of training."""
        s = self.standard
        pixels = fitted(inputs, s).expand(-1, 3, -1, -1)
        return normalise(pixels, s.mean, s.std).contiguous(memory_format=torch.channels_last)

    def described(self) -> dict[str, object]:
        """The standard; augmentation belongs to training alone."""
        return {"kind": "fitted-image", **self.standard.described()}


def fitted(
    pixels: UInt8[Tensor, "images channels height width"], standard: ImageStandard
) -> UInt8[Tensor, "images channels size size"]:
    """Images of a standard's size: resized, then cut out of the middle. Their channels stay."""
    height, width = pixels.shape[2:]
    resized, size = standard.resized, standard.size
    scale = resized / min(height, width)
    shape = (round(height * scale), round(width * scale))
    if standard.squash:
        shape = (resized, resized)
    if not len(pixels):
        pixels = pixels.new_empty(0, pixels.shape[1], *shape)
    elif shape != (height, width):
        mode = standard.interpolation
        pixels = functional.interpolate(pixels, shape, mode=mode, antialias=True)
    # The middle as torchvision and timm round it.
    top, left = (round((side - size) / 2) for side in shape)
    return pixels[:, :, top : top + size, left : left + size]


def decoded_for(standard: ImageStandard, config: Config) -> Config:
    """The config by which a data set is loaded, so that its images need no second resizing.

    Image folders are decoded at the size that the square is cut from. Sources with images of one
    size keep it, and each batch is resized.
    """
    if config.dataset == "image-folder":
        resize = "squash" if standard.squash else "crop"
        if config.resize == "pad":
            resize = "pad"
        return config.replace(
            image_size=standard.resized, resize=resize, interpolation=standard.interpolation
        )
    return config.replace(image_size=0) if config.dataset in _OF_ONE_SIZE else config


def fit_images(data: DataSet, standard: ImageStandard) -> DataSet:
    """A data set of images, prepared as weights expect them; it keeps its augmentation.

    `ConfigError`: its examples are no images of one or three channels.
    """
    shape, dtype = data.input_shape, data.train.inputs.dtype
    if dtype != torch.uint8 or len(shape) != 3 or shape[0] not in (1, 3):
        raise ConfigError(
            f"preprocessing: the weights expect grey or RGB images in bytes, but inputs of {data.name!r} have "
            f"the shape {shape} and are {str(dtype).removeprefix('torch.')}; set preprocessing=data-set"
        )
    kind: Augmentation = getattr(data.preparation, "augmentation", "none")
    return replace(data, preparation=FittedImages(standard, kind))


def standard_of(described: Mapping[str, Any]) -> ImageStandard:
    """The standard that `ImageStandard.described` has described."""
    names = ("size", "crop", "interpolation", "squash")
    mean, std = tuple(described["mean"]), tuple(described["std"])
    return ImageStandard(**{name: described[name] for name in names}, mean=mean, std=std)
