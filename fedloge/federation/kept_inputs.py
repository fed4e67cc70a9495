"""A data set whose inputs are what a frozen network makes of images: vectors, or maps of features.

A federation over them is like any other; only nobody computes the frozen part again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from fedloge.data.examples import DataSet, Examples, Preparation
from fedloge.errors import ConfigError
from fedloge.models import Keeper


@dataclass(frozen=True)
class KeptPreparation:
    """The preparation of kept outputs, (examples, views, ...): in training one view, chosen at random."""

    def augment(self, inputs: Tensor, generator: np.random.Generator) -> Tensor:
        """The views of each example, with a random one in front."""
        if inputs.shape[1] == 1:
            return inputs
        mirrored = torch.from_numpy(generator.random(len(inputs)) < 0.5).to(inputs.device)
        return torch.where(mirrored.view(-1, *[1] * (inputs.ndim - 1)), inputs.flip(1), inputs)

    def prepare(self, inputs: Shaped[Tensor, "examples views ..."]) -> Tensor:
        """The first view as float32; maps in the memory layout of training, channels last."""
        first = inputs[:, 0].float()
        return first.contiguous(memory_format=torch.channels_last) if first.ndim == 4 else first

    def described(self) -> dict[str, object]:
        """The kind of preparation, which has no parameters."""
        return {"kind": "kept"}


@dataclass(frozen=True)
class ThroughFrozen:
    """The preparation of raw inputs by what is frozen, rounded as its outputs are kept; not augmented.

    Parameters
    ----------
    before : makes the frozen network's input.
    frozen : in evaluation mode.
    """

    before: Preparation
    frozen: nn.Module

    def augment(self, inputs: Tensor, generator: np.random.Generator) -> Tensor:
        """The inputs, not varied."""
        return inputs

    @torch.no_grad()
    def prepare(self, inputs: Tensor) -> Tensor:
        """What is kept of the inputs, as float32."""
        outputs: Tensor = self.frozen(self.before.prepare(inputs))
        rounded = outputs.half()
        return rounded.float() if bool(rounded.isfinite().all()) else outputs

    def described(self) -> dict[str, object]:
        """That of the inputs; the frozen network is written beside it."""
        return self.before.described()


def kept_inputs(images: DataSet, keeper: Keeper) -> DataSet:
    """The same examples with the outputs of a frozen network in the place of their inputs."""
    if keeper.views == 2 and len(images.input_shape) != 3:
        raise ConfigError(
            f"feature-views: 2 are of an image and its mirror image, but inputs of {images.name!r} have the "
            f"shape {images.input_shape}; set feature-views=1"
        )
    train, test = (
        Examples(keeper.outputs(examples.inputs), examples.labels)
        for examples in (images.train, images.test)
    )
    return replace(images, train=train, test=test, preparation=KeptPreparation())
